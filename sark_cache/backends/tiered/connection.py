"""A connection to the primary of the log, for one thread that waits.

It is one raw connection of a client, taken out of the client's pool. The client knows how to reach
the primary: the one server, the primary that Sentinel names, or the node of a cluster that has the
log. Nothing is sent twice, and no reply answers another command: after any error the connection is
closed, and the next one asks again for the primary.
"""

import math
import socket
import time
from contextlib import suppress
from typing import Any, Final

from sark_cache._core.blocking_clients import Connect
from sark_cache._core.errors import UNREADABLE, UnavailableError
from sark_cache.backends.redis.connection import RedisCommand
from sark_cache.backends.redis.replies import MISSHAPEN
from sark_cache.backends.tiered.failover import longest_span

_LATE: Final = "no answer in time"


class LogConnection:
    """One connection to the primary of the log. Only one thread may use it.

    Args:
        connect: Creates a client.
        key: The key of the log.
        command_timeout: The maximum time until all replies of a request have arrived, in seconds.
        trusts_server: If True, no failover is taken to be faster than leases end.

    Raises:
        Exception: The client cannot connect.
    """

    def __init__(
        self, connect: Connect, key: str, command_timeout: float, *, trusts_server: bool = False
    ) -> None:
        self._command_timeout: Final = command_timeout
        self._skipped = 0
        """The number of the next replies that nobody waits for."""
        self._wakes_at = 1
        """The number of bytes at which a selector reports the connection."""
        self._trusts_server: Final = trusts_server
        self._client: Any = connect()
        try:
            self._raw: Any = _take_out(self._client, key)
        except BaseException:
            _close_client(self._client)
            raise

    def ask(self, *commands: RedisCommand) -> list[object]:
        """Sends commands and returns the replies, in one round trip.

        The server's error to a command is the reply to it.

        Raises:
            UnavailableError: The replies did not arrive in time, or cannot be read.
            Exception: The connection was lost.
        """
        deadline = time.monotonic() + self._command_timeout
        self.send(*commands)
        return [self.read(deadline - time.monotonic()) for _ in commands]

    def post(self, command: RedisCommand, *then: RedisCommand) -> None:
        """Sends a command, whose reply is skipped, even if it is an error.

        Args:
            command: The command.
            then: Commands that are sent with it, whose replies are read later.

        Raises:
            UnavailableError: The connection was closed.
            Exception: The connection was lost.
        """
        self.send(command, *then)
        self._skipped += 1

    def wake_at(self, count: int) -> None:
        """Makes a selector report the connection when so many bytes have arrived, or it was closed.

        Has no effect with TLS, on a Unix socket, and on Windows: fewer bytes are then enough.
        """
        if count != self._wakes_at:
            self._wakes_at = count
            with suppress(OSError):
                self._raw._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)  # noqa: SLF001

    def longest_span(self) -> float:
        """Returns the longest span of leases that end before a failover, in seconds.

        Raises:
            UnsafeServerError: A failover may be too fast, or its time cannot be read.
            SilentSentinelsError: No sentinel answers. The connection can still be used.
            Exception: The connection was lost, or there is no answer.
        """
        if self._trusts_server:
            return math.inf
        return longest_span(self._client, lambda command: self.ask(command)[0])

    def send(self, *commands: RedisCommand) -> None:
        """Sends commands, whose replies are read later.

        Raises:
            UnavailableError: The connection was closed.
            Exception: The connection was lost.
        """
        self._check_open()
        self._raw.send_packed_command(self._raw.pack_commands(commands), check_health=False)

    def read(self, seconds: float) -> object:
        """Returns the next reply that was not skipped. The server's error to a command is a reply.

        Raises:
            UnavailableError: The reply did not arrive in time, or cannot be read.
            Exception: The connection was lost.
        """
        if not self.has_reply(seconds):
            raise UnavailableError(_LATE)
        return self.read_arrived()

    def read_arrived(self) -> object:
        """Returns the next reply, after `has_reply` returned True.

        Raises:
            UnavailableError: The reply cannot be read.
            Exception: The connection was lost.
        """
        return self._read_one()

    def has_reply(self, seconds: float = 0.0) -> bool:
        """Returns whether bytes of the next reply have arrived. Waits for them up to `seconds`.

        Raises:
            UnavailableError: A reply that is skipped cannot be read.
            Exception: The connection was lost.
        """
        deadline = time.monotonic() + seconds
        while self._can_read(deadline):
            if not self._skipped:
                return True
            self._skip_one()
        return False

    def skip(self) -> None:
        """Waits for the replies to all commands that were posted.

        Raises:
            UnavailableError: They did not arrive in time, or cannot be read.
            Exception: The connection was lost.
        """
        deadline = time.monotonic() + self._command_timeout
        self.wake_at(1)
        while self._skipped:
            if not self._can_read(deadline):
                raise UnavailableError(_LATE)
            self._skip_one()

    def fileno(self) -> int:
        """Returns the file descriptor of the socket, for a selector."""
        return int(self._raw._sock.fileno())  # noqa: SLF001 - the clients have no other way

    def close(self) -> None:
        """Closes the connection. Raises nothing."""
        with suppress(Exception):
            self._raw.disconnect()
        _close_client(self._client)

    def _can_read(self, deadline: float) -> bool:
        self._check_open()
        return bool(self._raw.can_read(timeout=max(0.0, deadline - time.monotonic())))

    def _skip_one(self) -> None:
        self._read_one()
        self._skipped -= 1

    def _read_one(self) -> object:
        try:
            return self._raw.read_response()
        except MISSHAPEN:
            raise UnavailableError(UNREADABLE) from None
        except Exception as error:
            if _is_reply(error):
                return error
            raise

    def _check_open(self) -> None:
        if self._raw._sock is None:  # noqa: SLF001 - it would connect again, maybe elsewhere
            message = "the connection was closed"
            raise UnavailableError(message)


def _take_out(client: Any, key: str) -> Any:  # noqa: ANN401 - of either library
    """Takes a connection out of a client's pool, which keeps no reference to it."""
    if hasattr(client, "get_node_from_key"):
        node = client.get_node_from_key(key)
        get = getattr(client, "get_redis_connection", None) or client.get_valkey_connection
        pool = get(node).connection_pool
    else:
        pool = client.connection_pool
    # valkey-py requires the name of a command, and redis-py deprecates it.
    of_valkey = type(pool).__module__.startswith("valkey")
    return pool.get_connection("_") if of_valkey else pool.get_connection()


def _close_client(client: Any) -> None:  # noqa: ANN401 - of either library
    pool = getattr(client, "connection_pool", None)
    manager = getattr(pool, "sentinel_manager", None)
    parts: list[Any] = [client, pool, *getattr(manager, "sentinels", ())]
    for part in parts:
        with suppress(Exception):
            (getattr(part, "close", None) or part.disconnect)()


def _is_reply(error: Exception) -> bool:
    """Returns whether an error of the client is a server's reply to a command."""
    return any(kind.__name__ == "ResponseError" for kind in type(error).__mro__)
