"""A deny that could not be stored: the older allow is not served once the server answers again."""

import asyncio
import contextlib

import pytest

from loaders import ControlledLoader
from sark_cache.backends.redis import PolicyCache, superseded
from timed_requests import ALLOW

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ALICE = ("alice", "read", "doc")
KEY = "sark-cache:1::alice:read:doc:none"
DENY = {"allow": False}
PATIENT = {"connect_timeout": 10, "command_timeout": 10}


async def removed(server, key=KEY):
    async with asyncio.timeout(10):
        while server.command("EXISTS", key):
            await asyncio.sleep(0.01)


DENIED = {
    "set": lambda cache: cache.set(*ALICE, DENY),
    "set with a stamp": lambda cache: cache.set(*ALICE, DENY, stamp=cache.stamp()),
    "set_batch": lambda cache: cache.set_batch([(*ALICE, DENY)]),
    "set of what cannot be stored": lambda cache: cache.set(*ALICE, {"allow": object()}),
    "set of no time": lambda cache: cache.set(*ALICE, DENY, ttl_seconds=0),
}


@pytest.mark.parametrize("denied", DENIED)
async def test_a_deny_while_no_server_answers_removes_the_older_allow(
    own_redis, open_cache, denied
):
    server = own_redis()
    cache = await open_cache(server.url)
    assert await cache.set(*ALICE, ALLOW)
    server.pause()
    assert await cache.get(*ALICE) is None
    assert cache.circuit_open
    assert not await DENIED[denied](cache)
    server.resume()
    async with asyncio.timeout(10):
        while cache.circuit_open:
            assert await cache.get(*ALICE) is None
            assert await cache.get_batch([ALICE]) == [None]
            await asyncio.sleep(0.001)
    for _ in range(20):
        assert await cache.get(*ALICE) is None
        assert await cache.get_decision(*ALICE) is None
        assert await cache.get_batch([ALICE]) == [None]
    await removed(server)
    async with PolicyCache(server.url, **PATIENT) as another:
        assert await another.get(*ALICE) is None


@pytest.mark.parametrize("denied", DENIED)
async def test_a_deny_while_the_cache_is_off_and_nobody_answers_ends_the_older_allow(
    own_redis, open_cache, denied
):
    server = own_redis()
    cache = await open_cache(server.url)
    assert await cache.set(*ALICE, ALLOW)
    before = cache.get_metrics()
    server.pause()
    cache.enabled = False
    assert not await DENIED[denied](cache)
    async with asyncio.timeout(10):
        while not cache.circuit_open:  # it was to be removed while the cache is off
            await asyncio.sleep(0.001)
    assert cache.get_metrics() == before
    server.resume()
    cache.enabled = True
    async with asyncio.timeout(10):
        while server.command("EXISTS", KEY):
            assert await cache.get(*ALICE) is None
            assert await cache.get_batch([ALICE]) == [None]
            await asyncio.sleep(0.001)
    assert await cache.get(*ALICE) is None


async def test_a_deny_while_the_cache_is_off_ends_the_allow_of_other_processes(fresh_redis):
    async with (
        PolicyCache(fresh_redis.url, **PATIENT) as off,
        PolicyCache(fresh_redis.url, **PATIENT) as on,
    ):
        assert await on.set(*ALICE, ALLOW)
        off.enabled = False
        assert await off.set(*ALICE, DENY) is False
        await removed(fresh_redis)
        assert await on.get(*ALICE) is None


async def test_many_denies_while_the_cache_is_off_take_few_records(fresh_redis):
    """A load is not stored if more than 1,024 records came since it began."""
    async with PolicyCache(fresh_redis.url, **PATIENT) as cache:
        await cache.health_check()
        cache.enabled = False
        for i in range(400):
            assert await cache.set(f"user-{i}", "read", "doc", DENY) is False
        async with asyncio.timeout(10):
            while cache._writer.superseded:
                await asyncio.sleep(0.01)
    assert fresh_redis.command("XLEN", "{policy:decision}.log") in range(1, 100)


