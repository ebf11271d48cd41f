"""`SelectedPolicyCache`: one cache for all users, each served by the backend selected for them."""

import asyncio
import inspect

import pytest

from closing import assert_closed_by_its_block
from sark_cache import (
    BatchLoadError,
    InvalidationError,
    SelectedPolicyCache,
    create_policy_cache,
    get_rust_policy_cache,
)

ALLOW = {"allow": True}
DENY = {"allow": False}
ALICE = ("alice", "read", "doc")


async def test_disabling_it_also_disables_caches_that_are_created_later(settled):
    chosen = settled(rust_cache_rollout_pct=0)
    cache = SelectedPolicyCache(chosen)
    cache.enabled = False
    chosen.flags.set_rollout_pct("rust_cache", 100)
    assert await cache.set(*ALICE, ALLOW) is False
    assert await cache.get(*ALICE) is None
    assert get_rust_policy_cache().enabled is False
    cache.enabled = True
    assert await cache.set(*ALICE, ALLOW) is True


@pytest.mark.parametrize("percentage", [0, 100], ids=["redis", "native"])
@pytest.mark.parametrize("denied", ["set", "set_batch"])
async def test_a_deny_while_it_is_off_ends_the_older_allow(
    settled, fresh_redis, percentage, denied
):
    cache = SelectedPolicyCache(
        settled(redis_url=fresh_redis.url, rust_cache_rollout_pct=percentage)
    )
    assert await cache.health_check(), "a native cache follows the log from here on"
    assert await cache.set(*ALICE, ALLOW)
    assert await cache.get(*ALICE) == ALLOW
    cache.enabled = False
    if denied == "set":
        assert await cache.set(*ALICE, DENY) is False
    else:
        assert await cache.set_batch([(*ALICE, DENY)]) == 0
    cache.enabled = True
    assert await cache.get(*ALICE) is None
    assert await cache.get_batch([ALICE]) == [None]


class Loader:
    """A loader of many requests, which notes the users that it was asked about."""

    def __init__(self):
        self.asked = []

    async def __call__(self, requests):
        self.asked.append(sorted({user for user, *_ in requests}))
        return [ALLOW if user != "eve" else ConnectionError() for user, *_ in requests]


async def test_a_batch_is_divided_among_the_caches_of_its_users(settled, fresh_redis):
    chosen = settled(redis_url=fresh_redis.url, rust_cache_rollout_pct=50)
    cache = SelectedPolicyCache(chosen)
    assert await cache.health_check()
    requests = [(f"user-{number}", "read", "doc") for number in range(40)]
    loader = Loader()
    assert await cache.get_or_load_many(iter(requests), loader) == [ALLOW] * 40
    assert len(loader.asked) == 2, "once for each cache"
    assert sorted(user for asked in loader.asked for user in asked) == sorted(
        user for user, *_ in requests
    )
    assert await cache.get_batch(requests) == [ALLOW] * 40
    with pytest.raises(BatchLoadError) as failed:
        await cache.get_or_load_many([*requests, ("eve", "read", "doc")], loader)
    assert failed.value.decisions == [*[ALLOW] * 40, None]
    assert list(failed.value.errors) == [40]


async def test_a_filter_asks_the_cache_of_the_user_and_counts_its_hits(settled):
    cache = SelectedPolicyCache(settled(rust_cache_rollout_pct=100))
    loader = Loader()
    documents = ["plan", "budget"]
    assert await cache.filter_allowed("alice", "read", documents, loader) == documents
    native = get_rust_policy_cache()
    before = native.metrics
    assert await cache.filter_allowed("alice", "read", documents, loader) == documents
    after = native.metrics
    assert (after.hits - before.hits, after.misses - before.misses) == (2, 0)
    assert after.batch_operations == before.batch_operations, "no decision was built"
    assert loader.asked == [["alice"]]


async def test_a_closed_one_serves_and_stores_nothing_and_refuses_to_revoke(settled):
    cache = SelectedPolicyCache(settled(rust_cache_rollout_pct=100))
    await cache.set(*ALICE, ALLOW)
    await cache.close()
    assert await cache.get(*ALICE) is None
    assert await cache.set(*ALICE, ALLOW) is False

    async def load():
        return ALLOW

    assert await cache.get_or_load(*ALICE, load) == ALLOW
    loader = Loader()
    assert await cache.get_or_load_many([ALICE], loader) == [ALLOW]
    assert await cache.get_or_load_many([], loader) == []
    assert await cache.filter_allowed("alice", "read", ["doc"], loader) == ["doc"]
    cache.record_opa_latency(5)
    with pytest.raises(InvalidationError, match="closed"):
        await cache.invalidate(user_id="alice")
    assert await get_rust_policy_cache().get(*ALICE) == ALLOW, "which others use"


async def half(settled, server):
    """Returns a cache that serves half of its users from each backend, and the users."""
    chosen = settled(redis_url=server.url, rust_cache_rollout_pct=50)
    users = [f"user-{number}" for number in range(200)]
    native = {user for user in users if chosen.choose(user).backend == "tiered"}
    assert 50 < len(native) < 150
    return SelectedPolicyCache(chosen), users, native


