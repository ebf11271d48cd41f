"""Refreshes of the Redis cache whose event loop was stopped or closed before they ended."""

import asyncio
from typing import ClassVar

import pytest

from loaders import ALLOW, DENY, REQUEST
from sark_cache import PolicyCache


class Refreshed(PolicyCache):
    """A cache in which every sensitive entry is due for a refresh."""

    STALE_THRESHOLD_RATIO: ClassVar = 1.0


@pytest.mark.parametrize("ends", ["closed", "stopped"])
def test_a_refresh_that_was_cut_off_is_begun_again(fresh_redis, ends):
    cache = Refreshed(fresh_redis.url, connect_timeout=10, command_timeout=10)
    asked = []

    async def never_ends(*request):
        asked.append(request)
        await asyncio.Event().wait()

    async def ends_at_once(*request):
        asked.append(request)
        return DENY

    async def hit(count):
        """Requests the stale entry until it was evaluated `count` times."""
        async with asyncio.timeout(10):
            while len(asked) < count:
                assert await cache.get(*REQUEST, None, "critical") == ALLOW
                await asyncio.sleep(0)

    async def without_connections():
        await cache._connections.drop_idle()  # those of a loop that does not run are never closed
        await asyncio.sleep(0.01)

    async def again():
        await hit(2)
        async with asyncio.timeout(10):
            while await cache.get(*REQUEST) != DENY:
                await asyncio.sleep(0.001)
        await cache.close()

    first = asyncio.new_event_loop()
    try:
        cache.set_revalidate_callback(never_ends)
        assert first.run_until_complete(cache.set(*REQUEST, ALLOW, sensitivity="critical"))
        first.run_until_complete(hit(1))
        # Asked for again while it is running, it is not begun again.
        assert first.run_until_complete(cache.get(*REQUEST, None, "critical")) == ALLOW
        first.run_until_complete(without_connections())
        for task in asyncio.all_tasks(first):
            task._log_destroy_pending = False  # it is abandoned on purpose
        if ends == "closed":
            first.close()
        cache.set_revalidate_callback(ends_at_once)
        asyncio.run(again())
        assert len(asked) == 2
    finally:
        first.close()
