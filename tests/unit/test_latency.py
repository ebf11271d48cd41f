"""Latency histograms: the one written in Python, and the compiled one."""

import random
import sys
import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark_cache import RustPolicyCache
from sark_cache.backends._shared.latency import Latency
from sark_cache.metrics import LATENCY_BOUNDS_SECONDS, LatencyHistogram

durations = st.floats(min_value=0, max_value=60)
ALLOW = {"allow": True}


def recorded(*durations):
    latency = Latency()
    for seconds in durations:
        latency.record(seconds)
    return latency


def test_the_default_bounds_rise_from_a_hit_in_this_process_to_a_slow_server():
    assert LATENCY_BOUNDS_SECONDS[0] == 0.000_000_256
    assert LATENCY_BOUNDS_SECONDS[-1] == 1.073_741_824
    assert all(later == 2 * earlier for earlier, later in pairwise(LATENCY_BOUNDS_SECONDS))


def test_nothing_recorded_is_zero():
    latency = Latency()
    assert (latency.count, latency.mean_ms, latency.percentile(0.99)) == (0, 0, 0)
    assert latency.histogram([0.001]) == LatencyHistogram((0.001,), (0,), 0, 0)


def test_a_mean_is_exact_and_a_percentile_at_most_a_bucket_too_high():
    latency = recorded(*(n * 1e-6 for n in range(1, 10_001)))
    assert latency.count == 10_000
    assert latency.mean_ms == pytest.approx(5.0005)
    for fraction in (0.0001, 0.5, 0.95, 0.99, 1.0):
        exact = fraction * 0.01
        assert exact <= latency.percentile(fraction) <= exact * 1.032


@given(st.lists(durations, max_size=50))
def test_counts_are_exact_at_the_default_bounds(seconds):
    histogram = recorded(*seconds).histogram()
    assert histogram.bounds == LATENCY_BOUNDS_SECONDS
    nanoseconds = [1e9 * duration for duration in seconds]
    assert histogram.counts == tuple(
        sum(duration < 2**power for duration in nanoseconds) for power in range(8, 31)
    )
    assert histogram.count == len(seconds)
    assert histogram.sum_seconds == pytest.approx(sum(seconds))


@given(
    st.lists(durations, max_size=50),
    st.lists(st.integers(1, 60_000_000), min_size=1, max_size=20, unique=True),
)
def test_counts_at_any_bounds_never_fall_and_are_close(seconds, microseconds):
    bounds = [bound / 1e6 for bound in sorted(microseconds)]
    histogram = recorded(*seconds).histogram(bounds)
    assert all(earlier <= later for earlier, later in pairwise((0, *histogram.counts)))
    assert histogram.counts[-1] <= histogram.count
    for bound, count in zip(bounds, histogram.counts, strict=True):
        assert count <= sum(duration <= bound for duration in seconds)
        assert count >= sum(duration < bound * 0.968 for duration in seconds)


def test_the_compiled_histogram_counts_alike():
    cache, latency = RustPolicyCache(), Latency()
    chance = random.Random(7)
    for _ in range(2_000):
        nanoseconds = int(10 ** chance.uniform(2, 9.5))
        latency.record(nanoseconds / 1e9)
        cache.record_opa_latency(nanoseconds / 1e6)
    for bounds in (LATENCY_BOUNDS_SECONDS, [0.000_5, 0.001, 0.002_5, 0.01, 0.5]):
        ours, compiled = latency.histogram(bounds), cache.evaluation_histogram(bounds)
        assert (ours.bounds, ours.counts) == (compiled.bounds, compiled.counts)
        assert ours.count == compiled.count
        assert ours.sum_seconds == pytest.approx(compiled.sum_seconds)
    assert latency.mean_ms == pytest.approx(cache.metrics.avg_opa_latency_ms)


async def test_requests_are_measured_one_in_64_the_first_one_included(cache):
    assert cache.latency_histogram().count == 0
    await cache.set("alice", "read", "doc", ALLOW)
    for expected in (1, 2, 3):
        for _ in range(64):
            await cache.get("alice", "read", "doc")
        histogram = cache.latency_histogram()
        assert histogram.count == histogram.counts[-1] == expected
        assert 0 < histogram.sum_seconds < 1


async def test_a_histogram_and_the_metrics_agree(cache):
    for i in range(1_000):
        await cache.get("alice", "read", str(i))
        cache.record_opa_latency(i / 10)
    metrics, requests, evaluations = (
        cache.get_metrics(),
        cache.latency_histogram(),
        cache.evaluation_histogram(),
    )
    assert requests.count == 16
    assert evaluations.count == 1_000
    for histogram, mean in (
        (requests, metrics["avg_cache_latency_ms"]),
        (evaluations, metrics["avg_opa_latency_ms"]),
    ):
        assert histogram.sum_seconds / histogram.count * 1e3 == pytest.approx(mean, abs=1e-6)


async def test_a_reset_empties_both_histograms(cache):
    await cache.get("alice", "read", "doc")
    cache.record_opa_latency(10)
    cache.reset_metrics()
    empty = LatencyHistogram(LATENCY_BOUNDS_SECONDS, (0,) * 23, 0, 0)
    assert cache.latency_histogram() == cache.evaluation_histogram() == empty
    await cache.get("alice", "read", "doc")
    assert cache.latency_histogram().count == 1


def test_a_reset_empties_the_one_in_python():
    latency = recorded(0.1, 0.2)
    latency.reset()
    assert latency.histogram() == Latency().histogram()


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ([0.2, 0.1], "bounds must rise"),
        ([0.1, 0.1], "bounds must rise"),
        ([0.0], "from above 0"),
        ([1e-10], "at least a nanosecond"),
        ([1.0, float("inf")], "bounds must be finite"),
        ([float("nan")], "bounds must be finite"),
    ],
)
def test_bounds_that_do_not_rise_are_refused(cache, bounds, says):
    for histogram in (cache.latency_histogram, cache.evaluation_histogram, Latency().histogram):
        with pytest.raises(ValueError, match=says):
            histogram(bounds)


def test_a_closed_or_disabled_cache_has_its_histograms(cache):
    cache.record_opa_latency(10)
    cache.enabled = False
    assert cache.evaluation_histogram().count == 1
    cache.close()
    assert cache.evaluation_histogram().count == 1
    assert cache.latency_histogram().count == 0


@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="needs a global interpreter lock"
)
def test_threads_lose_no_duration():
    latency = Latency()

    def record():
        for _ in range(20_000):
            latency.record(0.001)

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    seen = []
    while any(thread.is_alive() for thread in threads):
        histogram = latency.histogram([0.0005, 0.002])
        seen.append(histogram.count)
        assert histogram.counts == (0, histogram.count)
        assert histogram.sum_seconds == pytest.approx(histogram.count * 0.001)
    assert seen == sorted(seen)
    assert latency.count == 80_000
