"""The cost of caching the result of a loader, and the time until its waiters continue."""

import asyncio
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from loading_field import LOADING
from sark_cache import RustPolicyCache
from turns import LOOPS
from workloads import REQUEST, decision, request

DECISION = decision(5)
HOUR = 3600
LOADS = 200
WAITERS = 1_000


async def load(_user, _action, _resource):
    return DECISION


class Loading:
    """One of the field of loads, in its own event loop, with entries that it has not seen."""

    def __init__(self, make, runner):
        self.run = runner.get_loop().run_until_complete
        self.entries = 0
        self.ask = make(load, 1_000_000, HOUR)

    def turn(self):
        first, self.entries = self.entries, self.entries + LOADS
        return self.run(self.ask_for([request(entry) for entry in range(first, self.entries)]))

    async def ask_for(self, requests):
        started = time.perf_counter()
        for user, action, resource in requests:
            await self.ask(user, action, resource)
        return (time.perf_counter() - started) / len(requests)


@pytest.mark.benchmark(group="load")
def test_lone_miss(take_turns):
    """The time that caching adds to an evaluation without waiters."""
    making = {"baseline: await loader()": lambda evaluate, *_: evaluate, **LOADING}
    with ExitStack() as loops:
        loading = {
            name: Loading(make, loops.enter_context(asyncio.Runner()))
            for name, make in making.items()
        }
        turns = {name: each.turn for name, each in loading.items()}
        take_turns(turns, rounds=81, per_call=LOADS)


@pytest.mark.benchmark(group="load")
@pytest.mark.parametrize("loop", LOOPS)
def test_stampede(benchmark, keep, loop):
    """1,000 tasks miss at once: the time from the only evaluation until the last task continues."""
    taken = {name: [] for name in LOADING}

    def turn():
        for name, make in LOADING.items():
            with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
                taken[name].append(runner.run(stampede(make)))

    benchmark.pedantic(turn, rounds=21, warmup_rounds=1)
    keep(
        {
            name: {"median_ms": statistics.median(each[1:]), "worst_ms": max(each[1:])}
            for name, each in taken.items()
        },
        rounds=21,
    )


async def stampede(make):
    """Returns the milliseconds from the end of the evaluation until all have their decision."""
    ended, asking = [], 0

    async def evaluate(*_request):
        while asking < WAITERS:
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)  # the last ones begin to wait
        ended.append(time.perf_counter())
        return DECISION

    async def ask():
        nonlocal asking
        asking += 1
        return await cached(*REQUEST)

    cached = make(evaluate, WAITERS, HOUR)
    granted = await asyncio.gather(*(ask() for _ in range(WAITERS)))
    all_have = time.perf_counter()
    (evaluated,) = ended
    assert granted == [DECISION] * WAITERS
    granted[0].clear()
    assert granted[1] == DECISION
    return (all_have - evaluated) * 1e3


@pytest.mark.benchmark(group="load")
@pytest.mark.parametrize("loops", [1, 4])
def test_waiters(benchmark, keep, loops):
    """The time from the return of the leader's loader until the last of 1,000 waiters continues."""
    taken = []

    def stampede():
        cache = RustPolicyCache()
        resumed = []
        all_wait = threading.Barrier(loops)

        async def slow():
            nonlocal finished
            while cache.metrics.misses < WAITERS:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)  # the last ones begin to wait
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
    on = f"{loops} event loop{'s' if loops > 1 else ''}"
    subject = f"RustPolicyCache.get_or_load(), 1,000 waiters on {on}"
    keep({subject: {"median_ms": statistics.median(taken), "worst_ms": max(taken)}})
