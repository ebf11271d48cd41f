"""The connections of one cache, one for each event loop.

The connections of an asyncio client belong to the event loop that made them, and a forked child
cannot use those of its parent. A cache made from a URL therefore has a client in each event loop.
A cache made from a client works in one event loop, and misses in all others.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from logging import getLogger
from typing import Any, Final

from sark_cache._core.redis_urls import connect
from sark_cache.backends._shared.revocations import background_loop
from sark_cache.backends.redis.connection import PROBE_SECONDS, GuardedConnection, check_client
from sark_cache.backends.redis.examination import examine
from sark_cache.backends.redis.permissions import Findings
from sark_cache.backends.redis.settle import Settling

logger: Final = getLogger("sark_cache")

ANOTHER_LOOPS = (
    "the client passed to this cache belongs to the event loop and process that used it first; "
    "make the cache from a URL to use it in several"
)


class ConnectionPerLoop:
    """The guarded connections of one cache.

    A connection is made when an event loop first uses the cache.

    Args:
        servers: A URL, or a client of `redis.asyncio` or `valkey.asyncio`.
        connect_timeout: The maximum time to connect, in seconds. Used only with a URL.
        command_timeout: The maximum time of a command, in seconds.
        report: Logs a fault, given the operation and the reason.
        log: The key of the invalidation log.
        prefix: The beginning of all keys of decisions.
        replicas: The number of replicas that must confirm a revocation. None: not set.
        settling: Gets the state of the log when a connection is made. None: it is not needed.

    Raises:
        TypeError, ValueError: The URL or the client cannot be used.
    """

    def __init__(
        self,
        servers: Any,  # noqa: ANN401 - a URL, or a client of redis-py or of valkey-py
        connect_timeout: float,
        command_timeout: float,
        report: Callable[[str, str], None],
        *,
        log: str,
        prefix: str,
        replicas: int | None = None,
        settling: Callable[[], Settling] | None = None,
    ) -> None:
        if isinstance(servers, str):
            connect(servers, connect_timeout, command_timeout)  # raises if the URL is wrong
        else:
            check_client(servers)
        self._servers = servers
        self._connect_timeout = connect_timeout
        self._command_timeout = command_timeout
        self._report = report
        self._log = log
        self._prefix = prefix
        self._replicas = replicas
        self._settling = settling
        self._has_warned = False
        self._process = os.getpid()
        self._by_loop: dict[asyncio.AbstractEventLoop, GuardedConnection] = {}
        self._of_parent: Final[list[dict[asyncio.AbstractEventLoop, GuardedConnection]]] = []
        """Keeps the inherited connections open in a forked child.

        Parent and child share what epoll watches. Closing the child's copy of a socket would remove
        the parent's, which would then receive no replies.
        """

    def current(self) -> GuardedConnection:
        """Returns the connection of the running event loop, which is made at the first call."""
        event_loop = asyncio.get_running_loop()
        connection = self._by_loop.get(event_loop)
        if connection is None or self._process != os.getpid():
            connection = self._create(event_loop)
        return connection

    @property
    def address(self) -> tuple[Any, float, float]:
        """The URL or client, and the maximum times to connect and of a command, in seconds."""
        return self._servers, self._connect_timeout, self._command_timeout

    @property
    def has_open_circuit(self) -> bool:
        """True if the circuit of any server is open in any event loop of this process."""
        return self._process == os.getpid() and any(
            connection.has_open_circuit for connection in tuple(self._by_loop.values())
        )

    async def drop_idle(self) -> None:
        """Closes the idle connections of the running event loop. Ignores errors."""
        connection = self._by_loop.get(asyncio.get_running_loop())
        if connection is not None and self._process == os.getpid():
            with suppress(Exception):
                await connection.drop_idle_connections()

    def loop_for_threads(self) -> asyncio.AbstractEventLoop | None:
        """Returns the event loop to use from a thread without one.

        A cache made from a URL uses the background event loop of this package. A cache made from
        a client uses the event loop of the client. None: no event loop of the client is running.
        """
        if isinstance(self._servers, str):
            return background_loop()
        running = [one for one in tuple(self._by_loop) if one.is_running()]
        return running[0] if running and self._process == os.getpid() else None

    async def close(self) -> None:
        """Closes each connection in its own event loop, unless that loop has stopped."""
        running = asyncio.get_running_loop()
        by_loop, self._by_loop = self._by_loop, {}
        own = by_loop.pop(running, None)
        for event_loop, connection in by_loop.items():
            if event_loop.is_running():
                with suppress(RuntimeError):  # the loop was closed in between
                    asyncio.run_coroutine_threadsafe(connection.close(), event_loop)
        if own is not None:
            await own.close()

    def _create(self, event_loop: asyncio.AbstractEventLoop) -> GuardedConnection:
        inherited = self._process != os.getpid() and bool(self._by_loop)
        if self._process != os.getpid():
            self._of_parent.append(self._by_loop)
            self._process, self._by_loop = os.getpid(), {}
        for other in [one for one in tuple(self._by_loop) if one.is_closed()]:
            self._by_loop.pop(other, None)
        if isinstance(self._servers, str):
            connection = self._connect(
                self._connect_timeout, self._command_timeout, self._connect_patiently
            )
        else:
            unusable_reason = ANOTHER_LOOPS if self._by_loop or inherited else None
            connection = self._guard(
                self._servers, _leave_open, self._command_timeout, unusable_reason=unusable_reason
            )
        self._by_loop[event_loop] = connection
        return connection

    def _connect_patiently(self) -> GuardedConnection:
        """Creates the connection of one probe, whose time-outs bound no request."""
        return self._connect(
            max(self._connect_timeout, PROBE_SECONDS), max(self._command_timeout, PROBE_SECONDS)
        )

    def _connect(
        self,
        connect_timeout: float,
        command_timeout: float,
        connect_patiently: Callable[[], GuardedConnection] | None = None,
    ) -> GuardedConnection:
        client, close = connect(self._servers, connect_timeout, command_timeout)
        return self._guard(client, close, command_timeout, connect_patiently=connect_patiently)

    def _guard(
        self,
        client: Any,  # noqa: ANN401 - of redis-py or of valkey-py
        close: Callable[[], Awaitable[None]],
        command_timeout: float,
        *,
        unusable_reason: str | None = None,
        connect_patiently: Callable[[], GuardedConnection] | None = None,
    ) -> GuardedConnection:
        return GuardedConnection(
            client,
            close,
            command_timeout,
            self._report,
            unusable_reason,
            log=self._log,
            examine=self._examine,
            on_findings=self._warn,
            replicas=self._replicas,
            connect_patiently=connect_patiently,
        )

    async def _examine(self, connection: GuardedConnection) -> Findings:
        settling = None if self._settling is None else self._settling()
        return await examine(connection, self._prefix, settling)

    def _warn(self, findings: Findings) -> None:
        """Warns once if replicas cannot be counted because the server refuses a command."""
        if self._has_warned or self._replicas is not None or not findings.uncounted:
            return
        self._has_warned = True
        logger.warning(
            "redis cache: the server refuses %s, so its replicas cannot be counted: only the "
            "primary confirms a revocation, and a failover may undo it. Set "
            "SARK_CACHE_REDIS_REPLICAS to the number of replicas that must confirm it (0: there "
            "are none)",
            findings.uncounted,
        )


def _leave_open() -> Awaitable[None]:
    """Does nothing, because the caller closes a client that it passed in."""
    return asyncio.sleep(0)
