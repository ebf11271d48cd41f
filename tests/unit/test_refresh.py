"""Refresh ahead: a hit near expiration is served, and its entry is refreshed once in the
background."""

import asyncio
import contextlib
import gc
import logging
import threading
import time
from typing import ClassVar

import pytest

from awaiting import ready
from sark_cache import Loaded, RustPolicyCache
from sark_cache.backends._shared.background_refresh import Refreshes

REQUEST = ("alice", "read", "doc")
OLD, NEW = {"version": 1}, {"version": 2}
TTL = 0.4
LATE = 0.75 * TTL
"""A time in the last 30 % of the TTL."""


class Refreshed(RustPolicyCache):
    """A cache whose sensitive entries have a short TTL and whose callback the test controls."""

    OPTIMIZED_TTL: ClassVar = {"critical": TTL, "confidential": 2 * TTL, "public": TTL}

    def __init__(self, **options):
        super().__init__(**options)
        self.asked = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.brings = NEW
        self.set_revalidate_callback(self.evaluate)

    async def evaluate(self, *request):
        self.asked.append(request)
        await self.may_end.wait()
        if isinstance(self.brings, Exception):
            raise self.brings
        return self.brings

    async def store(self, sensitivity="critical", **options):
        assert await self.set(*REQUEST, OLD, sensitivity=sensitivity, **options)
        self.stored = time.monotonic()

    async def store_and_hit_late(self, **options):
        """Stores an entry and requests it near expiration, which starts a refresh."""
        await self.store(**options)
        await self.until(LATE)
        assert await self.get(*REQUEST, options.get("context"), "critical") == OLD

    async def until(self, age):
        await asyncio.sleep(self.stored + age - time.monotonic())

    async def refreshed(self):
        async with asyncio.timeout(5):
            while self._refreshes._tasks:
                await asyncio.sleep(0.001)


async def test_a_hit_near_expiration_is_served_and_refreshed():
    cache = Refreshed()
    await cache.store()
    await cache.until(LATE)
    assert ready(cache.get(*REQUEST, None, "critical")) == OLD
    await cache.refreshed()
    assert cache.asked == [(*REQUEST, None)]
    assert await cache.get(*REQUEST) == NEW
    metrics = cache.metrics
    assert (metrics.hits, metrics.stale_hits, metrics.revalidations) == (1, 1, 1)
    assert (metrics.total_requests, metrics.hit_rate, metrics.effective_hit_rate) == (2, 50, 100)


async def test_get_or_load_refreshes_too():
    cache = Refreshed()
    await cache.store()
    await cache.until(LATE)
    assert ready(cache.get_or_load(*REQUEST, pytest.fail, sensitivity="critical")) == OLD
    await cache.refreshed()
    assert await cache.get(*REQUEST) == NEW


async def test_a_hit_is_not_refreshed_early():
    cache = Refreshed()
    await cache.store()
    await cache.until(TTL / 2)
    assert await cache.get(*REQUEST, None, "critical") == OLD
    assert cache.asked == []
    assert cache.metrics.stale_hits == 0


@pytest.mark.parametrize("sensitivity", [None, "public", "internal", "unheard of", "\ud800"])
async def test_only_critical_and_confidential_entries_are_refreshed(sensitivity):
    cache = Refreshed()
    await cache.store()
    await cache.until(LATE)
    assert await cache.get(*REQUEST, None, sensitivity) == OLD
    assert cache.asked == []


@pytest.mark.parametrize("off", ["no callback", "switched off", "no event loop"])
async def test_without_a_callback_setting_or_event_loop_a_hit_is_not_refreshed(off):
    cache = Refreshed(stale_while_revalidate=off != "switched off")
    if off == "no callback":
        cache.revalidate_callback = None
    await cache.store()
    await cache.until(LATE)
    if off == "no event loop":
        in_thread = await asyncio.to_thread(lambda: ready(cache.get(*REQUEST, None, "critical")))
        assert in_thread == OLD
    else:
        assert await cache.get(*REQUEST, None, "critical") == OLD
    assert cache.asked == []
    assert (cache.metrics.hits, cache.metrics.stale_hits) == (1, 0)


