"""A newer decision removes the older one, even if it is not stored or expires at once."""

import asyncio

import pytest

from loaders import ALLOW, DENY, ControlledLoader, bringing
from loaders import REQUEST as ALICE
from sark_cache.backends.redis import PolicyCache

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
    loader = ControlledLoader()
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
    loader = ControlledLoader()
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


async def test_a_deny_that_was_revoked_before_it_was_stored_ends_the_older_allow(cache):
    """The revocation matches the tag of the newer decision, and not the older decision."""
    await cache.set(*ALICE, ALLOW)
    stamp = cache.stamp()
    await cache.invalidate(tags=["group:1"])
    assert await cache.set(*ALICE, DENY, tags=["group:1"], stamp=stamp) is False
    assert await cache.get(*ALICE) is None


@pytest.mark.parametrize("ttl", [10, 300])
async def test_a_deny_that_was_revoked_before_it_was_stored_ends_an_older_evaluation(cache, ttl):
    stamp = cache.stamp()
    loader = ControlledLoader()
    load = await loading(cache, loader)
    await cache.invalidate(tags=["group:1"])
    deny = {"tags": ["group:1"], "ttl_seconds": ttl, "stamp": stamp}
    assert await cache.set(*ALICE, DENY, **deny) is False
    loader.bring(ALLOW)
    await load
    assert await cache.get(*ALICE) is None


async def test_an_evaluation_from_before_a_revocation_does_not_replace_a_newer_decision(cache):
    """A cache in Redis removes the newer decision, because it does not know which one is newer."""
    stamp = cache.stamp()
    await cache.invalidate(user_id="alice")
    assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp())
    assert await cache.set(*ALICE, DENY, stamp=stamp) is False
    assert await cache.get(*ALICE) == (None if isinstance(cache, PolicyCache) else ALLOW)


@pytest.mark.parametrize("unstorable", UNSTORABLE)
async def test_a_deny_that_cannot_be_stored_invalidates_an_older_evaluation(cache, unstorable):
    await cache.set(*ALICE, ALLOW)
    assert await cache.set(*ALICE, UNSTORABLE[unstorable]) is False
    assert await cache.get(*ALICE) is None
    loader = ControlledLoader()
    load = await loading(cache, loader)
    assert await cache.set(*ALICE, UNSTORABLE[unstorable]) is False
    loader.bring(ALLOW)
    assert await load == ALLOW
    assert await cache.get(*ALICE) is None


# While the cache is off


async def load_deny(cache):
    assert await cache.get_or_load(*ALICE, bringing(DENY)) == DENY


DENIED_WHILE_OFF = {
    "set": lambda cache: cache.set(*ALICE, DENY),
    "set with a stamp": lambda cache: cache.set(*ALICE, DENY, stamp=cache.stamp()),
    "set of what cannot be stored": lambda cache: cache.set(*ALICE, UNSTORABLE["not JSON"]),
    "set_batch": lambda cache: cache.set_batch([(*ALICE, DENY)]),
    "preload_cache": lambda cache: cache.preload_cache([(*ALICE, DENY)]),
    "get_or_load": load_deny,
}


def counted(cache):
    return {name: number for name, number in cache.get_metrics().items() if name != "size"}


@pytest.mark.parametrize("denied", DENIED_WHILE_OFF)
async def test_a_deny_while_the_cache_is_off_ends_the_older_allow(cache, denied):
    others = [("bob", *ALICE[1:]), (*ALICE, {"ip": "::1"})]
    await cache.set_batch([(*ALICE, ALLOW), *((*row[:3], ALLOW, *row[3:]) for row in others)])
    assert await cache.get_batch([ALICE, *others]) == [ALLOW] * 3
    before = counted(cache)
    cache.enabled = False
    assert not await DENIED_WHILE_OFF[denied](cache)
    assert counted(cache) == before
    cache.enabled = True
    assert await cache.get(*ALICE) is None
    assert await cache.get_batch([ALICE, *others]) == [None, ALLOW, ALLOW]
    async with asyncio.timeout(5):
        while await cache.size() != 2:
            await asyncio.sleep(0.01)
    assert await cache.get(*ALICE) is None


@pytest.mark.parametrize("denied", DENIED_WHILE_OFF)
async def test_a_deny_while_the_cache_is_off_overtakes_an_older_evaluation(cache, denied):
    loader = ControlledLoader()
    load = await loading(cache, loader)
    cache.enabled = False
    assert not await DENIED_WHILE_OFF[denied](cache)
    cache.enabled = True
    loader.bring(ALLOW)
    assert await load == ALLOW
    assert await cache.get(*ALICE) is None


async def test_after_a_deny_while_the_cache_was_off_a_newer_decision_is_stored(cache):
    await cache.set(*ALICE, ALLOW)
    cache.enabled = False
    assert await cache.set(*ALICE, DENY) is False
    cache.enabled = True
    async with asyncio.timeout(5):
        # The removal of the older decision may still be running. It can remove one newer decision.
        while await cache.get(*ALICE) is None:
            await cache.set(*ALICE, ALLOW)
            await asyncio.sleep(0.1)
    assert await cache.get(*ALICE) == ALLOW


async def test_a_load_that_was_called_before_the_cache_was_off_ends_the_older_allow(cache):
    load = cache.get_or_load(*ALICE, bringing(DENY))
    await cache.set(*ALICE, ALLOW)
    cache.enabled = False
    assert await load == DENY
    cache.enabled = True
    assert await cache.get(*ALICE) is None


async def test_a_load_that_fails_while_the_cache_is_off_leaves_what_is_stored(cache):
    await cache.set(*ALICE, ALLOW)
    cache.enabled = False
    loader = ControlledLoader()
    load = await loading(cache, loader)
    loader.fail(LookupError("no answer"))
    with pytest.raises(LookupError, match="no answer"):
        await load
    cache.enabled = True
    assert await cache.get(*ALICE) == ALLOW


@pytest.mark.parametrize("brought", [DENY, UNSTORABLE["not JSON"]], ids=["JSON", "not JSON"])
async def test_a_refresh_that_ends_while_the_cache_is_off_ends_what_it_refreshed(
    new_cache, brought
):
    class Refreshed(new_cache.kind):
        STALE_THRESHOLD_RATIO = 1.0  # each entry is to be refreshed within a millisecond

    cache = await new_cache(kind=Refreshed)
    evaluation = ControlledLoader()

    async def evaluate(*_):
        return await evaluation()

    cache.set_revalidate_callback(evaluate)
    await cache.set(*ALICE, ALLOW)
    async with asyncio.timeout(5):
        while not evaluation.begun.is_set():
            assert await cache.get(*ALICE, None, "critical") == ALLOW
            await asyncio.sleep(0.001)
    cache.enabled = False
    evaluation.bring(brought)
    async with asyncio.timeout(5):
        while any(task.get_name() == "sark-cache refresh" for task in asyncio.all_tasks()):
            await asyncio.sleep(0.005)
    cache.enabled = True
    assert await cache.get(*ALICE) is None
