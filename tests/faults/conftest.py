"""Fixtures of these tests."""

from conftest_faults import open_cache, open_patiently, recovered, watch

__all__ = ["open_cache", "open_patiently", "recovered", "watch"]
