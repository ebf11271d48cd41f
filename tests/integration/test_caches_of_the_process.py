"""The caches of a process: made once, closed together, usable after a close."""

import asyncio

import pytest

from sark_cache import (
    InvalidationError,
    PolicyCache,
    RustPolicyCache,
    close_policy_caches,
    create_policy_cache,
    get_policy_cache,
    get_rust_policy_cache,
)
from sark_cache.selection import registry as process
from sark_cache.selection import selector as selection
from sark_cache.selection.registry import LinkedNullPolicyCache

ALLOW = {"allow": True}
ALICE = ("alice", "read", "doc")


NOBODY = "redis://127.0.0.1:1/0"


async def test_the_caches_are_those_of_the_process(settled, fresh_redis, monkeypatch):
    monkeypatch.setenv("SARK_CACHE_REDIS_URL", fresh_redis.url)
    settled(redis_url=fresh_redis.url, rust_cache_rollout_pct=100)
    native = create_policy_cache("alice")
    assert native is create_policy_cache("bob") is get_rust_policy_cache()
    assert isinstance(native, RustPolicyCache)
    native_flags = selection.get_selection().flags
    native_flags.rollback("rust_cache")
    redis = create_policy_cache("alice")
    assert redis is create_policy_cache("bob") is get_policy_cache()
    assert isinstance(redis, PolicyCache)
    await close_policy_caches()
    assert create_policy_cache("alice") is not redis


async def test_closing_a_cache_of_the_process_leaves_it_usable(settled, fresh_redis):
    chosen = settled(redis_url=fresh_redis.url)
    redis, native = get_policy_cache(), get_rust_policy_cache()
    none = process.get_or_create(LinkedNullPolicyCache, LinkedNullPolicyCache)
    assert create_policy_cache("alice") is native
    for cache in (redis, native, none):
        await cache.set(*ALICE, ALLOW)
        async with cache as entered:
            assert entered is cache
        await cache.close()
        assert await cache.health_check() is True
        assert not cache.closed
        assert await cache.get(*ALICE) == (None if cache is none else ALLOW)
    assert get_policy_cache() is redis
    assert get_rust_policy_cache() is native
    assert create_policy_cache("alice") is native
    assert await redis.invalidate(user_id="alice") == 2
    await close_policy_caches()
    assert redis.closed
    assert native.closed
    assert get_policy_cache() is not redis
    chosen.close()


async def test_closing_all_caches_closes_the_native_one_at_once_whatever_the_others_do(
    settled, own_redis
):
    server = own_redis()
    settled(redis_url=server.url)
    redis, native = get_policy_cache(), get_rust_policy_cache()
    assert await redis.health_check()
    await native.set(*ALICE, ALLOW)
    server.pause()
    try:
        revoked = asyncio.ensure_future(redis.invalidate(user_id="bob"))
        ending = asyncio.create_task(close_policy_caches())
        await asyncio.sleep(0.05)
        assert not ending.done(), "Redis is to confirm the revocation first"
        assert await native.get(*ALICE) is None, "no revocation would reach it any more"
        assert native.closed
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
    finally:
        server.resume()
    with pytest.raises(InvalidationError, match="this cache is closed"):
        await revoked  # which a close that was cancelled did not wait for
    await redis.end()


async def test_a_cache_that_was_made_from_other_settings_gives_a_warning(
    settled, fresh_redis, monkeypatch, caplog
):
    monkeypatch.setenv("SARK_CACHE_REDIS_URL", NOBODY)
    early, native = get_policy_cache(), get_rust_policy_cache()
    settled(redis_url=fresh_redis.url, namespace="shop", is_reachable=False)
    assert get_policy_cache() is early
    assert get_rust_policy_cache() is native
    warned = [record.getMessage() for record in caplog.records if "made from" in record.message]
    for backend, text in zip(("redis", "tiered"), warned, strict=True):
        assert f"the {backend} cache of this process was made from other settings" in text
        assert "(redis_url, namespace, redis_connect_timeout, redis_command_timeout)" in text
    await close_policy_caches()
    caplog.clear()
    settled(redis_url=fresh_redis.url, namespace="shop")
    settled(redis_url=fresh_redis.url, namespace="shop")
    assert "other settings" not in caplog.text
    await close_policy_caches()


def test_a_cache_is_registered_after_it_is_linked_to_the_others(fresh_process):
    found = []

    class Watched(LinkedNullPolicyCache):
        def set_peers(self, peers):
            found.append(self in process.open_caches())
            super().set_peers(peers)

    made = process.get_or_create(Watched, Watched)
    assert found == [False]
    assert made in process.open_caches()


async def test_closing_a_cache_of_the_process_drops_idle_connections(settled, fresh_redis):
    settled(redis_url=fresh_redis.url)
    cache = get_policy_cache()
    await asyncio.gather(*(cache.get(f"user-{number}", "read", "doc") for number in range(5)))
    before = int(fresh_redis.command("CLIENT", "LIST").count("cmd=eval"))
    await cache.close()
    async with asyncio.timeout(10):
        while int(fresh_redis.command("CLIENT", "LIST").count("cmd=eval")) >= before:
            await asyncio.sleep(0.01)
    assert before >= 1
    assert await cache.get(*ALICE) is None
    assert cache.metrics.errors == 0