async def test_a_deny_without_a_reply_invalidates_an_older_evaluation(own_redis, open_cache):
    server = own_redis()
    cache = await open_cache(server.url)
    async with PolicyCache(server.url, **PATIENT) as another:
        loader = ControlledLoader()
        load = asyncio.create_task(another.get_or_load(*ALICE, loader))
        await loader.begun.wait()
        server.pause()
        assert await cache.set(*ALICE, DENY) is False
        server.resume()
        async with asyncio.timeout(10):
            while "superseded" in {task.get_name().split()[-1] for task in asyncio.all_tasks()}:
                await asyncio.sleep(0.01)
        loader.bring(ALLOW)
        await load
        assert await another.get(*ALICE) in {None, False}
        assert await cache.get(*ALICE) is None


async def test_a_cancelled_deny_removes_the_older_allow(own_redis, open_cache):
    server = own_redis()
    cache = await open_cache(server.url, command_timeout=10)
    assert await cache.set(*ALICE, ALLOW)
    server.pause()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await cache.set(*ALICE, DENY)
    server.resume()
    assert await cache.get(*ALICE) in (None, DENY)
    await removed(server)


async def test_too_many_superseded_decisions_invalidate_everything_older(
    own_redis, open_cache, monkeypatch, caplog
):
    monkeypatch.setattr(superseded, "MOST_KEYS", 10)
    server = own_redis()
    cache = await open_cache(server.url)
    await cache.set_batch([(f"user-{i}", "read", "doc", ALLOW) for i in range(30)])
    server.pause()
    await cache.get(*ALICE)
    assert await cache.set_batch([(f"user-{i}", "read", "doc", DENY) for i in range(20)]) == 0
    server.resume()
    async with asyncio.timeout(10):
        while cache.circuit_open:
            assert await cache.get("user-29", "read", "doc") is None
            await asyncio.sleep(0.001)
        while server.command("KEYS", "sark-cache:1:*"):
            assert await cache.get("user-29", "read", "doc") is None
            await asyncio.sleep(0.001)
        while not await cache.set(*ALICE, ALLOW) or await cache.get(*ALICE) is None:
            await asyncio.sleep(0.01)
    assert "too many decisions were superseded: all decisions are revoked" in caplog.text


async def test_pending_removals_are_done_when_the_cache_is_closed(own_redis):
    server = own_redis()
    cache = PolicyCache(server.url)
    assert await cache.set(*ALICE, ALLOW)
    server.pause()
    await cache.get(*ALICE)
    assert await cache.set(*ALICE, DENY) is False
    server.resume()
    async with asyncio.timeout(10):
        while cache.circuit_open:
            await asyncio.sleep(0.001)
    await cache.close()
    assert not server.command("EXISTS", KEY)


async def test_a_deny_that_cannot_be_stored_is_recorded_before_the_older_one_is_removed(
    fresh_redis,
):
    """Repeated, because the load must not survive wherever it is stored between the two steps."""
    async with (
        PolicyCache(fresh_redis.url, **PATIENT) as one,
        PolicyCache(fresh_redis.url, **PATIENT) as other,
    ):
        await one.health_check()
        for i in range(150):
            request = (f"user-{i}", "read", "doc")
            loader = ControlledLoader()
            load = asyncio.create_task(one.get_or_load(*request, loader))
            await loader.begun.wait()
            deny = asyncio.create_task(other.set(*request, {"why": "x" * 70_000}))
            await asyncio.sleep((i % 30) * 0.00005)
            loader.bring(ALLOW)
            await asyncio.gather(load, deny)
            assert await other.get(*request) is None


async def test_the_record_of_a_deny_goes_to_the_server_first(own_redis):
    """Checks the order of the commands that the server received."""
    server = own_redis()
    async with PolicyCache(server.url, **PATIENT) as cache:
        await cache.set(*ALICE, ALLOW)
        server.command("CONFIG", "SET", "slowlog-log-slower-than", 0)
        server.command("SLOWLOG", "RESET")
        assert await cache.set(*ALICE, {"allow": object()}) is False
        sent = [str(entry) for entry in reversed(server.command("SLOWLOG", "GET", 20))]
    changes = [command for command in sent if "EVAL" in command]
    assert ["{policy:decision}.log" in change for change in changes] == [True, False]
