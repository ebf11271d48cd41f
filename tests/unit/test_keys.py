"""Different requests have different keys, and equal requests have equal keys."""

from collections import OrderedDict
from enum import IntEnum, StrEnum
from itertools import repeat
from types import MappingProxyType

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from awaiting import ready
from json_values import AWKWARD, OBJECTS, typed
from sark_cache import RustPolicyCache

ALLOW = {"allow": True}
PARTS = st.tuples(AWKWARD, AWKWARD, AWKWARD)
REQUESTS = st.tuples(PARTS, st.none() | OBJECTS)


def served(stored, asked):
    """Returns whether one request is answered with the decision stored for another."""
    cache = RustPolicyCache(max_size=2)
    assert ready(cache.set(*stored[0], ALLOW, stored[1]))
    return ready(cache.get(*asked[0], asked[1])) is not None


def same(a, b):
    return a[0] == b[0] and typed(a[1] or {}) == typed(b[1] or {})


@given(REQUESTS, REQUESTS)
def test_a_request_is_answered_with_its_own_decision_only(a, b):
    assert served(a, b) == same(a, b)


@given(PARTS, OBJECTS, OBJECTS)
def test_different_contexts_are_different_requests(parts, a, b):
    assert served((parts, a), (parts, b)) == (typed(a) == typed(b))


@given(PARTS, st.lists(st.tuples(AWKWARD, st.integers(0, 3)), unique_by=lambda item: item[0]))
def test_the_order_of_a_context_does_not_matter(parts, items):
    assert served((parts, dict(items)), (parts, dict(reversed(items))))


@given(AWKWARD, AWKWARD, AWKWARD)
@example("a", ":", "b")
@example("", ":", "")
def test_text_cannot_be_shifted_from_one_field_to_the_next(a, separator, b):
    assume(a + separator != a or separator + b != b)
    assert served(((a + separator, b, "x"), None), ((a, separator + b, "x"), None)) == (
        separator == ""
    )


LOOKALIKES = [
    1,
    1.0,
    True,
    "1",
    [1],
    {"1": None},
    0,
    0.0,
    -0.0,
    False,
    "",
    None,
    [],
    {},
    [[]],
    [None],
    10**30,
    10**30 + 1,
    -(10**30),
    1e30,
    "1000000000000000000000000000000",
    2**63,
    -(2**63),
    2**64,
    9007199254740993,
    9007199254740992,
    9007199254740992.0,
]


@pytest.mark.parametrize("a", LOOKALIKES, ids=repr)
def test_lookalikes_in_a_context_are_different(a):
    request = ("alice", "read", "doc")
    for b in LOOKALIKES:
        assert served((request, {"x": a}), (request, {"x": b})) == (typed(a) == typed(b)), b


@pytest.mark.parametrize(
    ("a", "b"),
    [
        # The resource's separators, which SARK replaces by one.
        (("u", "a", "a:b"), ("u", "a", "a_b")),
        (("u", "a", "a:b"), ("u", "a", "a/b")),
        (("u", "a", "a/b"), ("u", "a", "a_b")),
        # A colon inside user or action.
        (("u:a", "b", "c"), ("u", "a:b", "c")),
        (("u", "a:b", "c"), ("u", "a", "b:c")),
        (("u", "a", "c:none"), ("u", "a:c", "none")),
        # A user id that would act as a pattern.
        (("*", "a", "r"), ("u", "a", "r")),
        (("u?", "a", "r"), ("u1", "a", "r")),
        (("[u]", "a", "r"), ("u", "a", "r")),
    ],
)
def test_requests_that_collide_in_sark_do_not_collide(a, b):
    assert not served((a, None), (b, None))
    assert not served((b, None), (a, None))


def test_contexts_are_not_distinguished_by_a_64_bit_hash():
    # Whole contexts are compared, so that no number of them makes a collision likely: 2**16
    # contexts that differ in one bit each are all found again, and none is found under another.
    cache = RustPolicyCache(max_size=2**16)
    entries = [("u", "a", "r", {"n": i}, {"bits": i}) for i in range(2**16)]
    assert ready(cache.set_batch(entries)) == 2**16
    found = ready(cache.get_batch([("u", "a", "r", {"bits": i}) for i in range(2**16)]))
    assert [decision["n"] for decision in found] == list(range(2**16))


def test_no_context_and_an_empty_one_are_the_same_request():
    request = ("alice", "read", "doc")
    assert served((request, None), (request, {}))
    assert served((request, {}), (request, None))


def test_lists_and_tuples_are_equal():
    request = ("alice", "read", "doc")
    assert served((request, {"x": [1, [2]]}), (request, {"x": (1, (2,))}))


def test_any_mapping_is_a_context():
    request = ("alice", "read", "doc")
    proxy = MappingProxyType({"x": MappingProxyType({"y": 1})})
    assert served((request, {"x": {"y": 1}}), (request, proxy))


class Lazy(dict):
    """A dict whose items are those of another dict."""

    def __init__(self, entries):
        super().__init__()
        self.entries = entries

    def items(self):
        return self.entries.items()

    def __len__(self):
        return len(self.entries)


class Reversed(list):
    """A list that shows its items in another order."""

    def __iter__(self):
        return iter(self[::-1])


class Endless(list):
    """A list that never ends."""

    def __iter__(self):
        return repeat(1)


def test_an_endless_list_is_a_miss(cache):
    assert ready(cache.get("alice", "read", "doc", {"x": Endless()})) is None
    assert ready(cache.set("alice", "read", "doc", {"x": Endless()})) is False
    assert cache.metrics.errors == 2


def test_subclasses_of_dict_and_list_count_as_the_items_they_return():
    request = ("alice", "read", "doc")
    assert served((request, {"mfa": True}), (request, Lazy({"mfa": True})))
    assert not served((request, Lazy({"mfa": True})), (request, Lazy({"mfa": False})))
    assert not served((request, Lazy({"mfa": True})), (request, None))
    assert served((request, {"x": [2, 1]}), (request, {"x": Reversed([1, 2])}))
    assert served((request, {"a": 1, "b": [2]}), (request, OrderedDict(b=[2], a=1)))


def test_subclasses_of_str_and_int_count_as_their_value():
    class Role(StrEnum):
        ADMIN = "admin"

    class Level(IntEnum):
        HIGH = 3

    request = ("alice", "read", "doc")
    asked = ((Role.ADMIN, "read", "doc"), {"level": Level.HIGH})
    assert served((("admin", "read", "doc"), {"level": 3}), asked)
    assert served((request, {"big": 10**30}), (request, {"big": int_subclass(10**30)}))


def int_subclass(value):
    class Sly(int):
        def __format__(self, spec):
            return "0"

        def __index__(self):
            return 0

    return Sly(value)
