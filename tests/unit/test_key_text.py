"""The text of a key in Python, which equals the text that patterns match in the compiled module."""

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from json_values import AWKWARD, OBJECTS, TEXT
from sark_cache import RustPolicyCache
from sark_cache._core.json import to_plain_mapping
from sark_cache._core.keys import Scope, digits_of, literal, parts_of, prefix_of, request_key

PREFIX = "sark-cache:1"
NAMES = (
    TEXT | AWKWARD | st.sampled_from(["", "*", "a:b", "%2A", "[a]", "{a}", "a\\b", "\x7f", "é\x85"])
)


def text(user_id, action, resource, context=None, policy="", prefix=PREFIX):
    digits, _ = digits_of(to_plain_mapping(context) if context is not None else None)
    return request_key(prefix, policy, user_id, action, resource, digits).text


@given(NAMES, NAMES, NAMES, OBJECTS)
def test_the_compiled_module_makes_the_same_text(user_id, action, resource, context):
    async def check():
        cache = RustPolicyCache()
        assert await cache.set(user_id, action, resource, {"allow": True}, context)
        await cache.set(f"{user_id}x", action, resource, {"allow": True}, context)
        key = text(user_id, action, resource, context)
        of_patterns = ":".join(("policy:decision", *parts_of(PREFIX, key)[1:]))
        assert await cache.invalidate_pattern(literal(of_patterns)) == 1

    asyncio.run(check())


def test_a_key_reads_as_documented():
    assert text("alice", "read", "doc") == "sark-cache:1::alice:read:doc:none"
    assert text("alice", "read", "doc", {}) == text("alice", "read", "doc")
    assert text("a:b", "*?", "[%\\]\n") == "sark-cache:1::a%3Ab:%2A%3F:%5B%25%5C%5D%0A:none"
    assert text("{a}", "é\x85", "/", policy="m:f") == "sark-cache:1:m%3Af:%7Ba%7D:é%C2%85:/:none"
    assert text("a", "b", "c", prefix=prefix_of("shop:")) == "shop:sark-cache:1::a:b:c:none"
    assert re.fullmatch(f"{PREFIX}::u:a:r:[0-9a-f]{{32}}", text("u", "a", "r", {"ip": "::1"}))


def test_a_subclass_of_str_counts_as_its_text():
    class Role(str):
        __slots__ = ()

        def __str__(self):
            return "another"

        __repr__ = __str__

        def __format__(self, _):
            return "another"

    assert text(Role("admin"), Role("re:ad"), "doc") == text("admin", "re:ad", "doc")


REQUESTS = st.tuples(NAMES, NAMES, NAMES, st.none(), NAMES)


@given(REQUESTS, REQUESTS)
def test_equal_texts_are_equal_requests(one, other):
    assert (text(*one) == text(*other)) == (one == other)


@given(REQUESTS)
def test_a_key_is_parsed_under_its_own_prefix_only(request):
    key = text(*request, prefix=prefix_of("shop:"))
    assert len(parts_of(prefix_of("shop:"), key)) == 5
    for namespace in ("", "shop", "shop:s", f"shop:{PREFIX}:", f"shop:{PREFIX}:p:u:"):
        assert parts_of(prefix_of(namespace), key) is None
    for namespace in (f"shop:{PREFIX}", f"shop:{PREFIX}:", f"shop:{PREFIX}:p:u:a:r:"):
        assert parts_of(prefix_of("shop:"), text(*request, prefix=prefix_of(namespace))) is None


@pytest.mark.parametrize(
    ("scope", "pattern"),
    [
        (Scope(), "sark-cache:1:*"),
        (Scope("al*ce"), "sark-cache:1:*:al%2Ace:*"),
        (Scope("alice", "read"), "sark-cache:1:*:alice:read:*"),
        (Scope(action="read"), "sark-cache:1:*:*:read:*"),
        (Scope(resource="doc"), "sark-cache:1:*:*:*:doc:*"),
        (Scope(policy="app:f"), "sark-cache:1:app%3Af:*"),
        (Scope(policy="", user_id="alice"), "sark-cache:1::alice:*"),
        (Scope("", "", ""), "sark-cache:1:*::::*"),
        (Scope("alice", "read", "doc", None, "none"), "sark-cache:1:*:alice:read:doc:none"),
    ],
)
def test_a_scope_has_a_pattern_that_all_its_keys_match(scope, pattern):
    assert scope.pattern(PREFIX) == pattern


def test_a_scope_matches_only_keys_with_all_its_parts():
    keys = [
        text("alice", "read", "read"),
        text("alice", "read:read", "x", policy="read"),
        "sark-cache:1:alice",
        "{policy:decision}.log",
    ]
    assert Scope(resource="read").filter(PREFIX, keys) == keys[:1]
    assert Scope("alice").filter(PREFIX, keys) == keys[:2]
    assert Scope("alice", policy="read").filter(PREFIX, keys) == keys[1:2]
    assert Scope().filter(PREFIX, keys) == keys[:2]


def test_the_pattern_of_a_prefix_escapes_its_wildcards():
    assert Scope().pattern("a[b]*") == r"a\[b\]\*:*"
