"""Stored decisions are isolated: no change from outside reaches them, and their types survive."""

from collections import OrderedDict
from types import MappingProxyType

from hypothesis import example, given
from hypothesis import strategies as st

from awaiting import ready
from json_values import JSON, OBJECTS, typed
from sark_cache import RustPolicyCache


def containers(value):
    """Yields every dict and list inside a value, including the value."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from containers(item)
    elif isinstance(value, list):
        yield value
        for item in value:
            yield from containers(item)


def spoil(value):
    for container in list(containers(value)):
        if isinstance(container, dict):
            container.clear()
            container["spoiled"] = True
        else:
            container[:] = ["spoiled"]


@given(OBJECTS)
def test_types_survive_the_round_trip(decision):
    cache = RustPolicyCache()
    assert ready(cache.set("alice", "read", "doc", decision))
    served = ready(cache.get("alice", "read", "doc"))
    assert typed(served) == typed(decision)
    assert list(served) == list(decision), "the order of the fields survives"


@given(OBJECTS)
def test_no_change_from_outside_reaches_the_cache_at_any_depth(decision):
    cache = RustPolicyCache()
    expected = typed(decision)
    ready(cache.set("alice", "read", "doc", decision))
    spoil(decision)
    first = ready(cache.get("alice", "read", "doc"))
    assert typed(first) == expected
    spoil(first)
    [second] = ready(cache.get_batch([("alice", "read", "doc")]))
    assert typed(second) == expected
    spoil(second)
    assert typed(ready(cache.get("alice", "read", "doc"))) == expected


ALIKE = st.builds(
    lambda values, last: dict(zip(["allow", "reason", "of", last], values, strict=True)),
    st.tuples(st.booleans(), st.sampled_from(["a", "ab", "b", "é"]), JSON, JSON),
    st.sampled_from(["at", "rule", "much longer than names are " * 3]),
)
"""Decisions with equal first fields and equally many fields, most with equal names."""


@given(st.lists(ALIKE, min_size=2, max_size=4), st.lists(st.integers(0, 3), max_size=40))
@example([{"allow": True, "of": [1]}, {"allow": True, "of": [True]}], [0, 0, 1, 1] * 40)
@example([{"allow": [], "of": {}}, {"allow": [[]], "of": {}}, {"allow": [], "to": {}}], [0, 1, 2])
def test_similar_decisions_are_not_confused(decisions, asked):
    cache = RustPolicyCache()
    for number, decision in enumerate(decisions):
        ready(cache.set("alice", "read", f"doc{number}", decision))
    for number in asked * 3:
        expected = decisions[number % len(decisions)]
        served = ready(cache.get("alice", "read", f"doc{number % len(decisions)}"))
        assert typed(served) == typed(expected)
        assert list(served) == list(expected)
        spoil(served)


def test_two_hits_share_nothing(cache):
    ready(cache.set("alice", "read", "doc", {"a": {"b": [{"c": []}]}}))
    first = ready(cache.get("alice", "read", "doc"))
    second = ready(cache.get("alice", "read", "doc"))
    assert first == second
    assert not {id(c) for c in containers(first)} & {id(c) for c in containers(second)}


def test_other_mappings_and_tuples_come_back_as_plain_json(cache):
    decision = MappingProxyType({"a": OrderedDict(x=1), "b": (1, (2,)), "c": MappingProxyType({})})
    assert ready(cache.set("alice", "read", "doc", decision))
    served = ready(cache.get("alice", "read", "doc"))
    assert served == {"a": {"x": 1}, "b": [1, [2]], "c": {}}
    assert [type(value) for value in served.values()] == [dict, list, dict]


def test_more_field_names_than_are_kept_are_still_stored(cache):
    decision = {f"field-{i}": i for i in range(5_000)} | {"n" * 100: "long"}
    assert len(str(decision)) > 64 * 1024
    halves = [dict(list(decision.items())[i::4]) for i in range(4)]
    for i, half in enumerate(halves):
        assert ready(cache.set("alice", "read", str(i), half))
    for i, half in enumerate(halves):
        assert ready(cache.get("alice", "read", str(i))) == half
