"""Patterns match the key text of a decision in three spellings: encoded, raw, and SARK's."""

import asyncio

import pytest

ALLOW = {"allow": True}
REQUESTS = {
    "colons": ("user-1", "tool:invoke", "jira:issues"),
    "slashes": ("user-1", "read", "a/b/c"),
    "underscores": ("user-1", "read", "a_b_c"),
    "glob": ("*", "re?d", "[doc]"),
    "percent": ("50%", "read", "%3A"),
    "braces": ("{u}", "read", "doc/{id}"),
    "plain": ("bob", "read", "doc"),
    "letters": ("zoë", "läs", "dok/ö"),
}
ALL = set(REQUESTS)


async def remaining(cache):
    found = {name: await cache.get(*request) for name, request in REQUESTS.items()}
    return {name for name, decision in found.items() if decision is not None}


@pytest.mark.parametrize(
    ("pattern", "revoked"),
    {
        # SARK's spelling.
        "policy:decision:user-1:tool:invoke:*": {"colons"},
        "policy:decision:user-1:tool:invoke:jira_issues:*": {"colons"},
        "policy:decision:user-1:read:a_b_c:*": {"slashes", "underscores"},
        "policy:decision:*:a_b_?:*": {"slashes", "underscores"},
        "policy:decision:*:dok_ö:*": {"letters"},
        # The raw spelling.
        "policy:decision:user-1:read:a/b/c:none": {"slashes"},
        "policy:decision:user-1:tool:invoke:jira:issues:none": {"colons"},
        "policy:decision:50%:*": {"percent"},
        r"policy:decision:\*:re\?d:\[doc\]:none": {"glob"},
        "policy:decision:{u}:read:doc/{id}:*": {"braces"},
        # The encoded spelling.
        "policy:decision:user-1:tool%3Ainvoke:jira%3Aissues:none": {"colons"},
        "policy:decision:%2A:*": {"glob"},
        "policy:decision:50%25:read:%253A:none": {"percent"},
        "policy:decision:%7Bu%7D:read:doc/%7Bid%7D:none": {"braces"},
        # Every spelling.
        "policy:decision:user-1:*": {"colons", "slashes", "underscores"},
        "*:none": ALL,
        "*": ALL,
        # No spelling: only resources are written with underscores, and spellings do not mix.
        "policy:decision:user-1:tool_invoke:*": set(),
        "policy:decision:user-1:tool%3Ainvoke:jira:issues:none": set(),
        "policy:decision:user-1:tool:invoke:jira_issues": set(),
        "user-1:*": set(),
        "": set(),
    }.items(),
)
async def test_a_pattern_revokes_decisions_that_match_in_any_of_three_spellings(
    cache, pattern, revoked
):
    await cache.set_batch([(*request, ALLOW) for request in REQUESTS.values()])
    assert await cache.invalidate_pattern(pattern) == len(revoked)
    assert await remaining(cache) == ALL - revoked


async def test_a_pattern_revokes_decisions_that_are_being_evaluated(cache):
    began, may_end = asyncio.Event(), asyncio.Event()

    async def load():
        began.set()
        await may_end.wait()
        return ALLOW

    task = asyncio.create_task(cache.get_or_load(*REQUESTS["colons"], load))
    await began.wait()
    await cache.invalidate_pattern("policy:decision:user-1:tool:invoke:*")
    may_end.set()
    assert await task == ALLOW
    assert await cache.get(*REQUESTS["colons"]) is None


async def test_a_pattern_revokes_under_every_policy_and_matches_none_of_them(cache):
    for policy in ("", "app:is_admin", "app:is_member"):
        await cache.set(*REQUESTS["colons"], ALLOW, policy=policy)
    assert await cache.invalidate_pattern("*is_admin*") == 0
    assert await cache.invalidate_pattern("policy:decision:user-1:tool:invoke:*") == 3


async def test_a_pattern_matches_the_context_by_its_hash(cache):
    request = REQUESTS["slashes"]
    await cache.set(*request, ALLOW)
    await cache.set(*request, ALLOW, {"mfa": True})
    digits = "[0-9a-f]" * 32
    assert await cache.invalidate_pattern(f"policy:decision:user-1:read:a_b_c:{digits}") == 1
    assert await cache.get(*request) == ALLOW


async def test_matching_is_fast_for_every_pattern(cache):
    # A backtracking matcher would take longer than the age of the universe.
    await cache.set("a" * 8_000, "a" * 8_000, "a:" * 4_000, ALLOW)
    async with asyncio.timeout(10):
        assert await cache.invalidate_pattern("*a" * 500 + "b") == 0
        assert await cache.invalidate_pattern("*" + "[a]" * 300 + "b*") == 0
        assert await cache.invalidate_pattern("*?" * 500 + "%3A:none") == 1
