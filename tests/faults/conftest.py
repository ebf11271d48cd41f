"""Fixtures of the tests with failing servers."""

import gc

import pytest

from timed_requests import open_cache, open_patiently, own_cluster, recovered, watch

__all__ = ["open_cache", "open_patiently", "own_cluster", "recovered", "watch"]


@pytest.fixture(autouse=True)
def nothing_left_for_others():
    """Collects connections that a client dropped while it connected, before other tests begin."""
    yield
    gc.collect()
