"""Fixtures of these tests."""

from conftest_faults import open_cache, recovered, watch

__all__ = ["open_cache", "recovered", "watch"]
