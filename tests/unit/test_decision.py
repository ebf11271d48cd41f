"""`Decision`: an immutable mapping that reads like the dict it was made from."""

import asyncio
import copy
import json
import pickle
import sys
import threading
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark_cache import Decision, RustPolicyCache
from sark_cache.decision import PlainDecision

FIELDS = {
    "allow": True,
    "reason": "owner",
    "obligations": ["log", {"mask": ["ssn"]}],
    "subject": {"roles": ["analyst"], "größe": None},
    "score": 0.5,
    "expires": 1 << 70,
}

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda values: st.lists(values) | st.dictionaries(names, values),
    max_leaves=12,
)


@pytest.fixture(params=[Decision, PlainDecision], ids=["compiled", "plain"])
def kind(request):
    return request.param


@given(st.dictionaries(names, json_values))
@pytest.mark.parametrize("kind", [Decision, PlainDecision], ids=["compiled", "plain"])
def test_it_equals_the_dict_it_was_made_from(kind, fields):
    decision = kind(fields)
    assert decision == fields
    assert fields == decision
    assert decision.to_dict() == fields
    assert list(decision) == list(fields)
    assert len(decision) == len(fields)
    for name in fields:
        assert decision.to_dict()[name] == fields[name]
        assert name in decision
        assert decision[name] is not None or fields[name] is None
    assert kind(decision) == decision
    assert hash(kind(fields)) == hash(decision)
    assert pickle.loads(pickle.dumps(decision)) == decision  # noqa: S301


def test_both_kinds_are_equal_and_hash_alike():
    assert Decision(FIELDS) == PlainDecision(FIELDS)
    assert PlainDecision(FIELDS) == Decision(FIELDS)


def test_it_reads_like_a_mapping(kind):
    decision = kind(FIELDS)
    assert isinstance(decision, Mapping)
    assert decision["reason"] == decision.get("reason") == "owner"
    assert decision.get("missing") is None
    assert decision.get("missing", 7) == 7
    assert decision["expires"] == 1 << 70
    assert dict(decision.items())["score"] == 0.5
    assert list(decision.keys()) == list(FIELDS)
    assert 0.5 in decision.values()
    assert "missing" not in decision
    assert 1 not in decision
    assert "\ud800" not in decision
    assert {**decision}["allow"] is True
    with pytest.raises(KeyError, match="missing"):
        decision["missing"]
    match decision:
        case {"allow": True, "subject": {"roles": roles}}:
            assert roles == ("analyst",)
        case _:
            pytest.fail("it is no mapping to a match statement")


def test_it_is_immutable_at_every_depth(kind):
    decision = kind(FIELDS)
    assert decision["obligations"] == ("log", kind({"mask": ["ssn"]}))
    assert isinstance(decision["subject"], kind)
    for change in (
        lambda: decision.__setitem__("allow", False),
        lambda: setattr(decision, "allow", False),
        lambda: setattr(decision, "new", False),
        lambda: delattr(decision, "allow"),
        lambda: decision["subject"].__setitem__("roles", []),
    ):
        with pytest.raises((AttributeError, TypeError)):
            change()
    assert decision == FIELDS


def test_it_does_not_change_with_its_source_or_with_its_copies(kind):
    given_fields = copy.deepcopy(FIELDS)
    decision = kind(given_fields)
    given_fields["subject"]["roles"].append("admin")
    decision.to_dict()["obligations"].clear()
    assert decision == FIELDS
    assert copy.copy(decision) is decision
    assert copy.deepcopy(decision) is decision


def test_only_the_value_true_allows(kind):
    assert kind({"allow": True}).allow is True
    for value in (False, None, 1, "true", [True], {"allow": True}, 1.0):
        assert kind({"allow": value}).allow is False
    assert kind({}).allow is False
    assert kind({"reason": None}).reason is None
    assert kind({}).reason is None
    assert kind({"reason": "no"}).reason == "no"


def test_it_equals_nothing_else(kind):
    decision = kind({"a": [1, 2]})
    assert decision == {"a": (1, 2)}
    assert decision == MappingProxyType({"a": [1.0, 2]})
    assert decision != {"a": [1, 2], "b": 3}
    assert decision != {"a": object()}
    assert decision != [("a", [1, 2])]
    assert decision != "a"


