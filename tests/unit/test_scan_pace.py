"""The number of keys in each step of a scan, which follows the speed of the last steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark_cache.backends.redis.scan_pace import FIRST_KEYS, KEYS_AT_ONCE, STEP_BYTES, Pace


@pytest.mark.parametrize(("length", "least"), [(30, KEYS_AT_ONCE), (60, 1_600)])
def test_short_keys_of_a_near_server_are_scanned_many_at_once(length, least):
    pace = Pace(0.025)
    for _ in range(10):
        pace.took(length * pace.keys, 0.0005)
    assert pace.keys >= least


def test_long_keys_are_scanned_few_at_once():
    pace = Pace(0.025)
    for _ in range(10):
        pace.took(64 * 1024 * pace.keys, 0.0005)
    assert pace.keys * 64 * 1024 <= STEP_BYTES


def test_a_slow_connection_shortens_the_steps():
    pace = Pace(0.025)
    for _ in range(10):
        pace.took(100 * pace.keys, 0.002 * pace.keys)
    assert 1 <= pace.keys <= 0.025 / 0.002


def test_steps_without_a_reply_get_shorter_down_to_one_key():
    pace = Pace(0.025)
    steps = [pace.keys]
    while pace.failed():
        steps.append(pace.keys)
    assert steps[0] == FIRST_KEYS
    assert steps[-1] == pace.keys == 1
    assert len(steps) < 5


@given(st.lists(st.tuples(st.integers(0, 2**40), st.floats(0, 1e9)) | st.none()))
def test_a_step_has_at_least_one_key_and_never_too_many(steps):
    pace = Pace(0.025)
    for step in steps:
        pace.failed() if step is None else pace.took(*step)
        assert 1 <= pace.keys <= KEYS_AT_ONCE
