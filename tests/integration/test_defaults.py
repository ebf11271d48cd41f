"""Objects that are created without arguments use the settings in force."""

import sys

import pytest

from sark_cache import (
    CacheSettings,
    FeatureFlagManager,
    PolicyCache,
    SettingsError,
    TieredPolicyCache,
    close_policy_caches,
    get_policy_cache,
    get_rust_policy_cache,
)
from sark_cache.backends._shared import defaults

URL = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
async def nothing_in_force(monkeypatch):
    monkeypatch.setattr(defaults, "_in_force", None)
    await close_policy_caches()
    yield
    await close_policy_caches()


@pytest.fixture
def in_environment(monkeypatch):
    """Sets settings in the environment."""

    def put(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(f"SARK_CACHE_{name}", value)

    return put


def address(cache):
    """Returns the host and the port of the server."""
    found = cache.redis.connection_pool.connection_kwargs
    return found["host"], found["port"]


async def test_a_redis_cache_without_a_server_uses_the_environment(in_environment):
    in_environment(REDIS_URL=URL, CACHE_TTL="70", REDIS_COMMAND_TIMEOUT="3", NAMESPACE="shop:")
    in_environment(REDIS_REPLICAS="2")
    cache = PolicyCache()
    assert address(cache) == ("127.0.0.1", 1)
    assert cache.ttl_seconds == 70
    assert cache._connections.current().command_timeout == 3
    assert cache._connections.current().replicas == 2
    assert PolicyCache(replicas=0)._connections.current().replicas == 0
    assert cache._store.prefix.startswith("shop:")
    assert PolicyCache(ttl_seconds=600).ttl_seconds == 600
    assert PolicyCache(command_timeout=1)._connections.current().command_timeout == 1


async def test_a_tiered_cache_without_a_server_uses_the_environment(in_environment):
    in_environment(REDIS_URL=URL, MAX_STALENESS="2.5", REDIS_REPLICAS="2")
    assert TieredPolicyCache()._revoker.settle_limit == pytest.approx(1.1 * 2.5, abs=0.01)
    assert TieredPolicyCache()._revoker._connections.current().replicas == 2
    elsewhere = "redis://127.0.0.1:2/0"  # caches of one log share its longest span
    assert TieredPolicyCache(elsewhere)._revoker.settle_limit == pytest.approx(1.1, abs=0.01)


async def test_a_redis_cache_with_a_server_does_not(in_environment):
    in_environment(REDIS_URL="redis://elsewhere:6379/0", CACHE_TTL="70", NAMESPACE="shop:")
    cache = PolicyCache(URL)
    assert address(cache) == ("127.0.0.1", 1)
    assert cache.ttl_seconds == 300
    assert not cache._store.prefix.startswith("shop:")


async def test_without_a_configured_server_the_local_one_is_used():
    assert address(PolicyCache()) == ("localhost", 6379)


def test_wrong_settings_raise(in_environment):
    in_environment(CACHE_TTL="soon")
    for make in (PolicyCache, get_policy_cache, get_rust_policy_cache):
        with pytest.raises(SettingsError, match="SARK_CACHE_CACHE_TTL"):
            make()


async def test_the_settings_of_the_app_take_precedence_over_the_environment(in_environment):
    in_environment(CACHE_TTL="70")
    settings = CacheSettings(cache_ttl=80, cache_max_size=9, redis_url=URL)
    defaults.put_in_force(settings)
    assert get_policy_cache().ttl_seconds == PolicyCache().ttl_seconds == 80
    assert address(get_policy_cache()) == ("127.0.0.1", 1)
    assert (get_rust_policy_cache().ttl_seconds, get_rust_policy_cache().max_size) == (80, 9)
    await close_policy_caches()
    assert get_rust_policy_cache(max_size=5, ttl_seconds=6).ttl_seconds == 6
    assert get_policy_cache(ttl_seconds=7, enabled=False).enabled is False
    defaults.take_out_of_force(CacheSettings())
    assert PolicyCache().ttl_seconds == 80
    defaults.take_out_of_force(settings)
    assert PolicyCache().ttl_seconds == 70


async def test_without_pydantic_settings_only_the_url_is_read(in_environment, monkeypatch):
    monkeypatch.delitem(sys.modules, "sark_cache.settings")
    monkeypatch.setitem(sys.modules, "pydantic_settings", None)
    in_environment(REDIS_URL=URL, CACHE_TTL="70")
    assert address(PolicyCache()) == address(get_policy_cache()) == ("127.0.0.1", 1)
    assert PolicyCache().ttl_seconds == 300
    assert get_rust_policy_cache().max_size == 10_000


def test_flags_have_the_names_of_sark(fresh_redis):
    import redis

    assert FeatureFlagManager().redis is None
    client = redis.Redis.from_url(fresh_redis.url)
    flags = FeatureFlagManager(client)
    assert flags.redis is client
    assert flags.rollout_pct == {"rust_cache": 0, "rust_opa": 0}
    with pytest.raises(TypeError):
        flags.rollout_pct["rust_cache"] = 5
    flags.close()
    client.close()
