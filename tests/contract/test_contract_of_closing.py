"""Closing takes a bounded time, whatever runs in the background."""

import asyncio

ALICE = ("alice", "read", "doc")
CRITICAL = {"sensitivity": "critical"}
BOUND_SECONDS = 20


async def test_a_cache_closes_even_if_a_refresh_ignores_its_cancellation(new_cache):
    cache = await new_cache(ttl_seconds=0.5)
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def never_ends(*_):
        begun.set()
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue
        return {"allow": True}

    cache.set_revalidate_callback(never_ends)
    async with asyncio.timeout(BOUND_SECONDS):
        while not begun.is_set():
            if await cache.get(*ALICE, **CRITICAL) is None:
                await cache.set(*ALICE, {"allow": True}, ttl_seconds=0.5)
            await asyncio.sleep(0.01)
    closing = asyncio.create_task(cache.close())
    done, _ = await asyncio.wait([closing], timeout=BOUND_SECONDS)
    may_end.set()
    assert done
