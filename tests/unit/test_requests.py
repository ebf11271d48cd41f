"""Requests: storing decisions and looking them up."""

from unittest import mock

import pytest

from sark_cache import (
    CacheMetrics,
    PolicyCacheProtocol,
    RustPolicyCache,
    close_policy_caches,
    get_rust_policy_cache,
    is_rust_cache_available,
)
from sark_cache.selection import registry as process

ALLOW = {"allow": True, "reason": "owner"}


async def test_a_stored_decision_is_served(cache):
    assert await cache.get("alice", "read", "doc") is None
    assert await cache.set("alice", "read", "doc", ALLOW) is True
    assert await cache.get("alice", "read", "doc") == ALLOW
    assert await cache.get("alice", "write", "doc") is None
    assert await cache.get("bob", "read", "doc") is None
    assert await cache.get("alice", "read", "doc2") is None


async def test_the_context_is_part_of_the_request(cache):
    await cache.set("alice", "read", "doc", ALLOW, {"ip": "10.0.0.1"})
    assert await cache.get("alice", "read", "doc", {"ip": "10.0.0.1"}) == ALLOW
    assert await cache.get("alice", "read", "doc", {"ip": "10.0.0.2"}) is None
    assert await cache.get("alice", "read", "doc") is None


async def test_a_later_decision_replaces_an_earlier_one(cache):
    await cache.set("alice", "read", "doc", ALLOW)
    await cache.set("alice", "read", "doc", {"allow": False})
    assert await cache.get("alice", "read", "doc") == {"allow": False}
    assert await cache.size() == 1


async def test_delete_returns_whether_the_entry_existed(cache):
    await cache.set("alice", "read", "doc", ALLOW, {"a": 1})
    assert await cache.delete("alice", "read", "doc") is False
    assert await cache.delete("alice", "read", "doc", {"a": 1}) is True
    assert await cache.delete("alice", "read", "doc", {"a": 1}) is False
    assert await cache.get("alice", "read", "doc", {"a": 1}) is None


async def test_batches_keep_their_order_and_return_the_number_stored(cache):
    entries = [
        ("alice", "read", "doc", ALLOW, None, None),
        ("bob", "read", "doc", ALLOW, {"ip": "::1"}, 60),
        ("carol", "read", "doc", ALLOW, None, 0),
        ("dave", "read", "doc", {"not": object()}, None, None),
        ("erin", "read", "doc", {"allow": False}),
    ]
    assert await cache.set_batch(entries) == 3
    requests = [
        ("erin", "read", "doc"),
        ("carol", "read", "doc", None),
        ("bob", "read", "doc", {"ip": "::1"}),
        ("alice", "read", "doc", {}),
        ("dave", "read", "doc", None),
    ]
    assert await cache.get_batch(requests) == [{"allow": False}, None, ALLOW, ALLOW, None]
    assert cache.metrics.batch_operations == 2
    assert cache.metrics.hits == 3
    assert cache.metrics.misses == 2


async def test_a_large_batch_is_stored_whole(cache):
    entries = [(str(i), "read", "doc", {"n": i}) for i in range(5_000)]
    assert await cache.set_batch(entries) == 5_000
    decisions = await cache.get_batch([(str(i), "read", "doc") for i in range(5_000)])
    assert [decision["n"] for decision in decisions] == list(range(5_000))


async def test_an_empty_batch_is_allowed(cache):
    assert await cache.get_batch([]) == []
    assert await cache.set_batch([]) == 0


async def test_preloading_stores_decisions(cache):
    assert await cache.preload_cache([("alice", "read", "doc", ALLOW, None)]) == 1
    assert await cache.get("alice", "read", "doc") == ALLOW


async def test_clear_and_clear_all_remove_everything(cache):
    for clear in (cache.clear, cache.clear_all):
        await cache.set("alice", "read", "doc", ALLOW)
        assert await clear() is True
        assert await cache.get("alice", "read", "doc") is None
        assert await cache.size() == await cache.get_cache_size() == 0


async def test_a_disabled_cache_serves_nothing_stores_nothing_and_counts_nothing(cache):
    await cache.set("alice", "read", "doc", ALLOW)
    before = cache.metrics
    cache.enabled = False
    assert await cache.get("alice", "read", "doc") is None
    assert await cache.set("bob", "read", "doc", ALLOW) is False
    assert await cache.get_batch([("alice", "read", "doc")]) == [None]
    assert await cache.set_batch([("bob", "read", "doc", ALLOW)]) == 0
    assert await cache.preload_cache([("bob", "read", "doc", ALLOW, None)]) == 0
    assert cache.metrics == before
    cache.enabled = True
    assert await cache.get("alice", "read", "doc") == ALLOW
    assert await cache.get("bob", "read", "doc") is None


