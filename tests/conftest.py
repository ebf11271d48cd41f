"""Fixtures and settings of all tests."""

import gc
import threading
import time

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


@pytest.fixture(autouse=True, scope="module")
def no_reader_is_left():
    """Fails if a file leaves a thread that follows a log. Other tests would run beside it."""
    yield
    gc.collect()
    deadline = time.monotonic() + 10
    while left := [one for one in threading.enumerate() if one.name == "sark-cache log reader"]:
        assert time.monotonic() < deadline, f"{left} follows a log: close its caches"
        time.sleep(0.01)
