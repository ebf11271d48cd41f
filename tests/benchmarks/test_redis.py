"""What `PolicyCache` costs: beside the bare client on the same server, and while nobody answers.

The server is on this machine, so a round trip is all overhead and no network.
"""

import asyncio
import json

import pytest
import redis.asyncio

from sark_cache import PolicyCache, RustPolicyCache
from servers import Server

DECISION = {"allow": True, "reason": "granted by role analyst", "policy": "tools", "ttl": 60}
REQUEST = ("alice@example.com", "tool:invoke", "server:jira/search")
CONTEXT = {"ip": "10.0.0.1", "mfa": True, "hour": 12}
AWAITS = 100
BATCH = [(f"user-{number}", "read", "doc") for number in range(100)]

# Nothing here is about time-outs, and this machine may be busy.
PATIENT = {"connect_timeout": 10, "command_timeout": 10}


async def bare_client(client, _cache, _native):
    for _ in range(AWAITS):
        json.loads(await client.get("bare"))


async def hit(_client, cache, _native):
    for _ in range(AWAITS):
        assert await cache.get(*REQUEST, CONTEXT) is not None


async def miss(_client, cache, _native):
    for _ in range(AWAITS):
        await cache.get(*REQUEST)


async def overwrite(_client, cache, _native):
    for _ in range(AWAITS):
        await cache.set(*REQUEST, DECISION, CONTEXT)


async def batch_of_100(_client, cache, _native):
    await cache.get_batch(BATCH)


async def native_hit(_client, _cache, native):
    for _ in range(AWAITS):
        await native.get(*REQUEST, CONTEXT)


SUBJECTS = {
    "redis-py: await client.get(key), json.loads": bare_client,
    "PolicyCache.get(), hit with a 3-field context": hit,
    "PolicyCache.get(), miss": miss,
    "PolicyCache.set(), overwriting": overwrite,
    "PolicyCache.get_batch(), each of 100": batch_of_100,
    "RustPolicyCache.get(), hit with a 3-field context": native_hit,
}


@pytest.mark.benchmark(group="redis")
def test_redis(compare):
    """`PolicyCache` on a server of this machine, beside the bare client."""
    with Server() as server, asyncio.Runner() as loop:
        client = redis.asyncio.Redis.from_url(server.url)
        cache, native = PolicyCache.from_url(server.url, **PATIENT), RustPolicyCache()

        async def fill():
            await client.set("bare", json.dumps(DECISION))
            for one in (cache, native):
                await one.set(*REQUEST, DECISION, CONTEXT)
            await cache.set_batch([(*row, DECISION) for row in BATCH])

        loop.run(fill())
        subjects = {
            name: lambda awaits=awaits: loop.run(awaits(client, cache, native))
            for name, awaits in SUBJECTS.items()
        }
        compare(subjects, rounds=50, per_call=AWAITS)
        assert cache.metrics.errors == 0
        loop.run(cache.close())
        loop.run(client.aclose())


@pytest.mark.benchmark(group="redis")
def test_nobody_answers(compare):
    """A request whose circuit is open costs no round trip."""
    with asyncio.Runner() as loop:
        native = RustPolicyCache()
        cache = PolicyCache.from_url("redis://127.0.0.1:1/0")

        async def misses(of):
            for _ in range(AWAITS):
                assert await of.get(*REQUEST, CONTEXT) is None

        loop.run(misses(cache))
        subjects = {
            "RustPolicyCache.get(), miss": lambda: loop.run(misses(native)),
            "PolicyCache.get(), its circuit open": lambda: loop.run(misses(cache)),
        }
        results = compare(subjects, rounds=200, per_call=AWAITS)
        loop.run(cache.close())
    assert results["PolicyCache.get(), its circuit open"]["median_us"] < 20
