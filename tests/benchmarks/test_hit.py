"""How long a hit takes, beside the least that any awaited look-up in Python takes."""

import asyncio

import pytest

from sark_cache import RustPolicyCache

AWAITS = 2_000
DECISION = {"allow": True, "reason": "granted by role analyst", "policy": "tools", "ttl": 60}
USER, ACTION, RESOURCE = "alice@example.com", "tool:invoke", "server:jira/search"
CONTEXT = {"ip": "10.0.0.1", "mfa": True, "hour": 12}

DECISIONS = {"key": DECISION}


async def look_up(key):
    return DECISIONS[key]


async def floor(_cache):
    for _ in range(AWAITS):
        await look_up("key")


async def hit(cache):
    for _ in range(AWAITS):
        await cache.get(USER, ACTION, RESOURCE)


async def hit_with_context(cache):
    for _ in range(AWAITS):
        await cache.get(USER, ACTION, RESOURCE, CONTEXT)


async def hit_of_a_load(cache):
    for _ in range(AWAITS):
        await cache.get_or_load(USER, ACTION, RESOURCE, load)


async def load():
    raise AssertionError


async def miss(cache):
    for _ in range(AWAITS):
        await cache.get(USER, ACTION, "another")


async def overwrite(cache):
    for _ in range(AWAITS):
        await cache.set(USER, ACTION, RESOURCE, DECISION)


SUBJECTS = {
    "await an async def returning d[k]": floor,
    "await cache.get(), hit": hit,
    "the same with a 3-field context": hit_with_context,
    "await cache.get_or_load(), hit": hit_of_a_load,
    "await cache.get(), miss": miss,
    "await cache.set(), overwriting": overwrite,
}


@pytest.mark.benchmark(group="hit")
def test_hit(compare):
    """One request, beside the least that any awaited look-up in Python takes."""
    cache = RustPolicyCache()
    with asyncio.Runner() as loop:
        for context in (None, CONTEXT):
            assert loop.run(cache.set(USER, ACTION, RESOURCE, DECISION, context))
        subjects = {
            name: lambda awaits=awaits: loop.run(awaits(cache)) for name, awaits in SUBJECTS.items()
        }
        compare(subjects, rounds=200, per_call=AWAITS)
    asked = AWAITS * 203
    assert (cache.metrics.hits, cache.metrics.misses) == (3 * asked, asked)
