"""Refresh ahead: what nears its end is served, and evaluated anew in the background, once."""

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
from sark_cache.refreshing import Refreshes

REQUEST = ("alice", "read", "doc")
OLD, NEW = {"version": 1}, {"version": 2}
TTL = 0.4
LATE = 0.75 * TTL
"""In the last 30 % of the time to live."""


class Refreshed(RustPolicyCache):
    """A cache whose sensitive entries live briefly, and whose callback is at the test's command."""

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
        """Stores, and asks when it is near its end: where a refresh begins."""
        await self.store(**options)
        await self.until(LATE)
        assert await self.get(*REQUEST, options.get("context"), "critical") == OLD

    async def until(self, age):
        await asyncio.sleep(self.stored + age - time.monotonic())

    async def refreshed(self):
        async with asyncio.timeout(5):
            while self._refreshes._tasks:
                await asyncio.sleep(0.001)


async def test_a_hit_near_its_end_is_served_and_refreshed():
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
async def test_only_what_is_critical_or_confidential_is_refreshed(sensitivity):
    cache = Refreshed()
    await cache.store()
    await cache.until(LATE)
    assert await cache.get(*REQUEST, None, sensitivity) == OLD
    assert cache.asked == []


@pytest.mark.parametrize("off", ["no callback", "switched off", "no event loop"])
async def test_without_what_it_takes_a_hit_is_a_hit(off):
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


async def test_a_refresh_that_hangs_is_not_joined_by_another_one():
    cache = Refreshed()
    cache.may_end.clear()
    for _ in range(2):  # what is stored meanwhile nears its end, too
        await cache.store_and_hit_late()
    assert len(cache.asked) == len(cache._refreshes._tasks) == 1
    await cache.close()


async def test_nothing_is_served_past_its_time_however_long_the_refresh_takes():
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
async def test_nobody_waits_for_a_refresh_and_nothing_newer_is_overwritten_by_it(ends):
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


def test_a_refresh_whose_loop_was_closed_holds_nobody_up():
    cache = Refreshed()
    cache.may_end.clear()

    async def begin():
        await cache.store_and_hit_late()
        [task] = cache._refreshes._tasks
        task._log_destroy_pending = False  # it is forgotten on purpose

    async def ask():
        await cache.until(TTL)
        async with asyncio.timeout(5):
            return await cache.get_or_load(*REQUEST, own)

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(begin())
    assert asyncio.run(ask()) == {"version": "own"}
    asyncio.run(cache.close())


@pytest.mark.parametrize("ttl_seconds", [TTL, 2 * TTL])
async def test_what_is_refreshed_lives_as_long_as_what_it_replaces(ttl_seconds):
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


async def test_what_is_refreshed_lives_no_longer_than_its_sensitivity_lets_it():
    cache = Refreshed(ttl_seconds=60)
    cache.brings = Loaded(NEW, ttl_seconds=60)
    await cache.store_and_hit_late()
    await cache.refreshed()
    cache.stored = time.monotonic()
    await cache.until(TTL)
    assert await cache.get(*REQUEST) is None


async def test_the_callback_is_told_the_context_as_it_was():
    cache = Refreshed()
    context = {"roles": ["admin"], "mfa": True}
    await cache.store_and_hit_late(context=context)
    context["roles"].append("changed after the request")
    await cache.refreshed()
    assert cache.asked == [(*REQUEST, {"roles": ["admin"], "mfa": True})]
    assert await cache.get(*REQUEST, {"roles": ["admin"], "mfa": True}) == NEW


async def test_what_could_revoke_it_can_revoke_its_successor():
    cache = Refreshed()
    cache.brings = Loaded(NEW, tags=["bundle:42"])
    for tag in ("role:admin", "bundle:42"):
        await cache.store_and_hit_late(tags=["role:admin"])
        await cache.refreshed()
        assert await cache.get(*REQUEST) == NEW
        assert await cache.invalidate(tags=[tag]) == 1
        assert await cache.get(*REQUEST) is None


@pytest.mark.parametrize("revocation", [{"user_id": "alice"}, {"tags": ["role:admin"]}, {}])
async def test_what_is_revoked_while_it_is_refreshed_is_not_stored(revocation):
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
async def test_a_refresh_that_fails_is_counted_and_logged_and_the_entry_lives_on(brings, caplog):
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
    """Hits as fast as it can for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert await cache.get(*REQUEST, None, "critical") is not None
        await asyncio.sleep(0)


class LongRefreshed(Refreshed):
    """A cache whose every sensitive entry is to be refreshed, for a minute."""

    OPTIMIZED_TTL: ClassVar = {"critical": 60}
    STALE_THRESHOLD_RATIO: ClassVar = 1.0


async def test_a_refresh_that_fails_is_tried_again_after_ever_longer_pauses():
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


async def test_the_pause_of_one_decision_is_no_other_ones():
    cache = LongRefreshed()
    cache.brings = ConnectionError()
    for number in range(20):
        assert await cache.set(f"u{number}", "read", "doc", OLD, sensitivity="critical")
        assert await cache.get(f"u{number}", "read", "doc", None, "critical") == OLD
    await cache.refreshed()
    assert len(cache.asked) == 20


async def test_a_callback_that_has_nothing_new_leaves_the_entry_to_its_end(caplog):
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


async def test_a_refresh_lives_though_nobody_holds_it():
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
        """Once it is asked whether it is closed, another thread begins a refresh just then."""

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


async def test_a_refresh_is_in_no_load_of_the_one_who_asked():
    """It would otherwise be told that it waits for itself."""
    cache = Refreshed()
    other = ("bob", "read", "doc")

    async def asks_other(*_):
        return await cache.get_or_load(*other, pytest.fail)

    async def load():
        assert await cache.get(*REQUEST, None, "critical") == OLD  # refreshes, and that asks bob's
        await asyncio.sleep(0.01)
        return NEW

    cache.set_revalidate_callback(asks_other)
    await cache.store()
    await cache.until(LATE)
    assert await cache.get_or_load(*other, load) == NEW
    await cache.refreshed()
    assert await cache.get(*REQUEST) == NEW


async def test_a_refresh_that_brings_what_cannot_be_stored_ends_the_entry(caplog):
    cache = Refreshed()
    cache.brings = {"allow": object()}
    await cache.store_and_hit_late()
    await cache.refreshed()
    assert await cache.get(*REQUEST) is None
    assert "refresh failed" in caplog.text
