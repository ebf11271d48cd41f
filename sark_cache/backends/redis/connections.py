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
from sark_cache.backends.redis.connection import Link, check_client
from sark_cache.backends.redis.examination import examine
from sark_cache.backends.redis.permissions import Findings

logger: Final = getLogger("sark_cache")

ANOTHER_LOOPS = (
    "the client that the cache was given belongs to the event loop and process that used it "
    "first; give the cache a URL to use it from several"
)


class Links:
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
        self._links: dict[asyncio.AbstractEventLoop, Link] = {}

    def current(self) -> Link:
        """The link of the running event loop."""
        event_loop = asyncio.get_running_loop()
        link = self._links.get(event_loop)
        if link is None or self._process != os.getpid():
            link = self._made(event_loop)
        return link

    @property
    def has_open_circuit(self) -> bool:
        """Whether any event loop of this process does not ask a server because it failed."""
        return self._process == os.getpid() and any(
            link.has_open_circuit for link in tuple(self._links.values())
        )

    async def drop_idle(self) -> None:
        """Drops the connections of this event loop that nobody uses just now, if it can."""
        link = self._links.get(asyncio.get_running_loop())
        if link is not None and self._process == os.getpid():
            with suppress(Exception):
                await link.drop_idle_connections()

    def elsewhere(self) -> asyncio.AbstractEventLoop | None:
        """The event loop to use from a thread that has none; None: a given client has none either.

        A cache that was made from a URL has connections in any event loop.
        """
        if isinstance(self._servers, str):
            return background_loop()
        running = [one for one in tuple(self._links) if one.is_running()]
        return running[0] if running and self._process == os.getpid() else None

    async def close(self) -> None:
        """Closes every link in its own event loop, unless that is closed itself."""
        running = asyncio.get_running_loop()
        links, self._links = self._links, {}
        own = links.pop(running, None)
        for event_loop, link in links.items():
            if event_loop.is_running():
                with suppress(RuntimeError):  # it was closed just now
                    asyncio.run_coroutine_threadsafe(link.close(), event_loop)
        if own is not None:
            await own.close()

    def _made(self, event_loop: asyncio.AbstractEventLoop) -> Link:
        inherited = self._process != os.getpid() and bool(self._links)
        if self._process != os.getpid():
            self._process, self._links = os.getpid(), {}
        for other in [one for one in tuple(self._links) if one.is_closed()]:
            self._links.pop(other, None)
        client, close, barred = self._servers, _leave_open, None
        if isinstance(client, str):
            client, close = connect(client, self._connect_timeout, self._command_timeout)
        elif self._links or inherited:
            barred = ANOTHER_LOOPS
        link = Link(
            client,
            close,
            self._command_timeout,
            self._report,
            barred,
            log=self._log,
            examine=examine,
            found=self._warn,
            replicas=self._replicas,
        )
        self._links[event_loop] = link
        return link

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
