"""The limits and defaults that stand in Python and in Rust are equal."""

import inspect

import pytest

from sark_cache import AsyncCache, CacheSettings, RustPolicyCache, _native
from sark_cache._core import limits
from sark_cache.backends.base import BasePolicyCache

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


def test_the_settings_have_the_defaults_of_the_cache():
    settings = CacheSettings()
    assert settings.cache_max_size == limits.DEFAULT_MAX_SIZE
    assert settings.cache_ttl == limits.DEFAULT_TTL_SECONDS


def test_the_settings_refuse_a_size_in_bytes_that_the_cache_refuses():
    least = limits.MIN_MAX_BYTES
    assert RustPolicyCache(max_bytes=CacheSettings(cache_max_bytes=least).cache_max_bytes).enabled
    with pytest.raises(ValueError, match=f"at least {least}"):
        RustPolicyCache(max_bytes=least - 1)
    with pytest.raises(ValueError, match=f"greater than or equal to {least}"):
        CacheSettings(cache_max_bytes=least - 1)