async def test_a_closed_cache_stays_empty_and_unhealthy(cache):
    await cache.set("alice", "read", "doc", ALLOW)
    assert await cache.health_check() is True
    async with cache as entered:
        assert entered is cache
    assert await cache.health_check() is False
    assert await cache.set("alice", "read", "doc", ALLOW) is False
    assert await cache.get("alice", "read", "doc") is None
    assert await cache.size() == 0
    assert await cache.close() is None


async def test_the_revalidation_callback_is_kept(cache):
    async def evaluate(user_id, action, resource, context):
        return ALLOW

    assert cache.revalidate_callback is None
    cache.set_revalidate_callback(evaluate)
    assert cache.revalidate_callback is evaluate


def test_the_constructor_takes_the_arguments_of_sark():
    cache = RustPolicyCache(500, 120, False, False)
    assert (cache.max_size, cache.ttl_seconds) == (500, 120)
    assert (cache.enabled, cache.use_optimized_ttl) == (False, False)
    cache = RustPolicyCache(max_size=None, ttl_seconds=None)
    assert (cache.max_size, cache.ttl_seconds) == (10_000, 300)
    assert (cache.enabled, cache.use_optimized_ttl, cache.stale_while_revalidate) == (True,) * 3
    assert repr(cache) == "RustPolicyCache(max_size=10000, ttl_seconds=300, enabled=True)"


def test_the_constants_are_those_of_the_contract():
    assert RustPolicyCache.KEY_PREFIX == "policy:decision"
    assert RustPolicyCache.DEFAULT_TTL_SECONDS == 300
    assert RustPolicyCache.DEFAULT_MAX_SIZE == 10_000
    assert RustPolicyCache.STALE_THRESHOLD_RATIO == 0.3
    assert RustPolicyCache.OPTIMIZED_TTL == {
        "critical": 60,
        "confidential": 120,
        "internal": 180,
        "public": 300,
        "default": 120,
    }


def test_it_has_the_interface_of_every_policy_cache(cache):
    assert isinstance(cache, PolicyCacheProtocol)
    assert isinstance(cache.metrics, CacheMetrics)


@pytest.fixture
def no_instance(monkeypatch):
    monkeypatch.setattr(process, "_caches", {})


@pytest.mark.usefixtures("no_instance")
async def test_the_process_has_one_cache_until_its_caches_are_closed():
    assert is_rust_cache_available()
    first = get_rust_policy_cache(max_size=7, ttl_seconds=9, enabled=False)
    assert (first.max_size, first.ttl_seconds, first.enabled) == (7, 9, False)
    assert get_rust_policy_cache(max_size=8) is first
    await first.close()  # other code still uses them: the cache stays as it is
    assert get_rust_policy_cache() is first
    await close_policy_caches()
    second = get_rust_policy_cache()
    assert second is not first
    assert (second.max_size, second.ttl_seconds, second.enabled) == (10_000, 300, True)


def test_a_subclass_may_have_its_own_constructor():
    class Edge(RustPolicyCache):
        def __init__(self, ttl, *, settings):
            super().__init__(max_size=settings["size"], ttl_seconds=ttl)

    cache = Edge(60, settings={"size": 5})
    assert (cache.max_size, cache.ttl_seconds) == (5, 60)


def test_using_an_uninitialized_cache_or_initializing_it_twice_is_an_error(cache):
    class Forgetful(RustPolicyCache):
        def __init__(self):
            pass

    for use in (lambda c: c.get("a", "b", "c"), lambda c: c.enabled, lambda c: c.metrics):
        with pytest.raises(RuntimeError, match="__init__ was not called"):
            use(Forgetful())
    with pytest.raises(RuntimeError, match="made already"):
        cache.__init__()


async def test_a_closed_cache_cannot_be_entered_again(cache):
    await cache.close()
    with pytest.raises(RuntimeError, match="this cache is closed"):
        async with cache:
            pass


async def test_a_batch_never_overwrites_what_was_stored_after_it(cache):
    batch = cache.set_batch([("alice", "read", str(i), ALLOW) for i in range(5_000)])
    await cache.set("alice", "read", "4999", {"allow": False})
    assert await batch == 5_000
    assert await cache.get("alice", "read", "4999") == {"allow": False}


async def test_a_batch_takes_tags_and_a_stamp(cache):
    stamp = cache.stamp()
    await cache.invalidate(user_id="alice")
    entries = [("alice", "read", "doc", ALLOW), ("bob", "read", "doc", ALLOW)]
    assert await cache.set_batch(entries, stamp=stamp) == 1
    assert await cache.preload_cache(entries, tags=["bundle:1"], stamp=stamp) == 1
    assert await cache.invalidate(tags=["bundle:1"]) == 1
    assert await cache.size() == 0


async def test_methods_can_be_replaced_for_tests(cache):
    with mock.patch.object(cache, "get", new_callable=mock.AsyncMock, return_value=ALLOW):
        assert await cache.get("anyone", "read", "doc") == ALLOW
    assert await cache.get("anyone", "read", "doc") is None
