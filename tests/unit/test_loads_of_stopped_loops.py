"""Loads whose tasks do not continue, because their event loop was stopped or closed."""

import asyncio
import gc
import threading
from contextlib import contextmanager
from typing import ClassVar

import pytest

from loaders import ALLOW, DENY, REQUEST, bringing, never
from sark_cache import RustPolicyCache

SOON = 4
"""Seconds: more than the one that a successor has, fewer than a waiter waits."""


async def endless():
    await asyncio.Event().wait()


class Loop:
    """An event loop that is run piece by piece, as a notebook runs its own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.tasks = []

    def begin(self, coroutine):
        """Runs until the coroutine waits, and keeps its task."""
        task = self.loop.create_task(coroutine)
        task._log_destroy_pending = False  # it is abandoned on purpose
        self.tasks.append(task)
        self.loop.run_until_complete(asyncio.sleep(0.01))
        return task

    def run(self, awaitable):
        return self.loop.run_until_complete(awaitable)


@contextmanager
def another_loop(ends):
    """A loop that has been stopped or closed by the end of the block, with its tasks pending."""
    loop = Loop()
    loop.end = loop.loop.close if ends == "closed" else lambda: None
    yield loop
    loop.loop.close()


ENDS = pytest.mark.parametrize("ends", ["closed", "stopped"])


def ask_in_time(cache, loader=None):
    """Requests in another loop."""

    async def ask():
        async with asyncio.timeout(SOON):
            return await cache.get_or_load(*REQUEST, loader or bringing(ALLOW))

    return asyncio.run(ask())


@ENDS
def test_a_new_request_takes_over_from_a_leader_that_does_not_continue(cache, ends):
    with another_loop(ends) as other:
        other.begin(cache.get_or_load(*REQUEST, endless))
        other.end()
        assert ask_in_time(cache) == ALLOW
        assert ask_in_time(cache, never) == ALLOW, "stored"


def test_a_leader_that_comes_back_stores_nothing(cache):
    with another_loop("stopped") as other:
        may_end = asyncio.Event()

        async def load():
            await may_end.wait()
            return DENY

        late = other.begin(cache.get_or_load(*REQUEST, load))
        assert ask_in_time(cache) == ALLOW
        may_end.set()
        assert other.run(late) == DENY
        assert ask_in_time(cache, never) == ALLOW


def test_a_leader_continues_if_its_loop_runs_again_before_the_next_request(cache):
    with another_loop("stopped") as other:
        may_end = asyncio.Event()

        async def load():
            await may_end.wait()
            return ALLOW

        first = other.begin(cache.get_or_load(*REQUEST, load))
        second = other.begin(cache.get_or_load(*REQUEST, never))
        may_end.set()
        assert other.run(asyncio.gather(first, second)) == [ALLOW, ALLOW]


@ENDS
def test_a_waiter_takes_over_when_the_leaders_loop_ends(cache, ends):
    with another_loop(ends) as other:
        waits = threading.Event()

        async def until_somebody_waits():
            await asyncio.to_thread(waits.wait)

        async def ask():
            asking = asyncio.create_task(cache.get_or_load(*REQUEST, bringing(ALLOW)))
            await asyncio.sleep(0.05)
            waits.set()
            async with asyncio.timeout(SOON):
                return await asking

        answers = []
        asks = threading.Thread(target=lambda: answers.append(asyncio.run(ask())))
        other.begin(cache.get_or_load(*REQUEST, endless))

        async def lead_on():
            asks.start()
            await until_somebody_waits()

        other.run(lead_on())
        other.end()
        asks.join()
        assert answers == [ALLOW]


@ENDS
def test_the_lead_skips_a_waiter_whose_loop_ended(cache, ends):
    with another_loop(ends) as other:
        led = asyncio.run(lead_past(cache, other))
        assert led == [ALLOW, ALLOW]


async def lead_past(cache, other):
    """Cancels a leader whose first waiter is in a loop that does not run; returns all answers."""
    leader = asyncio.create_task(cache.get_or_load(*REQUEST, endless))
    await asyncio.sleep(0.01)

    def wait_and_end():
        other.begin(cache.get_or_load(*REQUEST, bringing(DENY)))
        other.end()

    await asyncio.to_thread(wait_and_end)
    live = asyncio.create_task(cache.get_or_load(*REQUEST, bringing(ALLOW)))
    await asyncio.sleep(0.01)
    leader.cancel()
    async with asyncio.timeout(SOON):
        return [await live, await cache.get_or_load(*REQUEST, never)]


def test_the_lead_skips_a_waiter_whose_loop_stops_before_it_leads(cache):
    """The successor is called while its loop runs, which then stops for good."""
    with another_loop("stopped") as other:

        async def scene():
            leader = asyncio.create_task(cache.get_or_load(*REQUEST, endless))
            heir = asyncio.create_task(cache.get_or_load(*REQUEST, bringing(DENY)))
            other.tasks += [leader, heir]
            await asyncio.sleep(0.01)
            leader.cancel()
            await asyncio.wait([leader])  # the iteration in which the successor is called
            asyncio.get_running_loop().stop()
            await asyncio.sleep(0)

        scenes = other.loop.create_task(scene())
        other.loop.run_forever()
        heir = other.tasks[-1]
        if not heir.done():
            assert ask_in_time(cache) in (ALLOW, DENY)
        assert other.run(asyncio.gather(scenes, heir))[1] in (ALLOW, DENY)


def test_a_stopped_waiter_is_answered_when_its_loop_runs_again(cache):
    with another_loop("stopped") as other:
        answers = asyncio.run(lead_past(cache, other))
        assert answers == [ALLOW, ALLOW]
        [waiter] = other.tasks
        assert other.run(waiter) == ALLOW


def test_a_leader_in_an_abandoned_loop_is_released(cache):
    loop = Loop()
    loop.begin(cache.get_or_load(*REQUEST, endless))
    loop.loop.close()
    del loop
    gc.collect()
    assert ask_in_time(cache) == ALLOW


class Refreshed(RustPolicyCache):
    """A cache in which every sensitive entry is due for a refresh."""

    STALE_THRESHOLD_RATIO: ClassVar = 1.0


@ENDS
def test_an_interrupted_refresh_is_started_again(ends):
    cache = Refreshed()
    asked = []

    async def never_ends(*request):
        asked.append(request)
        await endless()

    async def ends_at_once(*request):
        asked.append(request)
        return DENY

    async def hit():
        assert await cache.get(*REQUEST, None, "critical") == ALLOW
        await asyncio.sleep(0.01)

    cache.set_revalidate_callback(never_ends)
    with another_loop(ends) as other:
        other.run(cache.set(*REQUEST, ALLOW, sensitivity="critical"))
        other.run(hit())
        for task in cache._refreshes._tasks:
            task._log_destroy_pending = False  # it is abandoned on purpose
        other.end()
        cache.set_revalidate_callback(ends_at_once)
        asyncio.run(hit())
        assert len(asked) == 2
        assert asyncio.run(read(cache)) == DENY


async def read(cache):
    return await cache.get(*REQUEST)
