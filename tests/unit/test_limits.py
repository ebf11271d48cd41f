"""The limits and defaults that stand in Python and in Rust are equal."""

import inspect
from typing import get_args, get_type_hints

import pytest

from sark_cache import AsyncCache, CacheCleanupTask, CacheSettings, RustPolicyCache, _native
from sark_cache._core import limits
from sark_cache.backends.base import BasePolicyCache
from sark_cache.backends.redis import cache as redis

IN_PYTHON = {name: value for name, value in vars(limits).items() if name.isupper()}


@pytest.mark.parametrize("name", sorted(IN_PYTHON.keys() | _native.CONSTANTS.keys()))
def test_a_limit_has_one_value_in_python_and_in_rust(name):
    assert IN_PYTHON[name] == _native.CONSTANTS[name]


def test_the_class_attributes_are_the_limits():
    assert BasePolicyCache.KEY_PREFIX == limits.KEY_PREFIX
    assert BasePolicyCache.DEFAULT_MAX_SIZE == limits.DEFAULT_MAX_SIZE
    assert BasePolicyCache.DEFAULT_TTL_SECONDS == limits.DEFAULT_TTL_SECONDS


def test_every_refreshed_sensitivity_is_in_the_ttl_table():
    assert BasePolicyCache.OPTIMIZED_TTL.keys() > BasePolicyCache.REFRESHED_SENSITIVITIES


@pytest.mark.parametrize("kind", [AsyncCache, RustPolicyCache])
def test_the_signature_has_the_defaults(kind):
    arguments = inspect.signature(kind).parameters
    assert arguments["max_size"].default == limits.DEFAULT_MAX_SIZE
    assert arguments["ttl_seconds"].default == limits.DEFAULT_TTL_SECONDS


def test_none_means_the_defaults():
    cache = RustPolicyCache(max_size=None, ttl_seconds=None)
    assert (cache.max_size, cache.ttl_seconds) == (
        limits.DEFAULT_MAX_SIZE,
        limits.DEFAULT_TTL_SECONDS,
    )


ARGUMENTS = {
    RustPolicyCache: {
        "max_size": "cache_max_size",
        "ttl_seconds": "cache_ttl",
        "enabled": "enabled",
        "use_optimized_ttl": "use_optimized_ttl",
        "stale_while_revalidate": "stale_while_revalidate",
        "max_bytes": "cache_max_bytes",
        "eviction": "cache_eviction",
    },
    CacheCleanupTask: {"interval": "cleanup_interval"},
}
"""The arguments that settings set, and the names of the settings."""


@pytest.mark.parametrize(
    ("kind", "argument", "setting"),
    [(kind, *names) for kind, settings in ARGUMENTS.items() for names in settings.items()],
)
def test_a_setting_has_the_default_of_the_argument(kind, argument, setting):
    expected = inspect.signature(kind).parameters[argument].default
    assert getattr(CacheSettings(), setting) == expected


def test_the_settings_have_the_time_outs_of_the_redis_cache():
    settings = CacheSettings()
    assert settings.redis_connect_timeout == redis.CONNECT_SECONDS
    assert settings.redis_command_timeout == redis.COMMAND_SECONDS


def test_the_cache_accepts_every_eviction_policy_of_the_settings():
    policies = get_args(get_type_hints(CacheSettings)["cache_eviction"])
    assert len(policies) > 1
    for policy in policies:
        assert RustPolicyCache(eviction=policy).enabled
    with pytest.raises(ValueError, match=" or ".join(f'"{policy}"' for policy in policies)):
        RustPolicyCache(eviction="fifo")


def test_the_settings_refuse_a_size_in_bytes_that_the_cache_refuses():
    least = limits.MIN_MAX_BYTES
    assert RustPolicyCache(max_bytes=CacheSettings(cache_max_bytes=least).cache_max_bytes).enabled
    with pytest.raises(ValueError, match=f"at least {least}"):
        RustPolicyCache(max_bytes=least - 1)
    with pytest.raises(ValueError, match=f"greater than or equal to {least}"):
        CacheSettings(cache_max_bytes=least - 1)
