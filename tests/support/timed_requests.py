"""Requests that are timed while servers fail."""

import asyncio
import contextlib
import itertools

import pytest

from sark_cache.backends.redis import PolicyCache
from servers import Cluster

ALLOW = {"allow": True, "reason": "owner"}
COMMAND_SECONDS = 0.25
PATIENT_SECONDS = 1.0
"""The time-out for requests that must not fail on a busy machine while the servers are well."""
SPARE_SECONDS = 0.05
BEAT_SECONDS = 0.01
RECOVERY_BEATS = 200
"""2 s on an idle event loop. A busy machine gives the loop fewer turns, and so fewer beats."""
RECOVERY_LIMIT_SECONDS = 20
"""The limit on any machine. A cache that blocks the event loop also delays the beats."""


async def load():
    return dict(ALLOW)


class Watch:
    """The longest request, and the largest delay of this event loop that requests did not cause."""

    def __init__(self):
        self.command_seconds = COMMAND_SECONDS
        self.longest = 0.0
        self.lateness = 0.0
        self.beats = 0
        self.requests = 0

    async def beat(self):
        """Counts sleeps of 10 ms, and measures how much longer each one takes, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            await asyncio.sleep(BEAT_SECONDS)
            self.beats += 1
            self.lateness = max(self.lateness, clock() - began - BEAT_SECONDS)

    async def timed(self, request):
        clock = asyncio.get_running_loop().time
        began = clock()
        answer = await request
        self.longest = max(self.longest, clock() - began)
        self.requests += 1
        return answer

    async def ask(self, cache, user="alice"):
        """Sends one request of each kind; none may raise."""
        row = (user, "read", "doc")
        assert await self.timed(cache.get(*row)) in (None, ALLOW)
        assert await self.timed(cache.get_or_load(*row, load)) == ALLOW
        assert await self.timed(cache.set(*row, ALLOW)) in (True, False)
        assert await self.timed(cache.get_batch([row, (user, "write", "doc")])) != []
        assert await self.timed(cache.set_batch([(*row, ALLOW), (user, "write", "doc", ALLOW)])) < 3

    async def ask_until(self, done, cache):
        """Sends requests for one user after the other until `done` is set."""
        for number in itertools.count():
            await self.ask(cache, f"user-{number % 50}")
            await asyncio.sleep(0)
            if done.is_set():
                return

    def assert_in_time(self):
        """Asserts that no request took longer than a command may, plus 50 ms, plus the loop's
        delay."""
        assert self.requests > 0
        assert self.longest <= self.command_seconds + SPARE_SECONDS + self.lateness


@pytest.fixture
async def watch():
    watch = Watch()
    heart = asyncio.create_task(watch.beat())
    yield watch
    heart.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await heart


@pytest.fixture
def own_cluster():
    """Starts clusters for this test alone."""
    with contextlib.ExitStack() as clusters:

        def start(**options):
            return clusters.enter_context(Cluster(**options))

        yield start


@pytest.fixture
async def open_cache():
    """Makes caches with the usual time-outs, and closes them."""
    async with contextlib.AsyncExitStack() as caches:

        async def new(url, **timeouts):
            return await caches.enter_async_context(PolicyCache.from_url(url, **timeouts))

        yield new


@pytest.fixture
async def open_patiently(open_cache, watch):
    """Makes caches with longer time-outs that have reached their servers."""
    watch.command_seconds = PATIENT_SECONDS

    async def new(url):
        cache = await open_cache(url, connect_timeout=0.5, command_timeout=PATIENT_SECONDS)
        while not await cache.health_check():
            await asyncio.sleep(0.01)
        return cache

    return new


async def serves(cache, *row):
    """Waits until a decision can be stored and is served again."""
    row = row or ("probe", "read", "doc")
    while not (await cache.set(*row, ALLOW) and await cache.get(*row) == ALLOW):
        await asyncio.sleep(BEAT_SECONDS)


@pytest.fixture
def recovered(watch):
    """Waits until a cache serves again, which must take no longer than 200 beats."""

    async def recovered(cache, *row):
        last = watch.beats + RECOVERY_BEATS
        serving = asyncio.create_task(serves(cache, *row))
        try:
            async with asyncio.timeout(RECOVERY_LIMIT_SECONDS):
                while not serving.done():
                    assert watch.beats <= last, "the cache does not serve again"
                    await asyncio.sleep(BEAT_SECONDS)
            await serving
        finally:
            serving.cancel()

    return recovered
