"""Caches that are closed while a server is unreachable: close() always ends."""

import asyncio
import random

import pytest

from sark_cache.backends.redis import PolicyCache

# asyncio does not close the transport of a connection that is cancelled while it is made.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CLOSES = 156
AT_ONCE = 12
BOUND_SECONDS = 10


async def closed_in_time(url):
    """Returns whether a cache closes after it met the dead server, and whether its circuit was
    open."""
    cache = PolicyCache(url)
    for number in range(8):
        await cache.get(f"user-{number}", "read", "doc")
    was_open = cache.circuit_open
    await asyncio.sleep(random.uniform(0.0, 0.8))
    closing = asyncio.create_task(cache.close())
    done, _ = await asyncio.wait([closing], timeout=BOUND_SECONDS)
    return bool(done), was_open


async def test_a_cache_closes_whatever_a_dead_node_does_to_its_probe(own_cluster):
    """A probe of a cluster sends through `asyncio.wait_for`, which loses cancellations."""
    cluster = own_cluster()
    cluster.servers[0].kill()
    ended = []
    for _ in range(CLOSES // AT_ONCE):
        ended += await asyncio.gather(*(closed_in_time(cluster.url) for _ in range(AT_ONCE)))
    assert all(in_time for in_time, _ in ended)
    assert sum(was_open for _, was_open in ended) > CLOSES / 2, "most had a probe to end"
    assert [task for task in asyncio.all_tasks() if task.get_name() == "sark-cache probe"] == []


async def test_a_close_that_is_cancelled_anywhere_leaves_nothing_behind(own_redis):
    server = own_redis()
    turns, was_closing = 1, True  # before the first turn, nothing of it runs
    while was_closing:
        cache = PolicyCache(server.url, command_timeout=2)
        await asyncio.gather(*(cache.get(f"user-{number}", "read", "doc") for number in range(8)))
        closing = asyncio.create_task(cache.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        was_closing = closing.cancel()
        await asyncio.wait([closing])
        assert closing.cancelled() is was_closing
        async with asyncio.timeout(BOUND_SECONDS):
            while (
                int(server.info("clients")["connected_clients"]) > 1
            ):  # this query's own connection
                await asyncio.sleep(0.01)
        named = [task.get_name() for task in asyncio.all_tasks()]
        assert not [name for name in named if name.startswith("sark-cache")]
        turns += 1
    assert turns > 2
