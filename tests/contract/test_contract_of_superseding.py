"""A newer decision removes the older one, even if it is not stored or expires at once."""

import asyncio

import pytest

from loaders import ALLOW, DENY, Evaluation, bringing
from loaders import REQUEST as ALICE

UNSTORABLE = {
    "too large": {"allow": False, "reason": "x" * 70_000},
    "not JSON": {"allow": False, "at": object()},
}


async def gone(cache, *request):
    async with asyncio.timeout(5):
        while await cache.get(*request) is not None:
            await asyncio.sleep(0.01)


async def loading(cache, loader):
    """Starts a load that has missed and evaluates."""
    task = asyncio.create_task(cache.get_or_load(*ALICE, loader))
    await loader.begun.wait()
    return task


SUPERSEDED_BY = {
    "set": lambda cache: cache.set(*ALICE, DENY, ttl_seconds=0.1),
    "set with a stamp": lambda cache: cache.set(*ALICE, DENY, ttl_seconds=0.1, stamp=cache.stamp()),
    "set_batch": lambda cache: cache.set_batch([(*ALICE, DENY, None, 0.1)]),
}


@pytest.mark.parametrize("stored", SUPERSEDED_BY)
async def test_a_deny_that_expired_is_not_followed_by_an_older_allow(cache, stored):
    loader = Evaluation()
    load = await loading(cache, loader)
    assert await SUPERSEDED_BY[stored](cache)
    await gone(cache, *ALICE)
    loader.bring(ALLOW)
    assert await load == ALLOW
    assert await cache.get(*ALICE) is None


async def test_after_a_deny_that_expired_a_newer_evaluation_is_stored(cache):
    await cache.set(*ALICE, DENY, ttl_seconds=0.1)
    await gone(cache, *ALICE)
    assert await cache.get_or_load(*ALICE, bringing(ALLOW)) == ALLOW
    assert await cache.get(*ALICE) == ALLOW


async def test_a_short_lived_decision_of_another_request_does_not_prevent_storing(cache):
    loader = Evaluation()
    load = await loading(cache, loader)
    await cache.set("bob", "read", "doc", DENY, ttl_seconds=0.1)
    await cache.set(*ALICE, DENY, {"ip": "::1"}, ttl_seconds=0.1)
    await cache.set(*ALICE, DENY, ttl_seconds=0.1, policy="another")
    loader.bring(ALLOW)
    await load
    assert await cache.get(*ALICE) == ALLOW


async def test_a_short_lived_decision_counts_once(cache):
    await cache.set(*ALICE, DENY, ttl_seconds=5)
    assert await cache.size() == 1
    assert await cache.invalidate(user_id="alice") == 1
    assert await cache.size() == 0


async def test_a_refresh_does_not_restore_a_decision_that_an_expired_deny_had_replaced(cache):
    begun, go = asyncio.Event(), asyncio.Event()

    async def evaluate(*_):
        begun.set()
        await go.wait()
        return ALLOW

    cache.set_revalidate_callback(evaluate)
    await cache.set(*ALICE, ALLOW, ttl_seconds=2)
    await asyncio.sleep(1.6)
    assert await cache.get(*ALICE, None, "critical") == ALLOW
    await begun.wait()
    await cache.set(*ALICE, DENY, ttl_seconds=0.1)
    await gone(cache, *ALICE)
    go.set()
    async with asyncio.timeout(5):
        while any(task.get_name() == "sark-cache refresh" for task in asyncio.all_tasks()):
            await asyncio.sleep(0.005)
    assert await cache.get(*ALICE) is None


@pytest.mark.parametrize("unstorable", UNSTORABLE)
async def test_a_deny_that_cannot_be_stored_invalidates_an_older_evaluation(cache, unstorable):
    await cache.set(*ALICE, ALLOW)
    assert await cache.set(*ALICE, UNSTORABLE[unstorable]) is False
    assert await cache.get(*ALICE) is None
    loader = Evaluation()
    load = await loading(cache, loader)
    assert await cache.set(*ALICE, UNSTORABLE[unstorable]) is False
    loader.bring(ALLOW)
    assert await load == ALLOW
    assert await cache.get(*ALICE) is None
