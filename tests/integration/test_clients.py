"""Caches made from URLs, and their connections to a server."""

import asyncio
import threading

from sark_cache import PolicyCache


async def test_a_unix_socket_works_like_a_port(own_redis, tmp_path):
    path = tmp_path / "redis.sock"
    own_redis(unixsocket=str(path))
    async with PolicyCache.from_url(f"unix://{path}?db=1") as cache:
        assert await cache.set("alice", "read", "doc", {"allow": True})
        assert await cache.get("alice", "read", "doc") == {"allow": True}


async def test_a_cache_serves_many_event_loops_and_closes_the_connections_of_each(fresh_redis):
    cache = PolicyCache.from_url(fresh_redis.url)
    closed = threading.Event()

    async def elsewhere():
        assert await cache.get("alice", "read", "doc") == {"allow": True}
        answered.set()
        await asyncio.to_thread(closed.wait)
        await asyncio.sleep(0.1)  # the connection of this loop is closed now

    answered = threading.Event()
    assert await cache.set("alice", "read", "doc", {"allow": True})
    thread = threading.Thread(target=asyncio.run, args=[elsewhere()])
    thread.start()
    await asyncio.to_thread(answered.wait)
    assert int(fresh_redis.info("clients")["connected_clients"]) >= 3
    await cache.close()
    closed.set()
    await asyncio.to_thread(thread.join)
    async with asyncio.timeout(5):
        while (
            int(fresh_redis.info("clients")["connected_clients"]) > 1
        ):  # this query's own connection
            await asyncio.sleep(0.01)
