"""The bell: a blocked XREAD on a connection of its own, which returns the news of the log.

News are acknowledged over this connection. So the acknowledgement arrives at the server that has
them, and before the next confirmation is sent.
"""

import time
from typing import Final

from sark_cache._core.errors import UnavailableError, describe
from sark_cache.backends.redis import replies
from sark_cache.backends.redis.connection import RedisCommand
from sark_cache.backends.redis.permissions import refusal
from sark_cache.backends.tiered.confirmation import LoggedItem, Position, read_news
from sark_cache.backends.tiered.connection import LogConnection

MAX_NEWS: Final = 64
"""The maximum number of items that a bell brings."""

MORE_THAN_ACKNOWLEDGEMENT: Final = 5
"""The bytes of the shortest reply to XREAD. The reply to an acknowledgement has 4.

So a thread that waits for news is not woken when its acknowledgement has arrived.
"""


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
        self._deadline = 0.0
        self.is_armed: bool = False
        """True while the reply to XREAD is outstanding."""
        self.is_refused: bool = False
        """True if the server does not permit XREAD. Then news wait for the next confirmation."""

    def arm(
        self, position: Position, seconds: float, acknowledgement: RedisCommand | None = None
    ) -> None:
        """Waits for items after a position, unless an XREAD is outstanding.

        Args:
            position: The position.
            seconds: The time to wait.
            acknowledgement: The acknowledgement of the items that have arrived. It is sent first.

        Raises:
            Exception: The connection was lost.
        """
        if self.is_armed or self.is_refused:
            return
        block = max(1, int(seconds * 1e3))
        key, after = self._log, position.id
        read = ("XREAD", "BLOCK", block, "COUNT", MAX_NEWS, "STREAMS", key, after)
        if acknowledgement is None:
            self._connection.send(read)
        else:
            self._connection.post(acknowledgement, read)
            self._connection.wake_at(MORE_THAN_ACKNOWLEDGEMENT)
        self._deadline = time.monotonic() + seconds + self._command_timeout
        self.is_armed = True

    def news(self) -> list[LoggedItem]:
        """Returns the items that have arrived. None have if its time was over: arm it again.

        Raises:
            UnavailableError: The server does not answer, or answers with another error.
            Exception: The connection was lost.
        """
        self._connection.wake_at(1)  # also for the last bytes of a reply
        if not self._connection.has_reply():
            if time.monotonic() > self._deadline:
                message = "no answer in time"
                raise UnavailableError(message)
            return []
        reply = self._connection.read_arrived()
        self.is_armed = False
        if refusal(reply) is not None:
            self.is_refused = True
            return []
        if isinstance(reply, Exception):
            raise UnavailableError(describe(reply)) from reply
        return [] if reply is None else replies.read(read_news, reply)

    def acknowledge(self, command: RedisCommand) -> None:
        """Sends an acknowledgement of the items that have arrived.

        Raises:
            Exception: The connection was lost.
        """
        self._connection.post(command)

    def wait_for_acknowledgements(self) -> None:
        """Waits until the server has every acknowledgement that was sent.

        Raises:
            UnavailableError: The server does not answer.
            Exception: The connection was lost.
        """
        self._connection.skip()

    def fileno(self) -> int:
        """Returns the file descriptor of the connection, for a selector."""
        return self._connection.fileno()
