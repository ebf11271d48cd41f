"""Operations per second of several threads together, each with its own event loop.

The total number of operations is constant. The clock runs from the moment when the first thread
continues after all have started, until the last one has made its share. That is long enough for the
interpreter to pass its lock around many times (every 5 ms), and not only once from each thread to
the next. Each number is compared with that of one thread in the same round. The bare `async def`
shows the effect of the interpreter alone.
"""

import asyncio
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from field import FIELD
from residency import decision, request
from turns import FLOOR

SUBJECTS = (
    {FLOOR: lambda *_size: Bare()}
    | {
        name: FIELD[name]
        for name in ("RustPolicyCache.get()", "RustPolicyCache.get_decision()", "cachebox, tuned")
    }
    | {
        "dict, tuned, under a lock": lambda *size: Locked(FIELD["dict, tuned"](*size)),
    }
)
THREADS = (1, 2, 4, 20)
ENTRIES = 10_000
OPERATIONS = 600_000
ROUNDS, WARM_UP = 5, 1


class Bare:
    """The minimum in Python."""

    def __init__(self):
        self._decisions = {}

    async def get(self, *request):
        return self._decisions[request]

    async def set(self, *request_and_decision):
        self._decisions[request_and_decision[:-1]] = request_and_decision[-1]


class Locked:
    """A cache that threads share, one at a time. It never waits while it holds the lock."""

    def __init__(self, cache):
        self._cache, self._lock = cache, threading.Lock()

    async def get(self, *request):
        with self._lock:
            return await self._cache.get(*request)

    async def set(self, *request_and_decision):
        with self._lock:
            return await self._cache.set(*request_and_decision)


@pytest.mark.benchmark(group="threads")
@pytest.mark.parametrize("sets_in_100", [0, 10])
def test_threads(benchmark, keep, sets_in_100):
    """Operations per second with 1, 2, 4 and 20 threads, with a percentage of sets."""
    requests = [request(i * 7919 % ENTRIES) for i in range(ENTRIES)]
    decisions = {asked: decision(i) for i, asked in enumerate(requests)}
    caches = {name: asyncio.run(filled(name, decisions)) for name in SUBJECTS}
    rates = {(name, threads): [] for name in SUBJECTS for threads in THREADS}

    async def share(cache, number, threads, begin):
        """Runs one thread's operations; returns their start, end and hits."""
        begin.wait()
        started, hits = time.perf_counter(), 0
        first = number * (ENTRIES // threads)
        for i in range(first, first + OPERATIONS // threads):
            asked = requests[i % ENTRIES]
            if i % 100 < sets_in_100:
                await cache.set(*asked, decisions[asked])
            else:
                hits += await cache.get(*asked) is not None
        return started, time.perf_counter(), hits

    def rate(cache, threads):
        begin = threading.Barrier(threads)
        with ThreadPoolExecutor(threads) as pool:
            shares = list(
                pool.map(
                    lambda number: asyncio.run(share(cache, number, threads, begin)),
                    range(threads),
                )
            )
        started, ended, hits = zip(*shares, strict=True)
        assert sum(hits) == OPERATIONS * (100 - sets_in_100) // 100
        return OPERATIONS / (max(ended) - min(started))

    def turn():
        for (name, threads), taken in rates.items():
            taken.append(rate(caches[name], threads))

    benchmark.pedantic(turn, rounds=ROUNDS, warmup_rounds=WARM_UP)
    keep(
        {
            f"{name}, {threads} {'thread' if threads == 1 else 'threads'}": {
                "operations_per_second": statistics.median(taken[WARM_UP:]),
                "ratio": statistics.median(
                    many / one
                    for many, one in list(zip(taken, rates[name, 1], strict=True))[WARM_UP:]
                ),
            }
            for (name, threads), taken in rates.items()
        }
    )


async def filled(name, decisions):
    cache = SUBJECTS[name](2 * ENTRIES, 3_600)
    for asked, decided in decisions.items():
        await cache.set(*asked, decided)
    return cache
