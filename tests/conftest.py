"""Fixtures and settings of all tests."""

import pytest
from hypothesis import settings

from sark_cache import RustPolicyCache

pytest_plugins = ["limits", "servers.fixtures"]

# A slow machine must not fail a test, and a failure must be reproducible from its log.
settings.register_profile("sark", deadline=None, max_examples=300, print_blob=True)
settings.load_profile("sark")


@pytest.fixture
def cache() -> RustPolicyCache:
    return RustPolicyCache()
