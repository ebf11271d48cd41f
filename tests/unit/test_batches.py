"""A batch returns the same answers as its requests one by one."""

import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awaiting import ready
from json_values import OBJECTS, typed
from sark_cache import RustPolicyCache

NAMES = st.sampled_from(["", "a", "b", "ab", "é"])
CONTEXTS = st.none() | st.sampled_from([{}, {"a": 1}, {"a": 1.0}, {"a": "1"}])
REQUESTS = st.tuples(NAMES, NAMES, NAMES, CONTEXTS)


@given(st.dictionaries(st.integers(0, 30), OBJECTS), st.lists(REQUESTS, max_size=30))
def test_a_batch_finds_what_single_requests_find(decisions, requests):
    cache = RustPolicyCache()
    for at, decision in decisions.items():
        if at < len(requests):
            *names, context = requests[at]
            assert ready(cache.set(*names, decision, context))
    alone = [ready(cache.get(*request)) for request in requests]
    assert [typed(found) for found in ready(cache.get_batch(requests))] == [
        typed(found) for found in alone
    ]


@given(OBJECTS, st.integers(2, 20))
def test_equal_decisions_of_a_batch_share_no_objects(decision, count):
    cache = RustPolicyCache()
    requests = [("alice", "read", str(i)) for i in range(count)]
    ready(cache.set_batch([(*request, decision) for request in requests]))
    decisions = ready(cache.get_batch(requests))
    seen = set()

    def visit(value):
        if isinstance(value, dict | list):
            assert id(value) not in seen
            seen.add(id(value))
            for item in value.values() if isinstance(value, dict) else value:
                visit(item)

    for found in decisions:
        assert typed(found) == typed(decision)
        visit(found)


def test_a_change_to_one_row_does_not_show_in_another():
    cache = RustPolicyCache()
    requests = [("alice", "read", str(i)) for i in range(50)]
    ready(cache.set_batch([(*request, {"allow": True, "by": "role"}) for request in requests]))
    for found in ready(cache.get_batch(requests)):
        assert found.pop("allow") is True
        found["by"] = "somebody"
    again = ready(cache.get_batch(requests))
    assert again == [{"allow": True, "by": "role"}] * 50


@pytest.mark.parametrize("shape", [list, tuple, iter, lambda rows: (list(row) for row in rows)])
def test_rows_may_come_in_any_iterable(shape):
    cache = RustPolicyCache()
    rows = [("alice", "read", str(i), {"n": i}) for i in range(100)]
    assert ready(cache.set_batch(shape(rows))) == 100
    requests = [row[:3] for row in rows]
    assert ready(cache.get_batch(shape(requests))) == [row[3] for row in rows]


class SlowContext(Mapping):
    """An empty context whose `items` takes 50 ms."""

    def __getitem__(self, name):
        raise KeyError(name)

    def __len__(self):
        return 0

    def __iter__(self):
        return iter(())

    def items(self):
        time.sleep(0.05)
        return ()


def test_an_entry_that_expires_during_a_batch_is_not_served():
    cache = RustPolicyCache()
    ready(cache.set("alice", "read", "brief", {"allow": True}, ttl_seconds=0.03))
    ready(cache.set("alice", "read", "doc", {"allow": True}))
    found = ready(
        cache.get_batch([("alice", "read", "brief"), ("alice", "read", "doc", SlowContext())])
    )
    assert found == [None, {"allow": True}]


def test_an_entry_that_is_revoked_before_its_row_is_read_is_not_found():
    cache = RustPolicyCache()
    ready(cache.set("alice", "read", "doc", {"allow": True}))

    def rows():
        yield ("alice", "read", "doc")
        cache.invalidate(user_id="alice")
        yield ("alice", "read", "doc")

    assert ready(cache.get_batch(rows())) == [{"allow": True}, None]


def test_each_row_is_counted_and_the_batch_once():
    cache = RustPolicyCache()
    ready(cache.set("alice", "read", "doc", {"allow": True}))
    ready(cache.get_batch([("alice", "read", "doc"), ("bob", "read", "doc"), ("\ud800", "", "")]))
    metrics = cache.metrics
    assert (metrics.hits, metrics.misses, metrics.errors, metrics.batch_operations) == (1, 2, 1, 1)