async def test_one_refresh_at_a_time():
    cache = Refreshed()
    cache.may_end.clear()
    await cache.store()
    await cache.until(LATE)
    for _ in range(100):
        assert await cache.get(*REQUEST, None, "critical") == OLD
        await asyncio.sleep(0)
    cache.may_end.set()
    await cache.refreshed()
    assert len(cache.asked) == 1
    assert (cache.metrics.stale_hits, cache.metrics.revalidations) == (100, 1)


async def test_a_hanging_refresh_prevents_a_second_one():
    cache = Refreshed()
    cache.may_end.clear()
    for _ in range(2):  # a decision that is stored during it also nears expiration
        await cache.store_and_hit_late()
    assert len(cache.asked) == len(cache._refreshes._tasks) == 1
    await cache.close()


async def test_no_expired_entry_is_served_however_long_the_refresh_takes():
    cache = Refreshed()
    cache.may_end.clear()
    await cache.store_and_hit_late()
    await cache.until(TTL)
    assert await cache.get(*REQUEST, None, "critical") is None
    cache.may_end.set()
    await cache.refreshed()
    assert await cache.get(*REQUEST) == NEW


async def own():
    return {"version": "own"}


@pytest.mark.parametrize("ends", ["never", "with an exception", "with a decision"])
async def test_no_request_waits_for_a_refresh_and_no_newer_decision_is_overwritten(ends):
    cache = Refreshed()
    cache.may_end.clear()
    await cache.store_and_hit_late()
    await cache.until(TTL)
    async with asyncio.timeout(5):
        assert await cache.get_or_load(*REQUEST, own) == await own()
    if ends == "with an exception":
        cache.brings = ConnectionError()
    if ends != "never":
        cache.may_end.set()
        await cache.refreshed()
    assert await cache.get(*REQUEST) == await own()
    assert cache.metrics.coalesced == 0
    await cache.close()


def test_a_refresh_of_a_closed_loop_holds_up_no_request():
    cache = Refreshed()
    cache.may_end.clear()

    async def begin():
        await cache.store_and_hit_late()
        [task] = cache._refreshes._tasks
        task._log_destroy_pending = False  # it is abandoned on purpose

    async def ask():
        await cache.until(TTL)
        async with asyncio.timeout(5):
            return await cache.get_or_load(*REQUEST, own)

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(begin())
    assert asyncio.run(ask()) == {"version": "own"}
    asyncio.run(cache.close())


@pytest.mark.parametrize("ttl_seconds", [TTL, 2 * TTL])
async def test_a_refreshed_entry_has_the_ttl_of_the_old_one(ttl_seconds):
    cache = Refreshed(ttl_seconds=60)
    await cache.store("confidential", ttl_seconds=ttl_seconds)
    await cache.until(0.75 * ttl_seconds)
    await cache.get(*REQUEST, None, "confidential")
    await cache.refreshed()
    cache.stored = time.monotonic()
    await cache.until(ttl_seconds - 0.1)
    assert await cache.get(*REQUEST) == NEW
    await cache.until(ttl_seconds)
    assert await cache.get(*REQUEST) is None


async def test_a_refreshed_entry_has_at_most_the_ttl_of_its_sensitivity():
    cache = Refreshed(ttl_seconds=60)
    cache.brings = Loaded(NEW, ttl_seconds=60)
    await cache.store_and_hit_late()
    await cache.refreshed()
    cache.stored = time.monotonic()
    await cache.until(TTL)
    assert await cache.get(*REQUEST) is None


async def test_the_callback_gets_the_context_as_it_was():
    cache = Refreshed()
    context = {"roles": ["admin"], "mfa": True}
    await cache.store_and_hit_late(context=context)
    context["roles"].append("changed after the request")
    await cache.refreshed()
    assert cache.asked == [(*REQUEST, {"roles": ["admin"], "mfa": True})]
    assert await cache.get(*REQUEST, {"roles": ["admin"], "mfa": True}) == NEW


