"""Patterns are globs as in Redis, matched against each spelling of a decision's text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from json_values import AWKWARD, TEXT
from sark_cache._core import patterns
from sark_cache._core.keys import literal, prefix_of, request_key
from sark_cache._core.patterns import Glob, candidates, matcher

PREFIX = prefix_of("shop:")
GLOBS = st.text("ab:*?[]^-\\é", max_size=12)


def key(user_id="alice", action="read", resource="doc", policy=""):
    return request_key(PREFIX, policy, user_id, action, resource).text


def matches(pattern, **request):
    return any(matcher(PREFIX, pattern)([key(**request)]))


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("policy:decision:user-1:tool:invoke:*", True),
        ("policy:decision:user-1:tool%3Ainvoke:*", True),
        ("policy:decision:user-1:tool:invoke:a/b:c d:none", True),
        ("policy:decision:user-1:tool:invoke:a_b_c d:none", True),
        ("policy:decision:user-1:tool%3Ainvoke:a/b%3Ac d:none", True),
        ("policy:decision:user-1:tool_invoke:*", False),
        ("policy:decision:user-1:tool%3Ainvoke:a_b_c d:none", False),
        ("policy:decision:user-1:*:a?b?c d:*", True),
        ("*:none", True),
        ("shop:sark-cache:1:*", False),
        ("", False),
    ],
)
def test_a_pattern_matches_the_encoded_the_raw_and_the_sark_spelling(pattern, matched):
    request = {"user_id": "user-1", "action": "tool:invoke", "resource": "a/b:c d"}
    assert matches(pattern, **request, policy="app:f") is matched


@pytest.mark.parametrize(
    ("pattern", "text", "matched"),
    [
        ("a?c", "abc", True),
        ("a?", "aé", False),  # two bytes
        ("[a-c]", "b", True),
        ("[c-a]", "b", True),
        ("[^a-c]", "b", False),
        ("[^a-c]", "d", True),
        (r"[\]]", "]", True),
        (r"\*", "*", True),
        (r"\*", "a", False),
        ("a\\", "a\\", True),
        ("[abc", "b", True),
        ("[", "", False),
        ("[]", "a", False),
        ("[^]", "a", True),
        ("[a-]", "_", True),  # a range up to the bracket
        ("**a**", "bab", True),
        ("*a\nb", "x\na\nb", True),
    ],
)
def test_a_glob_matches_as_in_redis(pattern, text, matched):
    assert Glob(pattern).matches(text.encode()) is matched


@given(TEXT | AWKWARD, TEXT | AWKWARD, GLOBS | TEXT)
def test_every_match_is_among_the_candidates(user_id, resource, pattern):
    for wanted in (f"policy:decision:{pattern}", f"policy:decision:{literal(user_id)}*", pattern):
        try:
            wanted.encode()
        except UnicodeEncodeError:
            continue
        if matches(wanted, user_id=user_id, resource=resource, policy="p"):
            one = key(user_id=user_id, resource=resource, policy="p")
            assert Glob(candidates(PREFIX, wanted)).matches(one.encode())


def test_the_server_scans_only_users_with_the_prefix_of_the_pattern():
    assert candidates(PREFIX, "policy:decision:user-1:*") == "shop:sark-cache:1:*:user-1*"
    assert candidates(PREFIX, "policy:decision:us*") == "shop:sark-cache:1:*:us*"
    assert candidates(PREFIX, "policy:decision:a%3A*") == "shop:sark-cache:1:*:a*"
    assert candidates(PREFIX, "policy*") == "shop:sark-cache:1:*:*"
    assert candidates(PREFIX, "policy:decision:[ab]*") == "shop:sark-cache:1:*:*"


def test_many_stars_cause_no_backtracking():
    assert not Glob("*" + "a*" * 300 + "b").matches(b"a" * 60_000)
    assert Glob("*" + "?a*" * 200 + "b").matches(b"a" * 60_000 + b"b")


@pytest.mark.parametrize(
    "pattern",
    [
        "*" + "a?" * 500 + "b*",
        "*" + "?" * 1_000 + "b*",
        "*" + "[ab]" * 250 + "c*",
        "*" + "?a*" * 300 + "c",
        "*" + "*".join(f"?{number:x}" for number in range(256)) + "*",
        "*" + "a" * 1_000 + "b*",
        "*" + "a*" * 500 + "b*",
    ],
)
def test_the_longest_key_is_compared_in_short_steps(pattern):
    steps = matcher(PREFIX, pattern)([key("a" * 8_192, "a" * 8_192, "a" * 8_192)])
    longest, began = 0.0, time.thread_time()
    for found in steps:
        assert found is None
        now = time.thread_time()
        longest, began = max(longest, now - began), now
    assert longest < 0.03


@given(GLOBS, st.text("ab]^-\\é", max_size=12))
def test_a_long_text_is_compared_as_a_short_one(pattern, text):
    """Steps of a few bytes find what one step over the whole text finds."""
    with pytest.MonkeyPatch.context() as patch:
        whole = Glob(pattern).matches(text.encode())
        patch.setattr(patterns, "STEP", 1)
        assert Glob(pattern).matches(text.encode()) is whole
