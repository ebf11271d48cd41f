"""A revocation through one cache of the process applies to all of its caches."""

import gc

import pytest

from sark_cache import (
    InvalidationError,
    create_policy_cache,
)
from sark_cache.selection import registry as process
from sark_cache.selection.registry import LinkedNullPolicyCache, LinkedPolicyCache

ALLOW = {"allow": True}
ALICE = ("alice", "read", "doc")


async def test_a_revocation_through_one_cache_reaches_all(settled, fresh_redis):
    chosen = settled(redis_url=fresh_redis.url, rust_cache_rollout_pct=100)
    native = create_policy_cache("alice")
    chosen.flags.rollback("rust_cache")
    redis = create_policy_cache("alice")
    none = process.get_or_create(LinkedNullPolicyCache, LinkedNullPolicyCache)
    # A revocation through the tiered cache removes decisions from Redis, too, and counts its own.
    for through, count in ((native, 1), (redis, 2), (none, 1)):
        for revoke, removed in [
            (lambda cache: cache.invalidate(user_id="alice"), count),
            (lambda cache: cache.invalidate(tags=["t"]), count),
            (lambda cache: cache.invalidate_pattern("policy:decision:alice:*"), count),
            (lambda cache: cache.delete(*ALICE), True),
            (lambda cache: cache.clear(), True),
            (lambda cache: cache.clear_all(), True),
        ]:
            for cache in (native, redis):
                assert await cache.set(*ALICE, ALLOW, tags=["t"])
            assert await revoke(through) == removed
            assert await native.get(*ALICE) is None
            assert await redis.get(*ALICE) is None


async def test_a_revoked_decision_does_not_return_when_a_rollout_changes(settled, fresh_redis):
    chosen = settled(redis_url=fresh_redis.url)
    await create_policy_cache("alice").set(*ALICE, ALLOW)
    chosen.flags.set_rollout_pct("rust_cache", 100)
    assert await create_policy_cache("alice").invalidate(user_id="alice") == 1
    chosen.flags.rollback("rust_cache")
    assert await create_policy_cache("alice").get(*ALICE) is None


async def test_a_revocation_that_redis_cannot_confirm_applies_here_and_raises(settled, own_redis):
    server = own_redis()
    settled(redis_url=server.url, rust_cache_rollout_pct=100, redis_command_timeout=0.25)
    cache = create_policy_cache("alice")
    await cache.set(*ALICE, ALLOW)
    server.kill()
    with pytest.raises(InvalidationError):
        await cache.invalidate(user_id="alice")
    assert await cache.get(*ALICE) is None


async def test_a_revocation_reaches_redis_even_after_its_cache_was_closed(settled, fresh_redis):
    chosen = settled(redis_url=fresh_redis.url)
    async with create_policy_cache("alice") as redis:
        await redis.set(*ALICE, ALLOW)
    chosen.flags.set_rollout_pct("rust_cache", 100)
    assert await create_policy_cache("alice").invalidate(user_id="alice") == 1
    chosen.flags.rollback("rust_cache")
    assert await create_policy_cache("alice").get(*ALICE) is None


async def test_wrong_arguments_of_a_revocation_raise_and_leave_no_coroutine(
    settled, fresh_redis, recwarn
):
    settled(redis_url=fresh_redis.url, rust_cache_rollout_pct=100)
    create_policy_cache("alice")
    redis = process.get_or_create(LinkedPolicyCache, pytest.fail)
    for wrong in (lambda: redis.invalidate(user_id=1), lambda: redis.delete(1, "read", "doc")):
        with pytest.raises(TypeError, match="user_id must be a str"):
            await wrong()
    gc.collect()
    assert not [str(w.message) for w in recwarn.list]