async def test_the_tags_of_an_entry_revoke_its_refreshed_successor():
    cache = Refreshed()
    cache.brings = Loaded(NEW, tags=["bundle:42"])
    for tag in ("role:admin", "bundle:42"):
        await cache.store_and_hit_late(tags=["role:admin"])
        await cache.refreshed()
        assert await cache.get(*REQUEST) == NEW
        assert await cache.invalidate(tags=[tag]) == 1
        assert await cache.get(*REQUEST) is None


@pytest.mark.parametrize("revocation", [{"user_id": "alice"}, {"tags": ["role:admin"]}, {}])
async def test_an_entry_that_is_revoked_during_its_refresh_is_not_stored(revocation):
    cache = Refreshed()
    cache.may_end.clear()
    await cache.store_and_hit_late(tags=["role:admin"])
    await asyncio.sleep(0)
    cache.invalidate(**revocation)
    cache.may_end.set()
    await cache.refreshed()
    assert cache.asked
    assert await cache.get(*REQUEST) is None


@pytest.mark.parametrize("brings", [ConnectionError("secret"), "no decision"])
async def test_a_failed_refresh_is_counted_and_logged_and_the_entry_stays(brings, caplog):
    cache = Refreshed()
    cache.brings = brings
    await cache.store_and_hit_late()
    await cache.refreshed()
    assert await cache.get(*REQUEST) == OLD
    assert cache.metrics.errors == 1
    assert cache.metrics.load_errors == 0
    assert "refresh failed" in caplog.text
    assert "secret" not in caplog.text
    assert await cache.get(*REQUEST, None, "critical") == OLD
    await cache.refreshed()
    assert len(cache.asked) == 1, "not tried again at once"


