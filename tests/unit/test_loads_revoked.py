"""A load never gives a decision from before an invalidation to a request made after it."""

import asyncio

import pytest

from loaders import ALLOW, DENY, REQUEST, ControlledLoader, begun, never
from sark_cache import Loaded

REVOKING = {
    "its user": lambda cache: cache.invalidate(user_id="alice"),
    "its action": lambda cache: cache.invalidate(action="read"),
    "its resource": lambda cache: cache.invalidate(resource="doc"),
    "all its fields": lambda cache: cache.invalidate(*REQUEST),
    "a tag": lambda cache: cache.invalidate(tags=["role:admin"]),
    "its user and a tag": lambda cache: cache.invalidate("alice", tags=["role:admin"]),
    "a pattern": lambda cache: cache.invalidate_pattern("policy:decision:ali*"),
    "the decision": lambda cache: cache.delete(*REQUEST),
    "everything": lambda cache: cache.clear(),
}


@pytest.mark.parametrize("revoke", REVOKING.values(), ids=REVOKING)
async def test_a_load_that_is_invalidated_is_answered_but_not_stored(cache, revoke):
    before, after = ControlledLoader(), ControlledLoader()
    asked_before = await begun(cache, before, 2, tags=["role:admin"])
    await revoke(cache)
    asked_after = await begun(cache, after, 2, tags=["role:admin"])
    before.bring(ALLOW)
    assert await asyncio.gather(*asked_before) == [ALLOW, ALLOW]
    assert await cache.get(*REQUEST) is None
    after.bring(DENY)
    assert await asyncio.gather(*asked_after) == [DENY, DENY]
    assert await cache.get(*REQUEST) == DENY
    assert (before.runs, after.runs) == (1, 1)


async def test_the_older_load_does_not_overwrite_the_newer(cache):
    before, after = ControlledLoader(), ControlledLoader()
    asked_before = await begun(cache, before)
    cache.invalidate("alice")
    asked_after = await begun(cache, after)
    after.bring(DENY)
    await asyncio.gather(*asked_after)
    before.bring(ALLOW)
    assert await asyncio.gather(*asked_before) == [ALLOW]
    assert await cache.get(*REQUEST) == DENY


async def test_a_superseded_load_stores_nothing_whatever_its_tags(cache):
    untagged, tagged = ControlledLoader(), ControlledLoader()
    first = await begun(cache, untagged)
    cache.invalidate(tags=["role:admin"])
    second = await begun(cache, tagged, tags=["role:admin"])
    tagged.bring(DENY)
    assert await asyncio.gather(*second) == [DENY]
    untagged.bring(ALLOW)
    assert await asyncio.gather(*first) == [ALLOW]
    assert await cache.get(*REQUEST) == DENY


async def test_a_decision_set_during_a_load_is_not_overwritten(cache):
    loader = ControlledLoader()
    tasks = await begun(cache, loader)
    assert await cache.set(*REQUEST, DENY)
    loader.bring(ALLOW)
    assert await asyncio.gather(*tasks) == [ALLOW]
    assert await cache.get_or_load(*REQUEST, never) == DENY


async def test_the_tags_of_waiters_revoke_the_loaded_decision(cache):
    loader = ControlledLoader()
    tasks = await begun(cache, loader)
    waiting = asyncio.create_task(cache.get_or_load(*REQUEST, never, tags=["role:admin"]))
    await asyncio.sleep(0)
    loader.bring(ALLOW)
    assert await asyncio.gather(*tasks, waiting) == [ALLOW, ALLOW]
    assert await cache.invalidate(tags=["role:admin"]) == 1


async def test_the_waiters_of_an_invalidated_and_cancelled_leader_join_the_newer_load(cache):
    before, after = ControlledLoader(), ControlledLoader()
    leader, waiter = await begun(cache, before, 2)
    cache.invalidate("alice")
    newer = await begun(cache, after)
    leader.cancel()
    await asyncio.sleep(0)
    after.bring(DENY)
    assert await asyncio.gather(waiter, *newer) == [DENY, DENY]
    assert (before.runs, after.runs) == (1, 1)


async def test_an_invalidation_of_other_decisions_does_not_affect_a_load(cache):
    loader = ControlledLoader()
    asked_before = await begun(cache, loader)
    cache.invalidate("bob")
    cache.invalidate(tags=["role:user"])
    asked_after = await begun(cache, loader)
    loader.bring(ALLOW)
    assert await asyncio.gather(*asked_before, *asked_after) == [ALLOW, ALLOW]
    assert loader.runs == 1
    assert await cache.get(*REQUEST) == ALLOW


async def test_after_a_hand_over_the_decision_is_as_new_as_the_second_load(cache):
    first, second = ControlledLoader(), ControlledLoader()
    [leader] = await begun(cache, first)
    waiter = asyncio.create_task(cache.get_or_load(*REQUEST, second))
    await asyncio.sleep(0)
    cache.invalidate("alice")
    leader.cancel()
    await second.begun.wait()
    second.bring(DENY)
    assert await waiter == DENY
    assert await cache.get(*REQUEST) == DENY, "evaluated after the invalidation"


async def test_a_late_tag_revoked_during_a_load_sends_later_requests_to_a_new_load(cache):
    first, second = ControlledLoader(), ControlledLoader()
    early = await begun(cache, first)
    cache.invalidate(tags=["bundle:42"])
    late = asyncio.create_task(cache.get_or_load(*REQUEST, second))
    await asyncio.sleep(0)
    assert second.runs == 0, "nobody could know that it depends on the tag"
    first.bring(Loaded(ALLOW, tags=("bundle:42",)))
    await second.begun.wait()
    second.bring(Loaded(DENY, tags=("bundle:42",)))
    assert await asyncio.gather(*early) == [ALLOW]
    assert await late == DENY
    assert await cache.get(*REQUEST) == DENY
