"""What `get_or_load` adds to a loader, and how soon those who wait for one go on."""

import asyncio
import itertools
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sark_cache import RustPolicyCache

DECISION = {"allow": True, "reason": "granted by role analyst", "policy": "tools", "ttl": 60}
LOADS = 500
WAITERS = 1_000


async def load():
    return DECISION


@pytest.mark.benchmark(group="load")
def test_lone_miss(compare):
    """What `get_or_load` adds to a loader that nobody else waits for."""
    cache = RustPolicyCache(max_size=1_000_000)
    resources = map(str, itertools.count())

    async def alone():
        for _ in range(LOADS):
            await load()

    async def through_the_cache():
        for _ in range(LOADS):
            await cache.get_or_load("alice", "read", next(resources), load)

    with asyncio.Runner() as loop:
        subjects = {
            "await loader()": lambda: loop.run(alone()),
            "await cache.get_or_load(), a lone miss": lambda: loop.run(through_the_cache()),
        }
        compare(subjects, rounds=100, per_call=LOADS)
    assert cache.metrics.loads == LOADS * 103


@pytest.mark.benchmark(group="load")
@pytest.mark.parametrize("loops", [1, 4])
def test_waiters(benchmark, keep, loops):
    """From the moment the leader's loader returns to that when the last of 1,000 went on."""
    taken = []

    def stampede():
        cache = RustPolicyCache()
        resumed = []
        all_wait = threading.Barrier(loops)

        async def slow():
            nonlocal finished
            while cache.metrics.misses < WAITERS:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)  # in which the last ones begin to wait
            finished = time.perf_counter()
            return DECISION

        async def ask():
            await cache.get_or_load("alice", "read", "doc", slow)
            resumed.append(time.perf_counter())

        async def ask_from_tasks():
            all_wait.wait()
            await asyncio.gather(*(ask() for _ in range(WAITERS // loops)))

        finished = 0.0
        with ThreadPoolExecutor(loops) as pool:
            asking = [pool.submit(asyncio.run, ask_from_tasks()) for _ in range(loops)]
            for asks in asking:
                asks.result()
        assert cache.metrics.loads == 1
        taken.append((max(resumed) - finished) * 1e3)

    benchmark.pedantic(stampede, rounds=20, warmup_rounds=1)
    subject = f"1,000 waiters on {loops} event loop(s): the last goes on after"
    keep({subject: {"median_ms": statistics.median(taken), "worst_ms": max(taken)}})
