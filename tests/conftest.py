"""Fixtures and settings of all tests."""

import pytest
from hypothesis import settings

from sark_cache import RustPolicyCache
from sark_cache._core import arguments
from sark_cache.backends.redis import cache as redis

# A revocation waits for a span if its cache has just connected. Few tests are about that.
redis.SPAN_SECONDS = arguments.MIN_MAX_STALENESS

pytest_plugins = ["limits", "servers.fixtures"]

# A slow machine must not fail a test, and a failure must be reproducible from its log.
settings.register_profile("sark", deadline=None, max_examples=300, print_blob=True)
settings.load_profile("sark")


@pytest.fixture
def cache() -> RustPolicyCache:
    return RustPolicyCache()
