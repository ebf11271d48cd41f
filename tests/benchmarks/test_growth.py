"""The cost of a hit as the entries grow from ten thousand to a million.

Processor caches overflow for a dict as well as for a cache. So each is compared with an awaited
look-up in a dict of the same size, with the same requests in the same order.
"""

import asyncio
import random
import statistics
import time

import pytest

from sark_cache import RustPolicyCache
from turns import FLOOR

FEW, MANY = SIZES = 10_000, 1_000_000
ASKED = 200_000
ROUNDS, WARM_UP = 9, 1
DECISION = {"allow": True, "reason": "granted by role analyst", "policy": "tools", "ttl": 60}
HITS = "RustPolicyCache.get()", "RustPolicyCache.get_decision()"


def requests(size):
    return [(f"user{i % 1_000}@example.com", "invoke", f"server:jira/{i}") for i in range(size)]


def at_random(size):
    """Returns requests for entries in random order, made of new strings.

    In a service, too, every request has new strings.
    """
    asked = random.Random(5).sample(requests(size), min(size, ASKED))
    return asked * (ASKED // len(asked))


def dict_of(size):
    decisions = {request: dict(DECISION) for request in requests(size)}

    async def look_up(user, action, resource):
        return decisions[user, action, resource]

    return look_up


def cache_of(size):
    cache = RustPolicyCache(max_size=size, ttl_seconds=3_600)
    for request in requests(size):
        cache.set(*request, DECISION)
    return cache


async def ask(look_up, asked):
    for request in asked:
        await look_up(*request)


@pytest.mark.benchmark(group="scale")
def test_growth(benchmark, keep):
    """A hit among 10,000 and 1,000,000 entries requested at random, and a dict's look-up."""
    caches = {size: cache_of(size) for size in SIZES}
    subjects = {}
    for size, cache in caches.items():
        look_ups = dict_of(size), cache.get, cache.get_decision
        for name, look_up in zip((FLOOR, *HITS), look_ups, strict=True):
            subjects[name, size] = look_up
    asked = {size: at_random(size) for size in SIZES}
    times = {subject: [] for subject in subjects}

    def turn():
        for (name, size), look_up in subjects.items():
            started = time.perf_counter()
            loop.run(ask(look_up, asked[size]))
            times[name, size].append((time.perf_counter() - started) / ASKED)

    with asyncio.Runner() as loop:
        benchmark.pedantic(turn, rounds=ROUNDS, warmup_rounds=WARM_UP)
    hits = len(HITS) * (ROUNDS + WARM_UP) * ASKED
    for cache in caches.values():
        assert (cache.metrics.hits, cache.metrics.misses) == (hits, 0)

    times = {subject: taken[WARM_UP:] for subject, taken in times.items()}
    ratios = {
        (name, size): [a / b for a, b in zip(taken, times[FLOOR, size], strict=True)]
        for (name, size), taken in times.items()
    }
    results = {
        f"{name}, {size:,} entries": {
            "median_us": statistics.median(taken) * 1e6,
            "ratio": statistics.median(ratios[name, size]),
        }
        for (name, size), taken in times.items()
    }
    for name in HITS:
        results[f"{name}, {MANY:,} entries"]["growth"] = statistics.median(
            many / few for many, few in zip(ratios[name, MANY], ratios[name, FEW], strict=True)
        )
    keep(results)
