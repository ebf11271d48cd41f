"""Policies in the native cache: a decision of one policy is unknown to every other one."""

import asyncio
import inspect
import time
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awaiting import ready
from json_values import AWKWARD
from sark_cache import Loaded, RustPolicyCache

REQUEST = ("alice", "read", "doc")
ALLOW, DENY = {"allow": True}, {"allow": False}
POLICIES = ("", "members", "admins")


def decisions(cache, request=REQUEST, context=None):
    return {policy: ready(cache.get(*request, context, policy=policy)) for policy in POLICIES}


async def under_every_policy(cache):
    for policy in POLICIES:
        assert await cache.set(*REQUEST, {"by": policy}, policy=policy)
    return cache


@given(AWKWARD, AWKWARD)
def test_a_policy_sees_exactly_its_own_decisions(one, other):
    cache = RustPolicyCache()
    assert ready(cache.set(*REQUEST, ALLOW, policy=one))
    assert (ready(cache.get(*REQUEST, policy=other)) is not None) == (one == other)
    assert (ready(cache.get_decision(*REQUEST, policy=other)) is not None) == (one == other)
    assert ready(cache.get_batch([REQUEST], policy=other)) == [ALLOW if one == other else None]


@given(st.tuples(*4 * [st.sampled_from(["", "a", "\x01", "\x03", "a\x01"])]))
def test_a_policy_cannot_be_confused_with_another_field(parts):
    policy, *request = parts
    for other_policy, *other in permutations(parts):
        cache = RustPolicyCache()
        ready(cache.set(*request, ALLOW, policy=policy))
        same = (policy, request) == (other_policy, other)
        assert (ready(cache.get(*other, policy=other_policy)) is not None) == same


async def test_no_policy_equals_the_empty_policy(cache):
    await cache.set(*REQUEST, ALLOW)
    assert await cache.get(*REQUEST, policy="") == ALLOW
    assert await cache.delete(*REQUEST, policy="") is True
    assert await cache.get(*REQUEST) is None


async def test_rows_of_a_batch_keep_their_policy(cache):
    rows = [("alice", "read", str(i)) for i in range(4)] + [("bob", "read", "0")]
    for policy in POLICIES:
        await cache.set_batch([(*row, {"by": policy}) for row in rows], policy=policy)
    for policy in POLICIES:
        expected = [{"by": policy}] * len(rows)
        assert await cache.get_batch(rows, policy=policy) == expected
    assert await cache.get_batch(rows, policy="unknown") == [None] * len(rows)
    assert await cache.preload_cache([(*REQUEST, ALLOW)], policy="admins") == 1
    assert decisions(cache) == {"": None, "members": None, "admins": ALLOW}


async def test_each_policy_has_its_own_loads(cache):
    may_end = asyncio.Event()

    def loader(policy):
        async def load():
            await may_end.wait()
            return {"by": policy}

        return load

    asked = [policy for policy in POLICIES for _ in range(3)]
    tasks = [
        asyncio.create_task(cache.get_or_load(*REQUEST, loader(policy), policy=policy))
        for policy in asked
    ]
    await asyncio.sleep(0)
    may_end.set()
    assert await asyncio.gather(*tasks) == [{"by": policy} for policy in asked]
    assert cache.metrics.loads == len(POLICIES)
    assert decisions(cache) == {policy: {"by": policy} for policy in POLICIES}


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_decision_is_deleted_under_one_policy(cache, policy):
    await under_every_policy(cache)
    assert await cache.delete(*REQUEST, policy=policy) is True
    assert await cache.delete(*REQUEST, policy=policy) is False
    assert [it for it, decision in decisions(cache).items() if decision is None] == [policy]


async def test_a_request_is_deleted_under_every_policy(cache):
    await under_every_policy(cache)
    other = ("bob", "read", "doc")
    await cache.set(*other, ALLOW, policy="admins")
    await cache.set(*REQUEST, ALLOW, {"mfa": True}, policy="admins")
    deleted = cache.delete(*REQUEST)
    assert set(decisions(cache).values()) == {None}
    assert await deleted is True
    assert await cache.delete(*REQUEST) is False
    assert await cache.get(*other, policy="admins") == ALLOW
    assert await cache.get(*REQUEST, {"mfa": True}, policy="admins") == ALLOW
    assert await cache.size() == 2


@pytest.mark.parametrize("policies", [2, 1_000])
async def test_an_evaluation_whose_request_is_deleted_is_not_stored(cache, policies):
    for policy in range(policies):
        await cache.set("bob", "read", "doc", ALLOW, policy=str(policy))
    stamp, may_end = cache.stamp(), asyncio.Event()

    async def load():
        await may_end.wait()
        return ALLOW

    task = asyncio.create_task(cache.get_or_load(*REQUEST, load, policy="admins"))
    await asyncio.sleep(0)
    assert await cache.delete(*REQUEST) is False
    may_end.set()
    assert await task == ALLOW
    assert await cache.get(*REQUEST, policy="admins") is None
    assert await cache.set(*REQUEST, ALLOW, stamp=stamp, policy="members") is False
    assert await cache.set(*REQUEST, ALLOW, policy="members") is True


