"""How long a request takes in a batch, beside the same request made alone."""

import asyncio

import pytest

from sark_cache import RustPolicyCache

BATCHES = 100
REQUESTS = [
    ("alice@example.com", "tool:invoke", f"server:jira/search{i}", None) for i in range(100)
]
DECISION = {"allow": True, "reason": "granted by role analyst", "policy": "tools", "ttl": 60}


async def alone(cache):
    for _ in range(BATCHES):
        # Both hand over 100 decisions that are there at the same time.
        [
            await cache.get(user, action, resource, context)
            for user, action, resource, context in REQUESTS
        ]


async def together(cache):
    for _ in range(BATCHES):
        await cache.get_batch(REQUESTS)


def cache_of(loop, decisions):
    cache = RustPolicyCache()
    rows = [(*request[:3], decision) for request, decision in zip(REQUESTS, decisions, strict=True)]
    assert loop.run(cache.set_batch(rows)) == len(REQUESTS)
    return cache


@pytest.mark.benchmark(group="batch")
def test_batch(compare):
    """100 requests in one call, and each made alone."""
    with asyncio.Runner() as loop:
        alike = cache_of(loop, [DECISION] * len(REQUESTS))
        unlike = cache_of(loop, [{**DECISION, "reason": r[2]} for r in REQUESTS])
        empty = RustPolicyCache()
        subjects = {
            "a list of 100 × await cache.get(), hits": lambda: loop.run(alone(alike)),
            "await cache.get_batch() of 100 hits": lambda: loop.run(together(alike)),
            "the same, no two decisions alike": lambda: loop.run(together(unlike)),
            "the same, misses": lambda: loop.run(together(empty)),
        }
        compare(subjects, rounds=100, per_call=BATCHES * len(REQUESTS))
    assert alike.metrics.hits == 2 * 103 * BATCHES * len(REQUESTS)
