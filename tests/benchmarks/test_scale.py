"""A million entries: the time of an invalidation, the delay of other tasks, and hits afterwards."""

import asyncio
import statistics
import time

import pytest

from awaiting import ready
from sark_cache import RustPolicyCache

ENTRIES, USERS, RECORDS = 1_000_000, 1_000, 10_000
DECISION = {"allow": True, "reason": "granted by role analyst", "policy": "tools", "ttl": 60}
HITS, HOT = 2_000, 100


def requests(count):
    return ((f"user{i % USERS}", "read", f"doc{i}") for i in range(count))


@pytest.fixture(scope="module")
def full():
    cache = RustPolicyCache(max_size=ENTRIES * 11 // 10, ttl_seconds=3_600)
    for request in requests(ENTRIES):
        cache.set(*request, DECISION, tags=("role:analyst",))
    return cache


@pytest.mark.benchmark(group="invalidation")
def test_invalidation_of_a_million_entries(benchmark, keep, full):
    """The call, after which it has taken effect, and the heartbeat of a task on the same loop."""
    calls, counts, at_rest, during = [], [], [], []

    async def beat(stop, delays):
        while not stop.is_set():
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            delays.append((time.perf_counter() - due) * 1e3)

    async def revoke(**named):
        stop = asyncio.Event()
        beating = asyncio.create_task(beat(stop, at_rest))
        await asyncio.sleep(1)
        stop.set()
        await beating
        stop = asyncio.Event()
        beating = asyncio.create_task(beat(stop, during))
        await asyncio.sleep(0)
        started = time.perf_counter()
        revoked = full.invalidate(**named)
        calls.append((time.perf_counter() - started) * 1e6)
        counts.append(await revoked)
        stop.set()
        await beating

    users = iter(range(USERS // 2, USERS))

    def turn():
        user = next(users)
        asyncio.run(revoke(user_id=f"user{user}"))
        assert counts[-1] == ENTRIES // USERS
        assert ready(full.get(f"user{user}", "read", f"doc{user}")) is None

    benchmark.pedantic(turn, rounds=15)
    keep(
        {
            "RustPolicyCache.invalidate(user_id=…), the call": {
                "median_us": statistics.median(calls),
                "worst_us": max(calls),
            },
            "heartbeat delay during the invalidation": {
                "median_ms": statistics.median(during),
                "worst_ms": max(during),
            },
            "baseline: heartbeat delay at rest": {
                "median_ms": statistics.median(at_rest),
                "worst_ms": max(at_rest),
            },
        }
    )


@pytest.mark.benchmark(group="invalidation")
def test_hit_among_a_million_entries(compare, full):
    """A hit in a large cache after many invalidations, beside one in a small and quiet cache."""
    small = RustPolicyCache()
    hot = list(requests(HOT))
    for request in hot:
        small.set(*request, DECISION)
    for i in range(RECORDS):
        full.invalidate(f"nobody{i}", "read", f"nothing{i}", tags=("role:nobody",))

    full.reset_metrics()

    async def hits(cache):
        for _ in range(HITS // HOT):
            for request in hot:
                await cache.get(*request)

    with asyncio.Runner() as loop:
        subjects = {
            "RustPolicyCache.get(), 100 entries, nothing invalidated": lambda: loop.run(
                hits(small)
            ),
            "RustPolicyCache.get(), 1,000,000 entries, after 10,000 invalidations": (
                lambda: loop.run(hits(full))
            ),
        }
        compare(subjects, rounds=200, per_call=HITS)
    assert small.metrics.misses == full.metrics.misses == 0
