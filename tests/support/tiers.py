"""Tiered caches that stand for processes: each has its own reader, and so its own lease."""

import asyncio
import itertools
from contextlib import AsyncExitStack, asynccontextmanager

from sark_cache.backends.tiered import TieredPolicyCache

PATIENT = {"connect_timeout": 10}
"""Connecting may be slow on a busy machine."""
SPAN = 0.5
"""The `max_staleness` of tests that wait for its end, in seconds."""

_numbers = itertools.count()


def tier(url, *, kind=TieredPolicyCache, **settings):
    """Returns a cache with a reader of its own: caches with other time-outs share none."""
    settings = PATIENT | {"command_timeout": 10 + next(_numbers) / 1e6} | settings
    return kind(url, **settings)


@asynccontextmanager
async def opened(*caches):
    """Confirms caches, and closes them on leaving."""
    async with AsyncExitStack() as closing:
        for cache in caches:
            await closing.enter_async_context(cache)
            assert await cache.confirm()
        yield caches


async def until(condition, seconds=20.0):
    """Waits until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


async def until_gone(cache, request, seconds=20.0, **options):
    """Waits until a cache does not serve a request any more."""
    async with asyncio.timeout(seconds):
        while await cache.get(*request, **options) is not None:
            await asyncio.sleep(0.002)
