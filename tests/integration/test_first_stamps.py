"""The first stamp of a process, which has no position in the log and is checked by its age."""

import asyncio

import pytest

from sark_cache import PolicyCache
from sark_cache.backends.redis import scripts

ALICE = ("alice", "read", "doc")
ALLOW = {"allow": True}
PATIENT = {"connect_timeout": 10, "command_timeout": 10}


@pytest.fixture(params=["fresh_redis", "fresh_cluster"])
async def url(request, monkeypatch):
    """A server whose log is older than the margin, which is short here."""
    monkeypatch.setattr(scripts, "AGE_MARGIN_MS", 0)
    url = request.getfixturevalue(request.param).url
    async with PolicyCache(url, **PATIENT) as another:
        await another.invalidate(user_id="somebody")
    await asyncio.sleep(0.3 + scripts.AGE_MARGIN_MS / 1e3)
    return url


async def test_the_first_stamp_of_a_process_is_valid(url):
    async with PolicyCache(url, **PATIENT) as cache:
        stamp = cache.stamp()
        assert await cache.set(*ALICE, ALLOW, stamp=stamp) is True
        rows = [(f"user-{i}", "read", "doc", ALLOW) for i in range(150)]
        assert await cache.set_batch(rows, stamp=stamp) == 150


async def test_a_decision_revoked_since_the_stamp_is_not_stored(url):
    async with PolicyCache(url, **PATIENT) as cache, PolicyCache(url, **PATIENT) as another:
        stamp = cache.stamp()
        await another.invalidate(user_id="alice")
        assert await cache.set(*ALICE, ALLOW, stamp=stamp) is False
        assert await cache.set("bob", "read", "doc", ALLOW, stamp=stamp) is True
        assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is True, "it knows where it is"


async def test_a_clock_change_on_one_side_stores_no_revoked_decision(url, monkeypatch):
    async with PolicyCache(url, **PATIENT) as cache, PolicyCache(url, **PATIENT) as another:
        for ahead in (-3600, 3600):
            stamp = cache.stamp()
            stamp = type(stamp)(stamp.log, None, stamp.taken_at, stamp.taken_at_time + ahead)
            await another.invalidate(user_id="alice")
            assert await cache.set(*ALICE, ALLOW, stamp=stamp) is False


async def test_a_log_that_started_after_the_stamp_is_not_trusted(fresh_redis):
    async with PolicyCache(fresh_redis.url, **PATIENT) as cache:
        stamp = cache.stamp()
        async with PolicyCache(fresh_redis.url, **PATIENT) as another:
            await another.invalidate(user_id="alice")
            fresh_redis.flush()
            await another.health_check()
            await another.get(*ALICE)
        assert await cache.set(*ALICE, ALLOW, stamp=stamp) is False
        assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is True
