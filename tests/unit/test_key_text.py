"""The text of a key, made in Python, is the one that the compiled module makes."""

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from json_values import AWKWARD, OBJECTS, TEXT
from sark_cache import RustPolicyCache
from sark_cache.keys import Scope, request_key
from sark_cache.plain import plain_mapping

PREFIX = "policy:decision"
NAMES = TEXT | AWKWARD | st.sampled_from(["", "*", "a:b", "%2A", "[a]", "a\\b", "\x7f", "é\x85"])


def text(user_id, action, resource, context=None):
    context = plain_mapping(context) if context is not None else None
    return request_key(PREFIX, user_id, action, resource, context).text


def exactly(key):
    """A glob that matches just this key."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", key)


@given(NAMES, NAMES, NAMES, OBJECTS)
def test_the_compiled_module_knows_a_decision_by_the_same_text(user_id, action, resource, context):
    async def check():
        cache = RustPolicyCache()
        assert await cache.set(user_id, action, resource, {"allow": True}, context)
        await cache.set(f"{user_id}x", action, resource, {"allow": True}, context)
        key = text(user_id, action, resource, context)
        assert await cache.invalidate_pattern(exactly(key)) == 1

    asyncio.run(check())


def test_a_key_reads_as_documented():
    assert text("alice", "read", "doc") == "policy:decision:alice:read:doc:none"
    assert text("alice", "read", "doc", {}) == text("alice", "read", "doc")
    assert text("a:b", "*?", "[%\\]\n") == "policy:decision:a%3Ab:%2A%3F:%5B%25%5C%5D%0A:none"
    assert re.fullmatch(f"{PREFIX}:u:a:r:[0-9a-f]{{32}}", text("u", "a", "r", {"ip": "::1"}))


@given(st.tuples(NAMES, NAMES, NAMES), st.tuples(NAMES, NAMES, NAMES))
def test_equal_texts_are_equal_requests(one, other):
    assert (text(*one) == text(*other)) == (one == other)


@pytest.mark.parametrize(
    ("scope", "pattern"),
    [
        (Scope(None, None, None), "policy:decision:*"),
        (Scope("al*ce", None, None), "policy:decision:al%2Ace:*"),
        (Scope("alice", "read", None), "policy:decision:alice:read:*"),
        (Scope(None, "read", None), "policy:decision:*:read:*"),
        (Scope(None, None, "doc"), "policy:decision:*:*:doc:*"),
        (Scope("", "", ""), "policy:decision::::*"),
    ],
)
def test_a_scope_has_a_pattern_that_all_its_keys_match(scope, pattern):
    assert scope.pattern(PREFIX) == pattern


def test_a_scope_takes_only_what_has_all_its_parts():
    keys = [text("alice", "read", "read"), text("alice", "read:read", "x"), "policy:decision:alice"]
    assert Scope(None, None, "read").filter(PREFIX, keys) == keys[:1]
    assert Scope("alice", None, None).filter(PREFIX, keys) == keys[:2]


def test_a_prefix_that_looks_like_a_pattern_is_none():
    assert Scope(None, None, None).pattern("a[b]*") == r"a\[b\]\*:*"
