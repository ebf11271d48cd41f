"""Pauses between refreshes without a result, as the backends in Python compute them."""

import pytest

from sark_cache.backends._shared import refresh_pauses as pauses
from sark_cache.backends._shared.refresh_pauses import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    MAX_PAUSES,
    Pauses,
)


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    time = [1_000.0]
    monkeypatch.setattr(pauses, "monotonic", lambda: time[0])
    return time


def length(kept, clock):
    """Returns the length of the pause that begins now."""
    kept.begin("key")
    began = clock[0]
    while kept.has("key"):
        clock[0] += 0.001
    return clock[0] - began


def test_each_pause_in_a_row_is_about_twice_as_long(clock):
    kept = Pauses()
    for row in range(10):
        whole = min(FIRST_PAUSE_SECONDS * 2**row, LONGEST_PAUSE_SECONDS)
        assert whole / 2 <= length(kept, clock) <= whole + 0.01


def test_a_success_ends_the_row(clock):
    kept = Pauses()
    for _ in range(5):
        kept.begin("key")
    kept.end("key")
    assert not kept.has("key")
    assert length(kept, clock) <= FIRST_PAUSE_SECONDS + 0.01


def test_an_old_row_starts_again(clock):
    kept = Pauses()
    for _ in range(10):
        kept.begin("key")
    clock[0] += 2 * LONGEST_PAUSE_SECONDS
    assert length(kept, clock) <= FIRST_PAUSE_SECONDS + 0.01


def test_pauses_of_many_keys_end_at_different_times(clock):
    kept = Pauses()
    keys = [f"key-{number}" for number in range(100)]
    for key in keys:
        kept.begin(key)
    clock[0] += 0.75 * FIRST_PAUSE_SECONDS
    assert 5 < sum(map(kept.has, keys)) < 95


def test_the_memory_is_limited_and_keeps_the_latest_key(clock):
    kept = Pauses()
    for number in range(MAX_PAUSES + 500):
        kept.begin(f"key-{number}")
        assert kept.has(f"key-{number}")
    assert len(kept) == MAX_PAUSES
    clock[0] += FIRST_PAUSE_SECONDS
    kept.begin("key")
    assert len(kept) == 1, "those that are over make room"
