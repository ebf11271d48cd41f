"""The hit ratio of caches that are smaller than the set of requested keys.

Every policy gets the same traces through the public interface of its cache: look up, and store on a
miss. The number depends on the policy, not on the machine. It varies by a few tenths of a point
between runs where a cache hashes with a random seed or buffers its records.
"""

import asyncio
from collections.abc import Callable, Hashable

import cachebox
import cachetools
import moka_py
import pytest
import theine

from optimum import most_hits
from sark_cache import RustPolicyCache
from traces import TRACES, Trace

# Percent of the keys that occur in the trace.
CAPACITIES = (1, 2, 5, 10, 20)
DECISION = {"allow": True}
CHECKS = 10

HitsOf = Callable[[Trace, int], int]


def sark_cache(eviction: str) -> HitsOf:
    """Ours; the size is checked now and then against the capacity."""

    async def hits_of(trace, capacity):
        cache = RustPolicyCache(max_size=capacity, ttl_seconds=3_600, eviction=eviction)
        hits = 0
        for start in range(0, len(trace), len(trace) // CHECKS):
            for key in trace[start : start + len(trace) // CHECKS]:
                request = ("alice", "read", str(key))
                if await cache.get(*request) is not None:
                    hits += 1
                else:
                    await cache.set(*request, DECISION)
            assert await cache.size() <= capacity
        assert (cache.metrics.hits, cache.metrics.misses) == (hits, len(trace) - hits)
        return hits

    return lambda trace, capacity: asyncio.run(hits_of(trace, capacity))


def mapping(make: Callable[[int], cachetools.Cache | cachebox.BaseCacheImpl]) -> HitsOf:
    """A cache that is used as a dict."""

    def hits_of(trace, capacity):
        cache = make(capacity)
        hits = hits_through(cache.get, cache.__setitem__, trace)
        assert len(cache) <= capacity
        return hits

    return hits_of


def theine_tiny_lfu(trace, capacity):
    """Its one policy: W-TinyLFU with an adaptive window."""
    cache = theine.Cache(capacity)
    hits = hits_through(lambda key: cache.get(key)[0], cache.set, trace)
    assert len(cache) <= capacity
    cache.close()
    return hits


def moka_py_tiny_lfu(trace, capacity):
    """The synchronous cache of the library beneath ours."""
    cache = moka_py.Moka(capacity, policy="tiny_lfu")
    return hits_through(cache.get, cache.set, trace)


def hits_through(
    get: Callable[[Hashable], object], put: Callable[[Hashable, object], object], trace: Trace
) -> int:
    """Returns the hits of a cache that is read by `get` and filled by `put`."""
    hits = 0
    for key in trace:
        if get(key) is not None:
            hits += 1
        else:
            put(key, DECISION)
    return hits


OPTIMUM = "upper bound: Bélády's optimum"
SUBJECTS: dict[str, HitsOf] = {
    OPTIMUM: most_hits,
    "RustPolicyCache, tiny_lfu": sark_cache("tiny_lfu"),
    "RustPolicyCache, lru": sark_cache("lru"),
    "theine, W-TinyLFU": theine_tiny_lfu,
    "moka-py, tiny_lfu": moka_py_tiny_lfu,
    "cachetools, LRU": mapping(cachetools.LRUCache),
    "cachetools, LFU": mapping(cachetools.LFUCache),
    "cachebox, LRU": mapping(cachebox.LRUCache),
    "cachebox, LFU": mapping(cachebox.LFUCache),
}


@pytest.mark.benchmark(group="hit-ratio")
@pytest.mark.parametrize("name", TRACES)
def test_hit_ratio(benchmark, keep, name):
    """Percent of the requests that hit, with a capacity of 1 to 20 % of the keys."""
    trace = TRACES[name]()
    keys = len(set(trace))

    def hit_ratios(hits_of):
        return {
            f"{percent} %": 100 * hits_of(trace, keys * percent // 100) / len(trace)
            for percent in CAPACITIES
        }

    def measured():
        return {subject: hit_ratios(hits_of) for subject, hits_of in SUBJECTS.items()}

    results = benchmark.pedantic(measured, rounds=1)
    for subject, ratios in results.items():
        for capacity, ratio in ratios.items():
            # Some caches hold a few entries above their capacity until they have processed new
            # ones.
            assert ratio <= results[OPTIMUM][capacity] + 1, (subject, capacity)
    keep(results)