async def test_each_user_is_served_by_their_backend(settled, fresh_redis):
    cache, users, native = await half(settled, fresh_redis)
    for user in users:
        assert await cache.set(user, "read", "doc", ALLOW, tags=["t"]) is True
        assert await cache.get(user, "read", "doc") == ALLOW
    assert await cache.size() == await cache.get_cache_size() == 200
    assert await get_rust_policy_cache().size() == len(native)
    assert {one.backend for one in cache.backends()} == {"tiered", "redis"}
    assert await cache.invalidate(user_id="user-7") == 1
    assert await cache.delete("user-8", "read", "doc") is True
    assert await cache.invalidate_pattern("*:user-9:*") == 1
    assert await cache.invalidate(tags=["t"]) == 197
    assert await cache.cleanup_expired() == 0
    metrics = cache.metrics
    assert (metrics.hits, metrics.invalidations) == (200, 200)
    assert metrics.cache_latency_p50_us > 0
    assert cache.latency_histogram().count >= 200 - len(native)
    cache.reset_metrics()
    assert cache.get_metrics()["total_requests"] == 0
    await cache.close()


async def test_batches_across_both_backends_are_answered_in_order(settled, fresh_redis):
    cache, users, _ = await half(settled, fresh_redis)
    rows = [(user, "read", "doc", {"allow": True, "user": user}) for user in users]
    stamp = cache.stamp()
    assert await cache.set_batch(rows[:100]) == 100
    assert await cache.preload_cache(rows[100:]) == 100
    served = await cache.get_batch([(user, "read", "doc") for user in users])
    assert [decision["user"] for decision in served] == users
    await cache.health_check()
    stamp = cache.stamp()
    assert await cache.set_batch(rows, stamp=stamp) == 200
    await cache.invalidate(user_id=users[3])
    assert await cache.set_batch(rows, stamp=stamp) == 199
    assert await cache.set(users[3], "read", "doc", ALLOW, stamp=stamp) is False
    assert await cache.clear_all() is True
    await cache.close()


async def test_a_decision_that_is_revoked_while_redis_stores_part_of_a_batch_is_not_stored(
    settled, fresh_redis
):
    cache, users, native = await half(settled, fresh_redis)
    alice, bob = min(native), min(set(users) - native)
    assert await cache.health_check()
    storing = asyncio.create_task(
        cache.set_batch([(user, "read", "doc", ALLOW) for user in (bob, alice)])
    )
    await asyncio.sleep(0)
    await cache.invalidate(user_id=alice)
    await storing
    assert await cache.get(alice, "read", "doc") is None
    await cache.close()


async def test_a_decision_that_is_revoked_while_redis_reads_part_of_a_batch_is_not_served(
    settled, fresh_redis
):
    cache, users, native = await half(settled, fresh_redis)
    alice, bob = min(native), min(set(users) - native)
    await cache.set(alice, "read", "doc", ALLOW)
    await cache.get(bob, "read", "doc")
    asking = asyncio.create_task(cache.get_batch([(user, "read", "doc") for user in (alice, bob)]))
    await asyncio.sleep(0)
    await cache.invalidate(user_id=alice)
    assert await asking == [None, None]
    await cache.close()


async def test_the_signature_of_the_callback_is_read_once(settled):
    class Evaluator:
        looks = 0

        @property
        def __signature__(self):
            type(self).looks += 1
            return inspect.signature(self.__call__)

        async def __call__(self, *_request, **_policy):
            return ALLOW

    cache = SelectedPolicyCache(settled(rust_cache_rollout_pct=100))
    cache.set_revalidate_callback(Evaluator())
    for _ in range(3):
        await cache.get(*ALICE)
    assert Evaluator.looks == 1
    await cache.close()


async def test_loads_and_refreshes_use_the_backend_of_the_user(settled, fresh_redis):
    cache, users, native = await half(settled, fresh_redis)

    async def load():
        return ALLOW

    refreshed = []

    async def refresh(*request):
        refreshed.append(request)
        return ALLOW

    cache.set_revalidate_callback(refresh)
    for user in (min(native), min(set(users) - native)):
        assert await cache.get_or_load(user, "read", "doc", load, ttl_seconds=60) == ALLOW
        assert await cache.get_or_load(user, "read", "doc", pytest.fail) == ALLOW
        assert create_policy_cache(user).revalidate_callback is refresh
    assert cache.metrics.loads == 2
    cache.record_opa_latency(5)
    assert cache.metrics.avg_opa_latency_ms == pytest.approx(5, rel=0.05)
    assert cache.evaluation_histogram().count == 1
    cache.enabled = False
    assert cache.enabled is False
    assert await cache.get(min(native), "read", "doc") is None
    cache.enabled = True
    await assert_closed_by_its_block(cache)


async def test_a_stamp_from_before_the_backend_existed_stores_nothing(settled, fresh_redis):
    chosen = settled(redis_url=fresh_redis.url, rust_cache_rollout_pct=0, tiered=False)
    cache = SelectedPolicyCache()
    assert await cache.health_check()
    stamp = cache.stamp()
    chosen.flags.set_rollout_pct("rust_cache", 100)
    assert await cache.set(*ALICE, ALLOW, stamp=stamp) is False
    assert await cache.set_batch([(*ALICE, ALLOW)], stamp=stamp) == 0
    assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is True
    assert "native" in repr(cache)
    await cache.close()