async def hits_in(cache, seconds):
    """Requests the entry as fast as possible for `seconds`; returns the number of hits."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert await cache.get(*REQUEST, None, "critical") is not None
        await asyncio.sleep(0)


class LongRefreshed(Refreshed):
    """A cache in which every sensitive entry is due for a refresh, for a minute."""

    OPTIMIZED_TTL: ClassVar = {"critical": 60}
    STALE_THRESHOLD_RATIO: ClassVar = 1.0


async def test_a_failed_refresh_is_retried_after_increasing_pauses():
    cache = LongRefreshed()
    cache.brings = ConnectionError()
    await cache.store()
    await hits_in(cache, 2)
    # After 0, 0.125 to 0.25, 0.25 to 0.5, 0.5 to 1 and 1 to 2 seconds.
    assert 3 <= len(cache.asked) <= 5
    assert cache.metrics.errors == cache.metrics.revalidations == len(cache.asked)


async def test_a_refresh_that_succeeds_ends_the_pauses():
    cache = LongRefreshed()
    cache.brings = ConnectionError()
    await cache.store()
    await hits_in(cache, 1)
    cache.brings = OLD
    await hits_in(cache, 2)
    cache.brings = ConnectionError()
    asked = len(cache.asked)
    await hits_in(cache, 0.6)
    assert len(cache.asked) >= asked + 2, "its next pause is the first again"


async def test_each_decision_has_its_own_pauses():
    cache = LongRefreshed()
    cache.brings = ConnectionError()
    for number in range(20):
        assert await cache.set(f"u{number}", "read", "doc", OLD, sensitivity="critical")
        assert await cache.get(f"u{number}", "read", "doc", None, "critical") == OLD
    await cache.refreshed()
    assert len(cache.asked) == 20


async def test_a_callback_that_returns_none_lets_the_entry_expire(caplog):
    cache = Refreshed()
    cache.brings = None
    await cache.store_and_hit_late()
    await cache.refreshed()
    assert await cache.get(*REQUEST, None, "critical") == OLD
    await cache.refreshed()
    assert len(cache.asked) == 1, "not asked again at once"
    assert cache.metrics.errors == cache.metrics.load_errors == 0
    assert not caplog.records
    await cache.until(TTL)
    assert await cache.get(*REQUEST) is None


async def test_a_callback_that_is_not_async_fails_no_request(caplog):
    cache = Refreshed()
    cache.set_revalidate_callback(lambda *_: NEW)
    await cache.store_and_hit_late()
    await cache.refreshed()
    assert cache.metrics.errors == 1
    assert "TypeError" in caplog.text


async def test_a_refresh_keeps_running_without_references_to_it():
    cache = Refreshed()
    cache.may_end.clear()
    await cache.store_and_hit_late()
    await asyncio.sleep(0)
    gc.collect()
    cache.may_end.set()
    await cache.refreshed()
    assert await cache.get(*REQUEST) == NEW


async def test_close_ends_the_refreshes(caplog):
    caplog.set_level(logging.DEBUG)
    cache = Refreshed()
    cache.may_end.clear()
    await cache.store_and_hit_late()
    await asyncio.sleep(0)
    assert cache.asked
    await cache.close()
    assert not cache._refreshes._tasks
    assert len(asyncio.all_tasks()) == 1, "this one"
    assert cache.metrics.errors == 0, "cancelled is not failed"


async def test_close_from_another_loop_ends_the_refreshes():
    cache = Refreshed()
    cache.may_end.clear()
    await cache.store_and_hit_late()
    await asyncio.sleep(0)
    await asyncio.to_thread(lambda: asyncio.run(cache.close()))
    await cache.refreshed()


def test_refreshes_begin_in_several_threads_at_the_same_time():
    refreshes = Refreshes(pytest.fail)
    elsewhere = asyncio.new_event_loop()

    class Met(asyncio.SelectorEventLoop):
        """An event loop whose `is_closed` lets another thread start a refresh."""

        begins = None

        def is_closed(self):
            begins, self.begins = self.begins, None
            if begins is not None:
                thread = threading.Thread(target=elsewhere.run_until_complete, args=(begins,))
                thread.start()
                thread.join()
            return super().is_closed()

    async def begin():
        return refreshes.begin(asyncio.sleep(0.01))

    here = Met()
    try:
        first = here.run_until_complete(begin())
        here.begins = begin()
        second = here.run_until_complete(begin())
        assert len(refreshes._tasks) == 3
        here.run_until_complete(asyncio.wait([first, second]))
        elsewhere.run_until_complete(asyncio.sleep(0.02))
    finally:
        here.close()
        elsewhere.close()
    assert not refreshes._tasks


async def test_a_callback_may_close_the_cache():
    cache = Refreshed()

    async def close(*_):
        await cache.close()
        return NEW

    cache.set_revalidate_callback(close)
    await cache.store_and_hit_late()
    await cache.refreshed()
    assert cache.closed


async def test_a_refresh_belongs_to_no_load_of_the_request_that_started_it():
    """Otherwise the request would be taken for a deadlock."""
    cache = Refreshed()
    other = ("bob", "read", "doc")

    async def asks_other(*_):
        return await cache.get_or_load(*other, pytest.fail)

    async def load():
        assert (
            await cache.get(*REQUEST, None, "critical") == OLD
        )  # refreshes, and the callback requests bob's
        await asyncio.sleep(0.01)
        return NEW

    cache.set_revalidate_callback(asks_other)
    await cache.store()
    await cache.until(LATE)
    assert await cache.get_or_load(*other, load) == NEW
    await cache.refreshed()
    assert await cache.get(*REQUEST) == NEW


async def test_a_refresh_whose_result_cannot_be_stored_removes_the_entry(caplog):
    cache = Refreshed()
    cache.brings = {"allow": object()}
    await cache.store_and_hit_late()
    await cache.refreshed()
    assert await cache.get(*REQUEST) is None
    assert "refresh failed" in caplog.text
