"""The TTL of an entry."""

import asyncio
import math
import time
from types import MappingProxyType

import pytest

from sark_cache import AsyncCache, RustPolicyCache

ALLOW = {"allow": True}


async def lifetime(cache, ttl, resource):
    """Requests an entry until it expires; returns the (shortest, longest) possible lifetime."""
    before = time.perf_counter()
    assert await cache.set("alice", "read", resource, ALLOW, None, ttl)
    after = time.perf_counter()
    await asyncio.sleep(max(ttl - 0.03, 0))
    served_at = after
    while True:
        asked = time.perf_counter()
        served = await cache.get("alice", "read", resource)
        answered = time.perf_counter()
        if served is None:
            return served_at - after, answered - before
        served_at = asked
        await asyncio.sleep(0)


@pytest.mark.parametrize("ttl", [0.05, 0.1, 0.5, 1, 2.5, 5])
async def test_an_entry_is_served_until_it_expires_and_not_5_ms_longer(cache, ttl):
    last_served, first_missed = await lifetime(cache, ttl, "doc")
    assert last_served <= ttl + 0.005
    assert first_missed >= ttl


async def test_each_entry_has_its_own_ttl():
    cache = RustPolicyCache(ttl_seconds=0.05)
    await cache.set("alice", "read", "short", ALLOW)
    await cache.set("alice", "read", "long", ALLOW, ttl_seconds=60)
    await asyncio.sleep(0.06)
    assert await cache.get("alice", "read", "short") is None
    assert await cache.get("alice", "read", "long") == ALLOW


async def test_storing_again_restarts_the_ttl(cache):
    await cache.set("alice", "read", "doc", ALLOW, ttl_seconds=0.1)
    await asyncio.sleep(0.06)
    await cache.set("alice", "read", "doc", ALLOW, ttl_seconds=0.1)
    await asyncio.sleep(0.06)
    assert await cache.get("alice", "read", "doc") == ALLOW


async def test_a_hit_does_not_prolong_the_ttl(cache):
    await cache.set("alice", "read", "doc", ALLOW, ttl_seconds=0.1)
    for _ in range(6):
        await cache.get("alice", "read", "doc")
        await asyncio.sleep(0.02)
    assert await cache.get("alice", "read", "doc") is None


class Short(RustPolicyCache):
    """A TTL table with times short enough for a test."""

    OPTIMIZED_TTL = {"critical": 0.05, "public": 60}  # noqa: RUF012


@pytest.mark.parametrize(
    ("arguments", "served"),
    [
        ({"sensitivity": "critical"}, False),
        ({"sensitivity": "public"}, True),
        ({"sensitivity": "critical", "ttl_seconds": 60}, False),
        ({"sensitivity": "public", "ttl_seconds": 0.05}, False),
        ({"sensitivity": "unheard of"}, True),
        ({}, True),
    ],
)
async def test_the_given_ttl_or_that_of_the_cache_applies_and_a_sensitivity_shortens_it(
    arguments, served
):
    cache = Short(ttl_seconds=60)
    await cache.set("alice", "read", "doc", ALLOW, **arguments)
    await asyncio.sleep(0.06)
    assert (await cache.get("alice", "read", "doc") is not None) == served


async def test_any_mapping_is_a_ttl_table():
    class Frozen(RustPolicyCache):
        OPTIMIZED_TTL = MappingProxyType({"critical": 0.05})

    cache = Frozen(ttl_seconds=60)
    await cache.set("alice", "read", "doc", ALLOW, sensitivity="critical")
    await cache.set("bob", "read", "doc", ALLOW, sensitivity="unheard of")
    await asyncio.sleep(0.06)
    assert await cache.get("alice", "read", "doc") is None
    assert await cache.get("bob", "read", "doc") == ALLOW


async def test_a_sensitivity_applies_only_if_optimized_ttls_are_enabled():
    cache = Short(ttl_seconds=60, use_optimized_ttl=False)
    await cache.set("alice", "read", "doc", ALLOW, sensitivity="critical")
    await asyncio.sleep(0.06)
    assert await cache.get("alice", "read", "doc") == ALLOW
    cache.use_optimized_ttl = True
    await cache.set("alice", "read", "doc", ALLOW, sensitivity="critical")
    await asyncio.sleep(0.06)
    assert await cache.get("alice", "read", "doc") is None


async def test_the_default_ttl_can_be_changed_at_run_time(cache):
    cache.ttl_seconds = 0.05
    assert cache.ttl_seconds == 0.05
    await cache.set("alice", "read", "doc", ALLOW)
    await asyncio.sleep(0.06)
    assert await cache.get("alice", "read", "doc") is None


async def test_a_ttl_of_zero_stores_nothing_and_removes_the_older_decision(cache):
    await cache.set("alice", "read", "doc", ALLOW)
    assert await cache.set("alice", "read", "doc", {"allow": False}, ttl_seconds=0) is False
    assert await cache.get("alice", "read", "doc") is None
    assert await cache.set("bob", "read", "doc", ALLOW, ttl_seconds=0.0) is False
    assert await cache.get("bob", "read", "doc") is None
    assert cache.metrics.errors == 0


@pytest.mark.parametrize("ttl", [-1, -0.001, -(10**400), math.nan, -math.inf])
async def test_a_negative_ttl_or_nan_is_an_error(cache, ttl):
    with pytest.raises(ValueError, match="ttl_seconds"):
        await cache.set("alice", "read", "doc", ALLOW, ttl_seconds=ttl)
    with pytest.raises(ValueError, match="ttl_seconds"):
        await cache.set_batch([("alice", "read", "doc", ALLOW, None, ttl)])
    with pytest.raises(ValueError, match="ttl_seconds"):
        RustPolicyCache(ttl_seconds=ttl)
    with pytest.raises(ValueError, match="ttl_seconds"):
        await AsyncCache().set("key", 1, ttl)
    assert await cache.size() == 0


@pytest.mark.parametrize("ttl", ["60", [], True])
async def test_a_ttl_that_is_not_a_number_is_a_type_error(cache, ttl):
    with pytest.raises(TypeError, match="ttl_seconds must be a number of seconds"):
        await cache.set("alice", "read", "doc", ALLOW, ttl_seconds=ttl)


@pytest.mark.parametrize("ttl", [1e-12, 1e18, 10**400, math.inf])
async def test_extreme_ttls_are_accepted(cache, ttl):
    assert await cache.set("alice", "read", "doc", ALLOW, ttl_seconds=ttl) is True
    assert (await cache.get("alice", "read", "doc") is not None) == (ttl > 1)


async def test_expired_entries_do_not_count_and_are_cleaned_up_exactly(cache):
    for i in range(1_000):
        ttl = 0.02 if i % 4 == 0 else 60
        await cache.set("alice", "read", str(i), ALLOW, ttl_seconds=ttl)
    await asyncio.sleep(0.03)
    assert await cache.size() == 750
    assert cache.metrics.size == 1_000
    assert await cache.cleanup_expired() == 250
    assert await cache.cleanup_expired() == 0
    assert cache.metrics.size == 750
    assert cache.metrics.expirations == 250


async def test_clearing_also_removes_expired_entries(cache):
    await cache.set("alice", "read", "short", ALLOW, ttl_seconds=1e-9)
    await cache.set("alice", "read", "long", ALLOW)
    await cache.clear()
    metrics = cache.metrics
    assert (metrics.size, metrics.invalidations, metrics.expirations) == (0, 1, 1)
    assert await cache.cleanup_expired() == 0
