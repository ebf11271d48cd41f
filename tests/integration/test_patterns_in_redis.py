"""A revocation by pattern does not block the event loop, whatever the pattern and the keys are."""

import asyncio
import contextlib
import time

import pytest

from sark_cache.backends.redis import PolicyCache

ALLOW = {"allow": True}
FIELD_BYTES = 8 * 1024
KEYS = 10
HELD_SECONDS = 0.05
"""The maximum processor time between two iterations of the loop, some of it for reading keys."""


async def longest_turn():
    """Measures until cancelled the longest iteration of this event loop, in thread seconds."""
    longest, began = 0.0, time.thread_time()
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, began = max(longest, now - began), now
    return longest


@pytest.mark.parametrize(
    "pattern",
    {
        "single wildcards": "*" + "a?" * 500 + "b*",
        "classes": "*" + "[ab]" * 250 + "c*",
        "runs": "*" + "a*" * 500 + "b",
        "one long text": "*" + "a" * 1_000 + "b*",
    }.values(),
    ids=["single wildcards", "classes", "runs", "one long text"],
)
async def test_a_hostile_pattern_does_not_block_the_event_loop(fresh_redis, pattern):
    async with PolicyCache(fresh_redis.url, command_timeout=5) as cache:
        longest = "a" * (FIELD_BYTES - 2)
        rows = [(f"{number:02}{longest}", longest, longest, ALLOW) for number in range(KEYS)]
        assert await cache.set_batch(rows) == KEYS
        measuring = asyncio.create_task(longest_turn())
        await asyncio.sleep(0)
        assert await cache.invalidate_pattern(pattern) == 0
        measuring.cancel()
        assert await measuring < HELD_SECONDS
        assert await cache.invalidate_pattern("*" + "a?" * 400 + "*") == KEYS
