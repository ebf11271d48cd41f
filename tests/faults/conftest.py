"""Fixtures of these tests."""

import gc

import pytest

from conftest_faults import open_cache, open_patiently, own_cluster, recovered, watch

__all__ = ["open_cache", "open_patiently", "own_cluster", "recovered", "watch"]


@pytest.fixture(autouse=True)
def nothing_left_for_others():
    """Collects what a client drops where connecting is cut short, before other tests begin."""
    yield
    gc.collect()