def test_equal_decisions_are_one_element_of_a_set(kind):
    assert len({kind({"a": 1, "b": [2]}), kind({"b": (2.0,), "a": 1}), kind({"a": 2})}) == 2


def test_a_value_that_is_not_a_json_object_is_refused(kind):
    with pytest.raises(TypeError, match="fields must be a mapping, not list"):
        kind([("allow", True)])
    for fields in ({1: 2}, {"a": object()}, {"a": float("nan")}, {"a": "x" * 70_000}):
        with pytest.raises(ValueError, match=r"JSON|float|larger"):
            kind(fields)


def test_its_repr_shows_its_fields(kind):
    assert repr(kind({"allow": False, "on": ["a"]})) == "Decision({'allow': False, 'on': ['a']})"
    assert json.dumps(kind(FIELDS).to_dict()) == json.dumps(FIELDS)


class Repeating(Mapping):
    """A mapping that may repeat a key, like some classes for HTTP headers."""

    def __init__(self, *fields):
        self.fields = fields

    def __getitem__(self, name):
        return next(value for key, value in self.fields if key == name)

    def __iter__(self):
        return (name for name, _ in self.fields)

    def __len__(self):
        return len(self.fields)

    def items(self):
        return list(self.fields)


def test_a_field_that_comes_twice_is_refused(kind):
    with pytest.raises(ValueError, match="same key twice"):
        kind(Repeating(("allow", True), ("allow", False)))
    with pytest.raises(ValueError, match="same key twice"):
        kind({"inner": Repeating(("allow", True), ("allow", False))})


async def test_a_decision_with_a_repeated_field_is_not_stored_and_removes_the_older_one():
    cache = RustPolicyCache()
    await cache.set("alice", "read", "doc", {"allow": True})
    assert not await cache.set("alice", "read", "doc", Repeating(("allow", True), ("allow", False)))
    assert await cache.get_decision("alice", "read", "doc") is None


async def test_a_mapping_that_is_also_another_json_type_is_not_stored():
    @Mapping.register
    class Text(str):
        __slots__ = ()

        def items(self):
            return []

    cache = RustPolicyCache()
    assert not await cache.set("alice", "read", "doc", Text("allow"))
    assert await cache.get("alice", "read", "doc") is None
    with pytest.raises(ValueError, match="mapping"):
        Decision(Text("allow"))


async def test_returned_decisions_outlive_their_entries_and_are_then_released():
    cache = RustPolicyCache(max_size=10)
    kept = []
    for number in range(500):
        await cache.set("alice", "read", str(number), {"number": number})
        kept.append(await cache.get_decision("alice", "read", str(number)))
    await cache.clear()
    assert [decision["number"] for decision in kept] == list(range(500))
    for _ in range(20):
        await cache.get("alice", "read", "doc")
    # Each call releases some of the decisions that the removed entries left: nothing else holds
    # them.
    own = [Decision({})]
    counts = [sys.getrefcount(decision) for decision in kept]
    assert set(counts) == {sys.getrefcount(decision) for decision in own}


def test_entries_can_be_removed_in_any_thread_while_others_hold_their_decisions():
    cache = RustPolicyCache(max_size=64)

    def use():
        for number in range(300):
            asyncio.run(one(cache, number))

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asyncio.run(size(cache)) <= 64


async def size(cache):
    return await cache.size()


async def one(cache, number):
    await cache.set("alice", "read", str(number), {"number": number})
    decision = await cache.get_decision("alice", "read", str(number))
    assert decision is None or decision["number"] == number


async def test_every_caller_gets_the_same_object():
    cache = RustPolicyCache()
    await cache.set("alice", "read", "doc", FIELDS)
    decision = await cache.get_decision("alice", "read", "doc")
    assert type(decision) is Decision
    assert decision == FIELDS
    assert await cache.get_decision("alice", "read", "doc") is decision
    assert await cache.get("alice", "read", "doc") == FIELDS
    await cache.set("alice", "read", "doc", {"allow": False})
    assert (await cache.get_decision("alice", "read", "doc")).allow is False
    assert decision.allow is True


async def test_it_can_be_stored_again():
    cache = RustPolicyCache()
    assert await cache.set("alice", "read", "doc", Decision(FIELDS))
    assert await cache.get("alice", "read", "doc") == FIELDS