@pytest.mark.parametrize(
    "scope",
    [
        {"policy": policy} | dict(zip(("user_id", "tags"), named, strict=True))
        for policy in POLICIES
        for named in product((None, "alice", "carol"), (None, ["a"], ["c"]))
    ],
    ids=repr,
)
async def test_a_revocation_of_a_policy_matches_its_other_fields_too(cache, scope):
    entries = [
        (user, policy, tags)
        for user in ("alice", "bob")
        for policy in POLICIES
        for tags in ((), ("a",), ("a", "b"))
    ]
    for user, policy, tags in entries:
        await cache.set(user, "read", f"doc-{len(tags)}", ALLOW, tags=tags, policy=policy)
    given = {name: value for name, value in scope.items() if value is not None}
    revoked = [
        entry
        for entry in entries
        if entry[1] == given["policy"]
        and given.get("user_id") in (None, entry[0])
        and ("tags" not in given or set(given["tags"]) & set(entry[2]))
    ]
    assert await cache.invalidate(**given) == len(revoked)
    for user, policy, tags in entries:
        found = await cache.get(user, "read", f"doc-{len(tags)}", policy=policy)
        assert (found is None) == ((user, policy, tags) in revoked)


async def test_fields_without_a_policy_are_revoked_under_every_policy(cache):
    await under_every_policy(cache)
    assert await cache.invalidate(user_id="alice") == len(POLICIES)


async def test_patterns_do_not_match_policies(cache):
    await under_every_policy(cache)
    assert await cache.invalidate_pattern("*admins*") == 0
    assert await cache.invalidate_pattern("policy:decision:alice:read:doc:none") == len(POLICIES)


@pytest.mark.parametrize("policy", [None, 1, b"admins", ["admins"]], ids=repr)
async def test_a_policy_is_a_str(cache, policy):
    async def load():
        return ALLOW

    calls = {
        cache.get: REQUEST,
        cache.get_decision: REQUEST,
        cache.set: (*REQUEST, ALLOW),
        cache.get_or_load: (*REQUEST, load),
        cache.get_batch: ([REQUEST],),
        cache.set_batch: ([(*REQUEST, ALLOW)],),
        cache.preload_cache: ([(*REQUEST, ALLOW)],),
    }
    for method, arguments in calls.items():
        with pytest.raises(TypeError, match="policy must be a str, not "):
            method(*arguments, policy=policy)
    for method, arguments in ((cache.delete, REQUEST), (cache.invalidate, ())):
        if policy is not None:
            with pytest.raises(TypeError, match="policy must be a str or None, not "):
                method(*arguments, policy=policy)
    assert await cache.size() == 0


def test_signatures_have_a_policy_argument():
    for name in ("get", "get_decision", "set", "get_or_load", "get_batch", "set_batch"):
        parameter = inspect.signature(getattr(RustPolicyCache, name)).parameters["policy"]
        assert (parameter.kind, parameter.default) == (parameter.KEYWORD_ONLY, "")
    for name in ("delete", "invalidate"):
        parameter = inspect.signature(getattr(RustPolicyCache, name)).parameters["policy"]
        assert (parameter.kind, parameter.default) == (parameter.KEYWORD_ONLY, None)


async def refreshed(callback, policy):
    """Returns the decision of a late hit after its refresh, for each policy."""
    cache = RustPolicyCache(ttl_seconds=0.2)
    cache.set_revalidate_callback(callback)
    await under_every_policy(cache)
    await asyncio.sleep(0.15)
    assert await cache.get(*REQUEST, None, "critical", policy=policy) == {"by": policy}
    async with asyncio.timeout(5):
        while cache._refreshes._tasks:
            await asyncio.sleep(0.001)
    return cache


async def test_a_refresh_asks_for_the_policy_and_stores_under_it():
    asked = []

    async def callback(user_id, action, resource, context, policy="none"):
        asked.append((user_id, action, resource, context, policy))
        return Loaded({"again": policy}, ttl_seconds=60)

    for policy in POLICIES:
        cache = await refreshed(callback, policy)
        named = policy or "none"
        assert asked.pop() == (*REQUEST, None, named)
        assert await cache.get(*REQUEST, policy=policy) == {"again": named}
        for other in set(POLICIES) - {policy}:
            assert await cache.get(*REQUEST, policy=other) != {"again": named}


async def test_a_callback_without_a_policy_replaces_no_decision_of_a_policy():
    asked = []

    async def callback(*request):
        asked.append(request)
        return Loaded(ALLOW, ttl_seconds=60)

    cache = await refreshed(callback, "admins")
    assert asked == []
    assert cache.metrics.revalidations == 0
    assert await cache.get(*REQUEST, policy="admins") != ALLOW
    await refreshed(callback, "")
    assert asked == [(*REQUEST, None)]


def test_deleting_under_few_policies_does_not_scan_all_entries():
    cache = RustPolicyCache(max_size=200_000)
    ready(cache.set_batch([("bob", "read", str(i), ALLOW) for i in range(100_000)]))
    ready(cache.set(*REQUEST, ALLOW, policy="admins"))
    began = time.perf_counter()
    assert ready(cache.delete(*REQUEST)) is True
    # A scan of 100,000 entries is not ready at once, and takes 50 ms at least.
    assert time.perf_counter() - began < 0.025
