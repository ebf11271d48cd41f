"""`NullPolicyCache`: every request evaluates, and wrong arguments raise as elsewhere."""

import pytest

from closing import assert_closed_by_its_block
from loaders import bringing
from sark_cache import BatchLoadError, NullPolicyCache, PolicyCacheProtocol

ALLOW = {"allow": True}
ALICE = ("alice", "read", "doc")


@pytest.fixture
def cache():
    return NullPolicyCache()


async def test_nothing_is_stored_and_nothing_is_found(cache):
    assert isinstance(cache, PolicyCacheProtocol)
    assert await cache.set(*ALICE, ALLOW, tags=["t"], stamp=cache.stamp()) is False
    assert await cache.set_batch([(*ALICE, ALLOW)]) == 0
    assert await cache.preload_cache([(*ALICE, ALLOW)], stamp=cache.stamp()) == 0
    assert await cache.get(*ALICE) is None
    assert await cache.get_batch([ALICE, ALICE]) == [None, None]
    assert await cache.delete(*ALICE) is False
    assert await cache.invalidate(user_id="alice") == 0
    assert await cache.invalidate_pattern("*") == 0
    assert await cache.clear() is True
    assert await cache.clear_all() is True
    assert await cache.size() == await cache.get_cache_size() == 0
    assert await cache.cleanup_expired() == 0
    assert cache.max_size == 0
    assert repr(cache) == "NullPolicyCache()"


async def test_every_request_evaluates_and_is_counted(cache):
    cache.set_revalidate_callback(pytest.fail)
    assert await cache.get_or_load(*ALICE, bringing(ALLOW)) == ALLOW
    assert await cache.get_or_load(*ALICE, bringing(ALLOW)) == ALLOW

    async def fail():
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await cache.get_or_load(*ALICE, fail)
    await cache.get_batch([ALICE])

    async def answer(requests):
        return [ALLOW, ConnectionError()]

    with pytest.raises(BatchLoadError) as failed:
        await cache.get_or_load_many([ALICE, ALICE], answer)
    assert failed.value.decisions == [ALLOW, None]
    cache.record_opa_latency(5)
    metrics = cache.metrics
    assert (metrics.misses, metrics.loads, metrics.load_errors) == (6, 5, 2)
    assert (metrics.batch_operations, metrics.hits, metrics.errors) == (2, 0, 0)
    assert metrics.avg_opa_latency_ms == pytest.approx(5)
    assert cache.get_metrics()["miss_rate"] == 100
    assert cache.evaluation_histogram().count == 1
    assert cache.latency_histogram().count == 0
    cache.reset_metrics()
    assert cache.metrics.total_requests == 0


async def test_a_disabled_cache_counts_nothing(cache):
    cache.enabled = False
    assert await cache.get(*ALICE) is None
    assert await cache.get_or_load(*ALICE, bringing(ALLOW)) == ALLOW
    assert cache.metrics.total_requests == 0


async def test_wrong_arguments_are_errors_as_elsewhere(cache):
    with pytest.raises(TypeError, match="user_id must be a str, not int"):
        await cache.get(1, "read", "doc")
    with pytest.raises(TypeError, match="decision must be a dict"):
        await cache.set(*ALICE, None)
    with pytest.raises(ValueError, match="ttl_seconds"):
        await cache.set(*ALICE, ALLOW, ttl_seconds=-1)
    with pytest.raises(TypeError, match="tags"):
        await cache.invalidate(tags="t")
    with pytest.raises(TypeError, match="pattern"):
        await cache.invalidate_pattern(None)
    with pytest.raises(TypeError, match="loader"):
        await cache.get_or_load(*ALICE, None)
    with pytest.raises(TypeError, match=r"requests\[0\]: action"):
        await cache.get_batch([("alice", None, "doc")])


async def test_it_is_closed_like_other_caches(cache):
    await assert_closed_by_its_block(cache)
