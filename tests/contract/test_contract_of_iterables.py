"""Iterable arguments are read once, so that generators work like lists."""

import contextlib
import itertools

import pytest

from loaders import bringing
from sark_cache import (
    CacheSettings,
    Loaded,
    NullPolicyCache,
    SelectedPolicyCache,
    close_policy_caches,
)
from sark_cache.selection.selector import Selection

ALLOW = {"allow": True}
USERS = [f"user-{number}" for number in range(8)]

ONCE = {
    "generator": lambda items: (item for item in items),
    "iterator": iter,
    "map": lambda items: map(tuple, items) if isinstance(items[0], tuple) else map(str, items),
    "keys": lambda items: dict.fromkeys(items).keys(),
}
every_kind = pytest.mark.parametrize("once", ONCE.values(), ids=ONCE)


@pytest.fixture(params=["native", "redis", "valkey", "cluster", "sentinel", "selected"])
async def any_cache(request, caches_on):
    """Each backend in turn, and a cache that selects between two of them."""
    if request.param == "selected":
        settings = {"redis_connect_timeout": 10, "redis_command_timeout": 10, "max_staleness": 30}
        settings["settle"] = False
        settings["redis_url"] = request.getfixturevalue("fresh_redis").url
        selection = Selection(CacheSettings(rust_cache_rollout_pct=50, **settings))
        assert {selection.choose(user).backend for user in USERS} == {"tiered", "redis"}
        cache = SelectedPolicyCache(selection)
        # What a tiered cache stores before it knows the log is not served afterwards.
        assert await cache.health_check()
        yield cache
        selection.close()
        await close_policy_caches()
    else:
        async with caches_on(request.param) as new:
            yield await new()


async def stored_decisions(cache):
    """Returns the number of users that have a decision."""
    served = await cache.get_batch([(user, "read", "doc") for user in USERS])
    return sum(decision is not None for decision in served)


async def store_one_by_one(cache, tags):
    for user in USERS:
        assert await cache.set(user, "read", "doc", ALLOW, tags=tags()) is True


async def store_by_loads(cache, tags):
    for user in USERS:
        await cache.get_or_load(user, "read", "doc", bringing(ALLOW), tags=tags())


async def store_by_late_tags(cache, tags):
    for user in USERS:
        await cache.get_or_load(user, "read", "doc", bringing(Loaded(ALLOW, tags=tags())))


async def store_by_batch(cache, tags):
    rows = ((user, "read", "doc", ALLOW) for user in USERS)
    assert await cache.set_batch(rows, tags=tags()) == len(USERS)


async def preload(cache, tags):
    rows = ((user, "read", "doc", ALLOW) for user in USERS)
    assert await cache.preload_cache(rows, tags=tags()) == len(USERS)


@every_kind
@pytest.mark.parametrize(
    "store", [store_one_by_one, store_by_loads, store_by_late_tags, store_by_batch, preload]
)
async def test_decisions_are_stored_with_all_tags(any_cache, store, once):
    await store(any_cache, lambda: once(["first", "last"]))
    assert await stored_decisions(any_cache) == len(USERS)
    assert await any_cache.invalidate(tags=["last"]) == len(USERS)
    assert await stored_decisions(any_cache) == 0


@every_kind
async def test_a_revocation_removes_only_entries_with_its_tags(any_cache, once):
    half = len(USERS) // 2
    rows = [(user, "read", "doc", ALLOW) for user in USERS]
    await any_cache.set_batch(rows[:half], tags=["named"])
    await any_cache.set_batch(rows[half:], tags=["other"])
    assert await any_cache.invalidate(tags=once(["named", "unheard of"])) == half
    assert await stored_decisions(any_cache) == half


@every_kind
async def test_every_row_of_a_batch_is_looked_up(any_cache, once):
    await any_cache.set_batch([(user, "read", "doc", ALLOW) for user in USERS])
    requests = once([(user, "read", "doc") for user in USERS])
    assert await any_cache.get_batch(requests) == [ALLOW] * len(USERS)


@pytest.mark.parametrize(
    "store", [store_one_by_one, store_by_loads, store_by_late_tags, store_by_batch, preload]
)
async def test_endless_tags_store_nothing_and_do_not_hang(any_cache, store):
    def endless():
        return (f"tag-{number}" for number in itertools.count())

    with contextlib.suppress(AssertionError):  # fails if it is not stored
        await store(any_cache, endless)
    assert await stored_decisions(any_cache) == 0


async def test_endless_tags_of_a_revocation_are_refused(any_cache):
    with pytest.raises(ValueError, match="tags"):
        await any_cache.invalidate(tags=(f"tag-{number}" for number in itertools.count()))


@pytest.mark.parametrize("empty", [(), [], set(), iter(())], ids=lambda empty: type(empty).__name__)
async def test_tags_that_are_given_must_not_be_empty(any_cache, empty):
    await any_cache.set(USERS[0], "read", "doc", ALLOW)
    with pytest.raises(ValueError, match=r"tags must name at least one"):
        await any_cache.invalidate(tags=empty)
    assert await stored_decisions(any_cache) == 1


async def test_a_revocation_without_arguments_revokes_everything_and_warns(any_cache, caplog):
    for given in ({}, {"user_id": None, "tags": None, "policy": None}):
        await any_cache.set_batch([(user, "read", "doc", ALLOW) for user in USERS])
        assert await any_cache.invalidate(**given) == len(USERS)
    warnings = [one.message for one in caplog.records if "clear()" in one.message]
    backends = any_cache.backends() if any_cache.backend == "selected" else [any_cache]
    assert len(warnings) == len(backends)
    caplog.clear()
    assert await any_cache.clear() is True
    assert not caplog.records


async def test_bounds_of_a_histogram_are_read_once(any_cache):
    await any_cache.get(USERS[0], "read", "doc")
    for histogram in (any_cache.latency_histogram, any_cache.evaluation_histogram):
        assert len(histogram(iter([0.001, 100.0])).counts) == 2


async def test_the_null_cache_accepts_them_too():
    cache = NullPolicyCache()
    assert await cache.set_batch(iter([("alice", "read", "doc", ALLOW)]), tags=iter(["t"])) == 0
    assert await cache.get_batch(iter([("alice", "read", "doc")])) == [None]
    assert await cache.invalidate(tags=iter(["t"])) == 0
    with pytest.raises(ValueError, match="tags must name at least one"):
        await cache.invalidate(tags=[])
