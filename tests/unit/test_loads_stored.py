"""Results of loads: their TTL and tags, and the results that are not stored."""

import asyncio
from types import MappingProxyType

import pytest

from loaders import ALLOW, DENY, REQUEST, ControlledLoader, begun, bringing
from sark_cache import Loaded, RustPolicyCache


async def test_loaded_sets_the_ttl(cache):
    loaded = Loaded(ALLOW, ttl_seconds=0.02)
    assert await cache.get_or_load(*REQUEST, bringing(loaded), ttl_seconds=60) == ALLOW
    assert await cache.get(*REQUEST) == ALLOW
    await asyncio.sleep(0.03)
    assert await cache.get(*REQUEST) is None


async def test_the_ttl_is_that_of_the_call_or_of_the_sensitivity(cache):
    cache.OPTIMIZED_TTL = {"critical": 0.02}
    await cache.get_or_load("given", "read", "doc", bringing(ALLOW), ttl_seconds=0.02)
    await cache.get_or_load("critical", "read", "doc", bringing(ALLOW), sensitivity="critical")
    await cache.get_or_load("plain", "read", "doc", bringing(ALLOW))
    assert await cache.size() == 3
    await asyncio.sleep(0.03)
    assert await cache.get("given", "read", "doc") is None
    assert await cache.get("critical", "read", "doc") is None
    assert await cache.get("plain", "read", "doc") == ALLOW


async def test_tags_of_the_call_and_of_loaded_revoke(cache):
    for tag in ("early", "late"):
        loaded = Loaded(MappingProxyType(ALLOW), tags=["late"])
        assert await cache.get_or_load(*REQUEST, bringing(loaded), tags=("early",)) == ALLOW
        assert await cache.invalidate(tags=[tag]) == 1
        assert await cache.get(*REQUEST) is None


async def test_a_ttl_of_zero_is_shared_but_not_stored(cache):
    loader = ControlledLoader()
    tasks = await begun(cache, loader, 3, ttl_seconds=0)
    loader.bring(ALLOW)
    assert await asyncio.gather(*tasks) == [ALLOW] * 3
    assert (loader.runs, await cache.size(), cache.metrics.errors) == (1, 0, 0)


# Results that cannot be stored


async def test_a_decision_that_is_not_json_is_returned_and_every_request_evaluates(cache, caplog):
    odd = {"allow": True, "at": object()}
    loader = ControlledLoader()
    tasks = await begun(cache, loader, 3)
    loader.bring(odd)
    answers = await asyncio.gather(*tasks)
    assert all(answer is odd for answer in answers)
    assert loader.runs == 3
    assert await cache.get(*REQUEST) is None
    assert cache.metrics.errors == 1
    assert "get_or_load failed" in caplog.text


async def test_a_decision_that_is_too_large_is_returned(cache):
    huge = {"allow": True, "reason": "x" * 70_000}
    assert await cache.get_or_load(*REQUEST, bringing(huge)) == huge
    assert await cache.size() == 0
    assert cache.metrics.errors == 1


async def test_a_decision_larger_than_the_cache_is_shared(caplog):
    cache = RustPolicyCache(max_bytes=2_000)
    large = {"allow": True, "reason": "x" * 3_000}
    loader = ControlledLoader()
    tasks = await begun(cache, loader, 2)
    loader.bring(large)
    assert await asyncio.gather(*tasks) == [large, large]
    assert (loader.runs, await cache.size(), cache.metrics.errors) == (1, 0, 1)


@pytest.mark.parametrize("context", [{"at": object()}, {"x": float("nan")}, {"\ud800": 1}])
async def test_a_context_that_is_not_json_is_evaluated_each_time(cache, context, caplog):
    for decision in (ALLOW, DENY):
        assert await cache.get_or_load(*REQUEST, bringing(decision), context) == decision
    metrics = cache.metrics
    assert (metrics.errors, metrics.misses, metrics.loads) == (2, 2, 2)
    assert await cache.size() == 0
    with pytest.raises(TypeError, match="loader must return"):
        await cache.get_or_load(*REQUEST, bringing(None), context)


async def test_a_tag_that_cannot_be_stored_stores_nothing(cache, caplog):
    assert await cache.get_or_load(*REQUEST, bringing(ALLOW), tags=["\ud800"]) == ALLOW
    assert await cache.get_or_load(*REQUEST, bringing(Loaded(ALLOW, tags=["\ud800"]))) == ALLOW
    assert await cache.size() == 0
    assert cache.metrics.errors == 2


# Disabled and closed


async def test_a_disabled_cache_evaluates_and_counts_nothing(cache):
    cache.enabled = False
    loaded = Loaded(ALLOW, ttl_seconds=60)
    for brought in (ALLOW, loaded):
        assert await cache.get_or_load(*REQUEST, bringing(brought)) == ALLOW
    with pytest.raises(TypeError, match="loader must return"):
        await cache.get_or_load(*REQUEST, bringing(None))
    cache.enabled = True
    assert await cache.get(*REQUEST) is None
    assert cache.metrics.loads == 0


@pytest.mark.parametrize("stop", ["close", "disable"])
async def test_a_cache_that_is_disabled_or_closed_while_loading_stores_nothing(cache, stop):
    loader = ControlledLoader()
    tasks = await begun(cache, loader, 2)
    if stop == "close":
        await cache.close()
    else:
        cache.enabled = False
    loader.bring(ALLOW)
    assert await asyncio.gather(*tasks) == [ALLOW, ALLOW]
    cache.enabled = True
    assert await cache.size() == 0
    assert await cache.get_or_load(*REQUEST, bringing(DENY)) == DENY


async def test_a_cache_that_was_disabled_before_the_call_is_awaited_counts_nothing(cache):
    loading = cache.get_or_load(*REQUEST, bringing(ALLOW))
    await cache.set(*REQUEST, DENY)
    cache.enabled = False
    assert await loading == ALLOW
    assert (cache.metrics.loads, cache.metrics.coalesced) == (0, 0)
