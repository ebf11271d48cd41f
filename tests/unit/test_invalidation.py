"""A revoked decision is not served from the moment of the call."""

import asyncio
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awaiting import ready
from json_values import AWKWARD
from sark_cache import RustPolicyCache

ALLOW = {"allow": True}
NAMES = ("a", "b", "*")
REQUESTS = list(product(NAMES, NAMES, NAMES, (None, {"ip": "::1"})))


async def full():
    cache = RustPolicyCache()
    await cache.set_batch([(user, action, res, ALLOW, ctx) for user, action, res, ctx in REQUESTS])
    return cache


def matches(request, scope):
    return all(wanted in (None, part) for wanted, part in zip(scope, request[:3], strict=True))


@pytest.mark.parametrize("scope", list(product((None, "a", "*", "?"), repeat=3)))
async def test_every_subset_of_the_fields_removes_exactly_what_matches_all_of_them(scope):
    cache = await full()
    expected = [request for request in REQUESTS if matches(request, scope)]
    assert await cache.invalidate(*scope) == len(expected)
    for request in REQUESTS:
        assert (await cache.get(*request) is None) == (request in expected)
    assert await cache.size() == len(REQUESTS) - len(expected)
    assert cache.metrics.invalidations == len(expected)


async def test_it_has_taken_effect_before_it_is_awaited(cache):
    await cache.set("alice", "read", "doc", ALLOW)
    count = cache.invalidate(user_id="alice")
    assert await cache.get("alice", "read", "doc") is None
    assert await count == 1


async def test_it_takes_effect_even_if_it_is_never_awaited_or_cancelled(cache):
    await cache.set_batch([("alice", "read", str(i), ALLOW) for i in range(3_000)])
    task = asyncio.create_task(cache.invalidate(user_id="alice"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (
        await cache.get_batch([("alice", "read", str(i)) for i in range(3_000)]) == [None] * 3_000
    )


async def test_a_large_cache_is_counted_exactly_off_the_event_loop():
    cache = RustPolicyCache(max_size=100_000)
    await cache.set_batch([(f"u{i % 10}", "read", str(i), ALLOW) for i in range(50_000)])
    count = cache.invalidate(user_id="u3")
    assert await cache.get("u3", "read", "3") is None
    assert await cache.get("u4", "read", "4") == ALLOW
    assert await count == 5_000
    assert await cache.size() == 45_000


async def test_new_decisions_are_served_after_it(cache):
    await cache.set("alice", "read", "doc", ALLOW)
    await cache.invalidate(user_id="alice")
    await cache.set("alice", "read", "doc", {"allow": False})
    assert await cache.get("alice", "read", "doc") == {"allow": False}


async def test_a_decision_evaluated_before_it_is_not_stored_after_it(cache):
    stamp = cache.stamp()
    await cache.invalidate(user_id="alice")
    assert await cache.set("alice", "read", "doc", ALLOW, stamp=stamp) is False
    assert await cache.get("alice", "read", "doc") is None
    assert await cache.set("bob", "read", "doc", ALLOW, stamp=stamp) is True
    assert cache.metrics.invalidations == 1


async def test_a_set_called_before_it_and_awaited_after_it_serves_nothing(cache):
    task = cache.set("alice", "read", "doc", ALLOW)
    await cache.invalidate(user_id="alice")
    await task
    assert await cache.get("alice", "read", "doc") is None


async def test_deleting_or_clearing_also_invalidates_running_evaluations(cache):
    stamp = cache.stamp()
    await cache.delete("alice", "read", "doc")
    assert await cache.set("alice", "read", "doc", ALLOW, stamp=stamp) is False
    assert await cache.set("alice", "read", "other", ALLOW, stamp=stamp) is True
    await cache.clear()
    assert await cache.set("alice", "read", "other", ALLOW, stamp=stamp) is False


async def test_a_stamp_of_another_cache_is_an_error(cache):
    with pytest.raises(ValueError, match="stamp was taken from another cache"):
        await cache.set("alice", "read", "doc", ALLOW, stamp=RustPolicyCache().stamp())
    with pytest.raises(TypeError, match="stamp must be a stamp that stamp"):
        await cache.set("alice", "read", "doc", ALLOW, stamp=7)
    assert cache.stamp() == cache.stamp()
    assert cache.stamp() != RustPolicyCache().stamp()


PATTERNS = {
    "policy:decision:alice:*": {"alice"},
    "policy:decision:*:read:*": {"alice", "bob"},
    "policy:decision:b?b:*": {"bob"},
    "policy:decision:[ab]*:none": {"alice", "bob"},
    "*": {"alice", "bob", "*"},
    "policy:decision:\\*:*": {"*"},
    "policy:decision:%2A:*": {"*"},
    "alice": set(),
    "": set(),
}


@pytest.mark.parametrize(("pattern", "removed"), PATTERNS.items())
async def test_a_pattern_revokes_decisions_that_its_glob_matches(cache, pattern, removed):
    await cache.set_batch(
        [("alice", "read", "doc", ALLOW), ("bob", "read", "doc", ALLOW), ("*", "write", "d", ALLOW)]
    )
    stamp = cache.stamp()
    assert await cache.invalidate_pattern(pattern) == len(removed)
    for user, action, resource in [
        ("alice", "read", "doc"),
        ("bob", "read", "doc"),
        ("*", "write", "d"),
    ]:
        assert (await cache.get(user, action, resource) is None) == (user in removed)
        fenced = await cache.set(user, action, resource, ALLOW, stamp=stamp) is False
        assert fenced == (user in removed)


async def test_a_pattern_can_name_a_context_by_its_hash(cache):
    await cache.set("alice", "read", "doc", ALLOW)
    await cache.set("alice", "read", "doc", ALLOW, {"ip": "::1"})
    assert await cache.invalidate_pattern("policy:decision:alice:read:doc:none") == 1
    assert await cache.invalidate_pattern("policy:decision:alice:read:doc:" + "[0-9a-f]" * 32) == 1


@given(st.lists(st.tuples(AWKWARD, AWKWARD, AWKWARD), max_size=8, unique=True), st.data())
def test_fields_are_matched_literally(requests, data):
    cache = RustPolicyCache()
    for request in requests:
        ready(cache.set(*request, ALLOW))
    scope = data.draw(st.tuples(*[st.none() | AWKWARD] * 3))
    expected = [request for request in requests if matches(request, scope)]
    assert ready(cache.invalidate(*scope)) == len(expected)
    for request in requests:
        assert (ready(cache.get(*request)) is None) == (request in expected)


async def test_tags_revoke_every_decision_that_has_one_of_them(cache):
    await cache.set("alice", "read", "doc", ALLOW, tags=("role:admin", "bundle:1"))
    await cache.set("bob", "read", "doc", ALLOW, tags=["role:user"])
    await cache.set("carol", "read", "doc", ALLOW)
    assert await cache.invalidate(user_id="bob", tags={"role:admin"}) == 0
    assert await cache.invalidate(tags=("role:admin", "unheard of")) == 1
    assert await cache.get("alice", "read", "doc") is None
    assert await cache.size() == 2
    with pytest.raises(TypeError, match="tags must be a list, tuple or set of str"):
        await cache.invalidate(tags="role:user")
    assert await cache.size() == 2
