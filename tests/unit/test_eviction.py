"""Eviction from a full cache."""

import random
import threading
from collections import OrderedDict

import pytest

from awaiting import ready
from sark_cache import RustPolicyCache

ALLOW = {"allow": True}


@pytest.mark.parametrize("capacity", [1, 2, 3, 100])
def test_the_least_recently_used_entry_is_evicted_first(capacity):
    cache = RustPolicyCache(max_size=capacity)
    model: OrderedDict[str, None] = OrderedDict()
    choose = random.Random(capacity)
    for _ in range(5_000):
        name = str(choose.randrange(2 * capacity + 1))
        if choose.random() < 0.4:
            ready(cache.set("alice", "read", name, ALLOW))
            model[name] = None
            model.move_to_end(name)
            if len(model) > capacity:
                model.popitem(last=False)
        else:
            assert (ready(cache.get("alice", "read", name)) is not None) == (name in model)
            if name in model:
                model.move_to_end(name)
    assert ready(cache.size()) == len(model)


@pytest.mark.parametrize("eviction", ["lru", "tiny_lfu"])
async def test_a_full_cache_keeps_its_capacity_and_counts_evictions(eviction):
    cache = RustPolicyCache(max_size=10_000, eviction=eviction)
    for i in range(10_000):
        await cache.set("alice", "read", str(i), ALLOW)
    assert await cache.size() == 10_000
    assert all(await cache.get_batch([("alice", "read", str(i)) for i in range(10_000)]))
    for i in range(10_000, 300_000):
        await cache.set("alice", "read", str(i), ALLOW)
    assert await cache.size() == 10_000
    assert cache.metrics.evictions == 290_000


async def test_scans_do_not_evict_frequently_used_entries_under_tiny_lfu():
    cache = RustPolicyCache(max_size=100, eviction="tiny_lfu")
    for i in range(50):
        await cache.set("alice", "read", f"hot-{i}", ALLOW)
    for i in range(2_000):
        await cache.get("alice", "read", f"hot-{i % 50}")
        await cache.set("alice", "read", f"scan-{i}", ALLOW)
    hot = await cache.get_batch([("alice", "read", f"hot-{i}") for i in range(50)])
    assert sum(decision is not None for decision in hot) > 40


async def test_bytes_are_limited_as_well_as_entries():
    cache = RustPolicyCache(max_size=1_000, max_bytes=100_000)
    for i in range(1_000):
        await cache.set("alice", "read", str(i), {"reason": "x" * 1_000})
    assert 50 < await cache.size() <= 100_000 // 1_400
    assert cache.metrics.evictions == 1_000 - await cache.size()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"max_size": 0},
            ValueError,
            "max_size must be at least 1 .*, not 0; to store nothing use enabled=False",
        ),
        ({"max_size": -5}, ValueError, "max_size must be at least 1"),
        ({"max_size": 2**64}, ValueError, r"max_size must be .* at most 2\*\*62 entries"),
        ({"max_size": 2**200}, ValueError, r"max_size must be .* at most 2\*\*62 entries"),
        ({"max_size": 1.5}, TypeError, "max_size must be an int or None, not float"),
        ({"max_size": True}, TypeError, "max_size must be an int"),
        ({"max_bytes": 10}, ValueError, "max_bytes must be at least 1024"),
        ({"max_bytes": "1 GB"}, TypeError, "max_bytes must be an int"),
        ({"eviction": "fifo"}, ValueError, 'eviction must be "lru" or "tiny_lfu"'),
        ({"eviction": 1}, TypeError, "eviction must be"),
        ({"ttl_seconds": 0}, ValueError, "ttl_seconds of a cache must be more than 0"),
    ],
)
def test_an_impossible_limit_is_an_error(arguments, error, message):
    with pytest.raises(error, match=message):
        RustPolicyCache(**arguments)


def test_no_evictions_are_counted_in_a_cache_that_is_not_full():
    cache = RustPolicyCache(max_size=10_000_000)
    done = threading.Event()

    def read():
        while not done.is_set():
            assert cache.metrics.evictions == 0

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(20_000):
        cache.set("alice", "read", str(i), ALLOW)
        if i % 1_000 == 0:
            cache.size()
            cache.invalidate(resource=str(i - 1))
    done.set()
    for reader in readers:
        reader.join()
    assert cache.metrics.evictions == 0


async def test_tags_count_as_bytes():
    cache = RustPolicyCache(max_size=1_000, max_bytes=20_000)
    tags = [f"{i}{'x' * 250}" for i in range(64)]
    for user in range(200):
        assert await cache.set(str(user), "read", "doc", ALLOW, tags=tags) is True
    # 64 tags take 512 bytes, an entry without them about 450.
    assert 10 <= cache.metrics.size <= 20
