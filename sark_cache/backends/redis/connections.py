"""A link for each event loop.

The connections of an asyncio client belong to the loop that made them, and a forked child has no
use for its parent's. So a cache made from a URL has a client in each loop; one that was given a
client can be asked from one loop alone, and misses in any other.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from logging import getLogger
from typing import Any, Final

from sark_cache._core.redis_urls import connect
from sark_cache.backends._shared.revocations import background_loop
from sark_cache.backends.redis.connection import GuardedConnection, check_client
from sark_cache.backends.redis.examination import examine
from sark_cache.backends.redis.permissions import Findings

logger: Final = getLogger("sark_cache")

ANOTHER_LOOPS = (
    "the client that the cache was given belongs to the event loop and process that used it "
    "first; give the cache a URL to use it from several"
)


class ConnectionPerLoop:
    """The links of one cache: made from a URL where they are first used, or over a given client."""

    def __init__(
        self,
        servers: Any,  # noqa: ANN401 - a URL, or a client of redis-py or of valkey-py
        connect_timeout: float,
        command_timeout: float,
        report: Callable[[str, str], None],
        *,
        log: str,
        replicas: int | None = None,
    ) -> None:
        if isinstance(servers, str):
            connect(servers, connect_timeout, command_timeout)  # a wrong one is to fail now
        else:
            check_client(servers)
        self._servers = servers
        self._connect_timeout = connect_timeout
        self._command_timeout = command_timeout
        self._report = report
        self._log = log
        self._replicas = replicas
        self._has_warned = False
        self._process = os.getpid()
        self._by_loop: dict[asyncio.AbstractEventLoop, GuardedConnection] = {}

    def current(self) -> GuardedConnection:
        """The link of the running event loop."""
        event_loop = asyncio.get_running_loop()
        connection = self._by_loop.get(event_loop)
        if connection is None or self._process != os.getpid():
            connection = self._create(event_loop)
        return connection

    @property
    def has_open_circuit(self) -> bool:
        """Whether any event loop of this process does not ask a server because it failed."""
        return self._process == os.getpid() and any(
            connection.has_open_circuit for connection in tuple(self._by_loop.values())
        )

    async def drop_idle(self) -> None:
        """Drops the connections of this event loop that nobody uses just now, if it can."""
        connection = self._by_loop.get(asyncio.get_running_loop())
        if connection is not None and self._process == os.getpid():
            with suppress(Exception):
                await connection.drop_idle_connections()

    def loop_for_threads(self) -> asyncio.AbstractEventLoop | None:
        """The event loop to use from a thread that has none; None: a given client has none either.

        A cache that was made from a URL has connections in any event loop.
        """
        if isinstance(self._servers, str):
            return background_loop()
        running = [one for one in tuple(self._by_loop) if one.is_running()]
        return running[0] if running and self._process == os.getpid() else None

    async def close(self) -> None:
        """Closes every link in its own event loop, unless that is closed itself."""
        running = asyncio.get_running_loop()
        by_loop, self._by_loop = self._by_loop, {}
        own = by_loop.pop(running, None)
        for event_loop, connection in by_loop.items():
            if event_loop.is_running():
                with suppress(RuntimeError):  # it was closed just now
                    asyncio.run_coroutine_threadsafe(connection.close(), event_loop)
        if own is not None:
            await own.close()

    def _create(self, event_loop: asyncio.AbstractEventLoop) -> GuardedConnection:
        inherited = self._process != os.getpid() and bool(self._by_loop)
        if self._process != os.getpid():
            self._process, self._by_loop = os.getpid(), {}
        for other in [one for one in tuple(self._by_loop) if one.is_closed()]:
            self._by_loop.pop(other, None)
        client, close, unusable_reason = self._servers, _leave_open, None
        if isinstance(client, str):
            client, close = connect(client, self._connect_timeout, self._command_timeout)
        elif self._by_loop or inherited:
            unusable_reason = ANOTHER_LOOPS
        connection = GuardedConnection(
            client,
            close,
            self._command_timeout,
            self._report,
            unusable_reason,
            log=self._log,
            examine=examine,
            on_findings=self._warn,
            replicas=self._replicas,
        )
        self._by_loop[event_loop] = connection
        return connection

    def _warn(self, findings: Findings) -> None:
        """Says once what is not guaranteed because of what the server refuses."""
        if self._has_warned or self._replicas is not None or not findings.uncounted:
            return
        self._has_warned = True
        logger.warning(
            "redis cache: the server refuses %s, so its replicas cannot be counted: a revocation "
            "is confirmed by the primary alone, and a failover may undo it. Set "
            "SARK_CACHE_REDIS_REPLICAS to the number of replicas that must confirm it (0: there "
            "are none)",
            findings.uncounted,
        )


def _leave_open() -> Awaitable[None]:
    """A client that was given is its giver's to close."""
    return asyncio.sleep(0)
