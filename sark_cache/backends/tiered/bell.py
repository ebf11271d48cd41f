"""The bell: a blocked XREAD on a connection of its own, which returns when the log has news."""

import time
from typing import Final

from sark_cache._core.errors import UNREADABLE, UnavailableError, describe
from sark_cache.backends.redis.permissions import refusal
from sark_cache.backends.tiered.confirmation import Position
from sark_cache.backends.tiered.connection import LogConnection


class Bell:
    """Waits for news of the log. A silent bell proves nothing.

    Args:
        connection: A connection that nothing else uses.
        log: The key of the log.
        command_timeout: The time, in seconds, by which a reply may be late.
    """

    def __init__(self, connection: LogConnection, log: str, command_timeout: float) -> None:
        self._connection: Final = connection
        self._log: Final = log
        self._command_timeout: Final = command_timeout
        self._position: Position | None = None
        self._seconds = 0.0
        self._deadline = 0.0
        self.is_armed: bool = False
        """True while the reply to XREAD is outstanding."""
        self._is_refused = False
        """True if the server does not permit XREAD. Then news wait for the next confirmation."""

    def arm(self, position: Position, seconds: float) -> None:
        """Waits for items after a position for some seconds, unless an XREAD is outstanding."""
        self._position, self._seconds = position, seconds
        if self.is_armed or self._is_refused:
            return
        block = max(1, int(seconds * 1e3))
        self._connection.send(
            ("XREAD", "BLOCK", block, "COUNT", 1, "STREAMS", self._log, position.id)
        )
        self._deadline = time.monotonic() + seconds + self._command_timeout
        self.is_armed = True

    def has_rung(self) -> bool:
        """Returns whether there is news. Arms the bell again if its time was over.

        Raises:
            UnavailableError: The server does not answer, or answers with another error.
            Exception: The connection was lost.
        """
        if not self._connection.has_reply():
            if time.monotonic() > self._deadline:
                message = "no answer in time"
                raise UnavailableError(message)
            return False
        reply = self._connection.read(self._command_timeout)
        self.is_armed = False
        if refusal(reply) is not None:
            self._is_refused = True
            return False
        if isinstance(reply, Exception):
            raise UnavailableError(describe(reply)) from reply
        if reply is None:
            if self._position is not None:
                self.arm(self._position, self._seconds)
            return False
        if not isinstance(reply, list | dict):
            raise UnavailableError(UNREADABLE)
        return True

    def fileno(self) -> int:
        """Returns the file descriptor of the connection, for a selector."""
        return self._connection.fileno()
