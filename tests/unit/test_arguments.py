"""Arguments: each iterable is read once, and no further than its limit."""

import itertools

import pytest

from sark_cache import CacheMetrics, Loaded
from sark_cache._core.arguments import (
    NOT_GIVEN,
    beyond_limits,
    read_revoked_tags,
    read_tags,
)
from sark_cache._core.limits import MAX_REVOKED_TAGS, MAX_TAGS
from sark_cache.backends._shared.latency import Latency


def endless():
    return (f"tag-{number}" for number in itertools.count())


def test_tags_are_read_from_any_iterable():
    for tags in (["a", "b"], ("a", "b"), iter("ab"), dict.fromkeys("ab").keys(), map(str, "ab")):
        assert read_tags(tags) == ("a", "b")
    assert read_tags(None) == read_tags(()) == ()
    with pytest.raises(TypeError, match="tags must be a list, tuple or set of str, not str"):
        read_tags("ab")
    with pytest.raises(TypeError, match="a tag must be a str, not int"):
        read_tags([1])


def test_endless_tags_are_read_up_to_the_bound():
    tags = read_tags(endless())
    assert len(tags) == MAX_TAGS + 1
    assert (
        beyond_limits("alice", "read", "doc", tags=tags)
        == f"the decision has more than {MAX_TAGS} tags"
    )


def test_a_revocation_distinguishes_omitted_tags_from_empty_ones():
    assert read_revoked_tags(NOT_GIVEN) == read_revoked_tags(None) == ()
    assert repr(NOT_GIVEN) == "()"
    for empty in ((), [], set(), iter(())):
        with pytest.raises(ValueError, match=r"at least one tag.*clear\(\)"):
            read_revoked_tags(empty)


def test_a_revocation_accepts_more_tags_than_a_decision_has_up_to_a_limit():
    assert len(read_revoked_tags(itertools.islice(endless(), MAX_REVOKED_TAGS))) == MAX_REVOKED_TAGS
    with pytest.raises(ValueError, match=r"at most 10,000 in one revocation"):
        read_revoked_tags(endless())


def test_the_result_of_a_loader_reads_its_tags_once():
    loaded = Loaded({"allow": True}, tags=(tag for tag in ["a", "b"]))
    assert loaded.tags == ("a", "b")


def test_the_bounds_of_a_histogram_are_read_once():
    latency = Latency()
    latency.record(0.5)
    histogram = latency.histogram(iter([0.1, 1.0]))
    assert (histogram.bounds, histogram.counts) == ((0.1, 1.0), (0, 1))


def test_metrics_can_be_made_and_read_as_in_sark():
    metrics = CacheMetrics(hits=60, misses=40, avg_cache_latency_ms=1.5, avg_opa_latency_ms=2.5)
    assert metrics.total_requests == metrics.to_dict()["total_requests"] == 100
    assert CacheMetrics(hits=80, total_requests=200).hit_rate == 40
    assert (metrics.cache_latency_ms, metrics.opa_latency_ms) == (1.5, 2.5)
