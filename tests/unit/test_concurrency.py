"""One cache used by many threads, tasks and event loops."""

import asyncio
import random
import threading
from itertools import pairwise

import pytest

from awaiting import ready
from sark_cache import RustPolicyCache
from threads import in_threads


def decision_for(user, resource):
    return {"allow": True, "who": user, "what": resource}


def mixed(cache, number, operations):
    """Requests, stores, deletes and revokes at random; returns the number of requests."""
    choose = random.Random(number)
    asked = 0
    for _ in range(operations):
        user, resource = f"u{choose.randrange(20)}", f"r{choose.randrange(50)}"
        match choose.random():
            case dice if dice < 0.6:
                asked += 1
                decision = ready(cache.get(user, "read", resource))
                assert decision in (None, decision_for(user, resource))
            case dice if dice < 0.95:
                assert ready(cache.set(user, "read", resource, decision_for(user, resource)))
            case dice if dice < 0.99:
                cache.delete(user, "read", resource)  # acts when called
            case _:
                cache.invalidate(user_id=user)
    return asked


@pytest.mark.parametrize(("threads", "operations", "max_size"), [(20, 50, 200), (100, 5_000, 500)])
def test_threads_of_mixed_operations_see_no_wrong_value_and_add_up(threads, operations, max_size):
    cache = RustPolicyCache(max_size=max_size)
    asked = sum(in_threads(threads, lambda number: mixed(cache, number, operations)))
    metrics = cache.metrics
    assert metrics.hits + metrics.misses == metrics.total_requests == asked
    assert metrics.errors == 0
    assert metrics.size <= max_size


async def test_1000_tasks_never_see_a_wrong_value():
    cache = RustPolicyCache()
    asked = 0

    async def work(number):
        nonlocal asked
        user, resource = f"u{number % 30}", f"r{number % 7}"
        for _ in range(5):
            asked += 1
            decision = await cache.get(user, "read", resource)
            assert decision in (None, decision_for(user, resource))
            await cache.set(user, "read", resource, decision_for(user, resource))
            await asyncio.sleep(0)

    await asyncio.gather(*(work(number) for number in range(1_000)))
    assert cache.metrics.total_requests == asked == 5_000
    assert await cache.size() == 30 * 7


def test_two_event_loops_in_two_threads_share_one_cache():
    cache = RustPolicyCache(max_size=100_000)

    async def work(number):
        for i in range(300):
            await cache.set(f"u{number}", "read", str(i), decision_for(f"u{number}", str(i)))
        # Counting visits every entry on the cache's own threads: both loops wait at once.
        sizes = await asyncio.gather(*(cache.size() for _ in range(20)))
        assert all(300 <= size <= 5_600 for size in sizes)
        assert await cache.invalidate(user_id=f"u{number}") == 300
        return await cache.get("shared", "read", "0")

    asyncio.run(cache.set_batch([("shared", "read", str(i), {"n": i}) for i in range(5_000)]))
    assert in_threads(2, lambda number: asyncio.run(work(number))) == [{"n": 0}, {"n": 0}]
    assert asyncio.run(cache.size()) == 5_000


def test_a_revocation_is_seen_by_every_thread_as_soon_as_it_returns():
    cache = RustPolicyCache()
    rounds = 300

    def work(number):
        for i in range(rounds):
            user, resource = f"u{number}", str(i)
            assert ready(cache.set(user, "read", resource, {"allow": True}))
            cache.invalidate(user_id=user)
            assert ready(cache.get(user, "read", resource)) is None

    in_threads(8, work)
    assert cache.metrics.misses == 8 * rounds


def test_counters_add_up_while_they_are_read():
    cache = RustPolicyCache(max_size=50)
    done = threading.Event()
    seen = []

    def watch():
        while not done.is_set():
            seen.append(cache.metrics)

    watcher = threading.Thread(target=watch)
    watcher.start()
    in_threads(4, lambda number: mixed(cache, number, 3_000))
    done.set()
    watcher.join()
    for earlier, later in pairwise(seen):
        for name in ("hits", "misses", "evictions", "invalidations", "expirations"):
            assert getattr(earlier, name) <= getattr(later, name), name
