"""Observers of evaluations see every evaluation, and no hit."""

import asyncio
import contextlib
from collections import Counter

import pytest

from sark_cache import AsyncCache, RustPolicyCache
from sark_cache._core.observers import observe, observers

REQUEST = ("alice", "read", "doc")
ALLOW = {"allow": True}


class Seen:
    """An observer that records the evaluations of one cache."""

    def __init__(self, cache):
        self.events = []
        self.end = observe(cache, self.sight)

    @contextlib.contextmanager
    def sight(self, evaluation):
        self.events.append("refresh" if evaluation.ahead else "begin")
        try:
            yield
        except BaseException as error:
            self.events.append((type(error).__name__, evaluation.waiting()))
            raise
        else:
            self.events.append(("end", evaluation.waiting()))


@pytest.fixture
def seen(cache):
    seen = Seen(cache)
    yield seen
    seen.end()


async def allow():
    return ALLOW


async def test_an_evaluation_is_observed_and_a_hit_is_not(cache, seen):
    for _ in range(3):
        assert await cache.get_or_load(*REQUEST, allow) == ALLOW
        assert await cache.get(*REQUEST) == ALLOW
    assert seen.events == ["begin", ("end", 0)]


async def test_waiters_are_counted(cache, seen):
    may_end = asyncio.Event()

    async def slow():
        await may_end.wait()
        return ALLOW

    requests = [asyncio.create_task(cache.get_or_load(*REQUEST, slow)) for _ in range(5)]
    await asyncio.sleep(0)
    requests.pop().cancel()
    await asyncio.sleep(0)
    may_end.set()
    assert await asyncio.gather(*requests) == [ALLOW] * 4
    assert seen.events == ["begin", ("end", 3)]


async def test_the_loader_runs_in_the_context_of_the_observer(cache):
    within = []

    @contextlib.contextmanager
    def sight(_):
        within.append("in")
        yield
        within.append("out")

    async def loads():
        within.append("loads")
        return ALLOW

    end = observe(cache, sight)
    try:
        await cache.get_or_load(*REQUEST, loads)
    finally:
        end()
    assert within == ["in", "loads", "out"]


async def test_an_exception_of_a_loader_is_observed_and_raised_with_its_traceback(cache, seen):
    async def fails():
        raise ConnectionError

    with pytest.raises(ConnectionError) as raised:
        await cache.get_or_load(*REQUEST, fails)
    assert raised.traceback[-1].name == "fails"
    assert seen.events == ["begin", ("ConnectionError", 0)]
    assert cache.metrics.load_errors == 1


@pytest.mark.parametrize("brings", ["no decision", None])
async def test_a_loader_without_a_decision_is_observed_as_failed(cache, seen, brings):
    async def no_decision():
        return brings

    with pytest.raises(TypeError, match="must return a decision"):
        await cache.get_or_load(*REQUEST, no_decision)
    with pytest.raises(TypeError, match="must be an async function"):
        await cache.get_or_load(*REQUEST, lambda: brings)
    assert seen.events == ["begin", ("TypeError", 0)] * 2


async def test_a_cancelled_leader_and_its_successor_are_both_observed(cache, seen):
    may_end = asyncio.Event()

    async def slow():
        await may_end.wait()
        return ALLOW

    leader, waiter = (asyncio.create_task(cache.get_or_load(*REQUEST, slow)) for _ in range(2))
    await asyncio.sleep(0)
    leader.cancel()
    may_end.set()
    assert await waiter == ALLOW
    assert leader.cancelled()
    assert seen.events == ["begin", ("CancelledError", 1), "begin", ("end", 0)]


async def test_unshared_evaluations_are_all_observed(cache, seen):
    may_end = asyncio.Event()

    async def cannot_be_shared():
        await may_end.wait()
        return {"allow": object()}

    requests = [
        asyncio.create_task(cache.get_or_load(*REQUEST, cannot_be_shared)) for _ in range(3)
    ]
    await asyncio.sleep(0)
    may_end.set()
    await asyncio.gather(*requests)
    assert seen.events[:2] == ["begin", ("end", 2)]
    assert Counter(seen.events[2:]) == {"begin": 2, ("end", 0): 2}


async def test_evaluations_that_bypass_the_cache_are_observed(cache, seen):
    assert await cache.get_or_load(*REQUEST, allow, {"not": object()}) == ALLOW
    later = cache.get_or_load(*REQUEST, allow)
    cache.enabled = False
    assert await later == ALLOW
    assert await cache.get_or_load(*REQUEST, allow) == ALLOW
    await cache.close()
    assert await cache.get_or_load(*REQUEST, allow) == ALLOW
    assert seen.events == ["begin", ("end", 0)] * 4


async def test_a_refresh_is_observed_as_a_refresh():
    class Brief(RustPolicyCache):
        STALE_THRESHOLD_RATIO = 1.0  # every hit is due for a refresh

    cache, refreshed = Brief(), asyncio.Event()

    async def refresh(*_):
        refreshed.set()
        return ALLOW

    cache.set_revalidate_callback(refresh)
    await cache.set(*REQUEST, ALLOW, sensitivity="critical")
    seen = Seen(cache)
    try:
        await cache.get(*REQUEST, None, "critical")
        await refreshed.wait()
        await asyncio.sleep(0)
    finally:
        seen.end()
    assert seen.events == ["refresh", ("end", 0)]


async def test_each_cache_has_its_own_observers(cache, seen):
    other = RustPolicyCache()
    await other.get_or_load(*REQUEST, allow)
    assert await AsyncCache().get_or_load("key", allow) == ALLOW
    assert seen.events == []


async def test_the_general_cache_can_be_observed_too():
    cache = AsyncCache()
    seen = Seen(cache)
    try:
        assert await cache.get_or_load("key", allow) == ALLOW
    finally:
        seen.end()
    assert seen.events == ["begin", ("end", 0)]


async def test_a_cache_may_have_several_observers_that_end_independently(cache):
    first, second = Seen(cache), Seen(cache)
    await cache.get_or_load("alice", "read", "1", allow)
    first.end()
    first.end()
    await cache.get_or_load("alice", "read", "2", allow)
    second.end()
    await cache.get_or_load("alice", "read", "3", allow)
    assert len(first.events) == 2
    assert len(second.events) == 4
    assert not observers
