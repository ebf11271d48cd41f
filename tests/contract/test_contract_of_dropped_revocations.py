"""A revocation is carried out once it is called, even if nothing awaits it."""

import asyncio
import gc
import inspect
import logging
import sys

import pytest

from sark_cache import PolicyCache

ALLOW = {"allow": True}
ALICE = ("alice", "read", "doc")

REVOCATIONS = {
    "delete": lambda cache: cache.delete(*ALICE),
    "delete by policy": lambda cache: cache.delete(*ALICE, policy=""),
    "invalidate": lambda cache: cache.invalidate(user_id="alice"),
    "by tags": lambda cache: cache.invalidate(tags=["t"]),
    "invalidate_pattern": lambda cache: cache.invalidate_pattern("policy:decision:alice:*"),
    "clear": lambda cache: cache.clear(),
    "clear_all": lambda cache: cache.clear_all(),
}
every_revocation = pytest.mark.parametrize("revoke", REVOCATIONS.values(), ids=REVOCATIONS)


@pytest.fixture
async def stored(cache):
    """A cache that serves a decision."""
    assert await cache.set(*ALICE, ALLOW, tags=["t"]) is True
    return cache


async def removed(cache):
    """Waits until the decision is no longer served."""
    async with asyncio.timeout(20):
        while await cache.get(*ALICE) is not None:
            await asyncio.sleep(0.005)
    return True


@every_revocation
async def test_a_revocation_that_is_not_awaited_is_carried_out(stored, revoke, recwarn):
    revoke(stored)
    gc.collect()
    assert await removed(stored)
    assert stored.metrics.unconfirmed_revocations == 0
    assert not recwarn.list


@every_revocation
async def test_a_revocation_from_a_thread_that_is_not_awaited_is_carried_out(
    stored, revoke, recwarn
):
    def call_and_drop():
        revoke(stored)

    await asyncio.to_thread(call_and_drop)
    gc.collect()
    assert await removed(stored)
    assert stored.metrics.unconfirmed_revocations == 0
    assert not recwarn.list


@every_revocation
async def test_a_caller_that_is_cancelled_cancels_no_revocation(stored, revoke):
    async def call():
        await revoke(stored)

    caller = asyncio.create_task(call())
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    assert await removed(stored)


@every_revocation
async def test_every_way_to_await_a_revocation_returns_its_result(stored, revoke):
    assert asyncio.iscoroutine(revoke(stored))
    assert await revoke(stored) in {0, 1}
    assert await asyncio.create_task(revoke(stored)) in {0, 1}
    assert len(await asyncio.gather(revoke(stored), revoke(stored))) == 2
    assert await asyncio.wait_for(revoke(stored), 20) in {0, 1}


def test_a_revocation_called_outside_of_an_event_loop_can_be_awaited_in_one(fresh_redis):
    cache = PolicyCache(fresh_redis.url, command_timeout=10, connect_timeout=10)
    with asyncio.Runner() as runner:
        assert runner.run(cache.set(*ALICE, ALLOW)) is True
        assert runner.run(cache.invalidate(user_id="alice")) == 1
        assert runner.run(cache.get(*ALICE)) is None
        runner.run(cache.close())


def test_an_event_loop_that_ends_right_after_the_call_carries_it_out(fresh_redis):
    async def main():
        async with PolicyCache(fresh_redis.url, command_timeout=10, connect_timeout=10) as cache:
            assert await cache.set(*ALICE, ALLOW) is True
            cache.invalidate(user_id="alice")

    async def look():
        async with PolicyCache(fresh_redis.url, command_timeout=10, connect_timeout=10) as cache:
            return await cache.get(*ALICE)

    asyncio.run(main())
    assert asyncio.run(look()) is None


ASYNC = (
    *("set", "delete", "get_or_load", "set_batch", "preload_cache", "invalidate"),
    *("invalidate_pattern", "clear", "clear_all", "size", "get_cache_size", "cleanup_expired"),
    *("health_check", "close"),
)


async def test_frameworks_recognize_its_methods_as_async(cache):
    starlette = pytest.importorskip("starlette._utils")
    for name in ASYNC:
        method = getattr(cache, name)
        assert asyncio.iscoroutinefunction(method), name
        assert starlette.is_async_callable(method), name
        if sys.version_info >= (3, 12):
            assert inspect.iscoroutinefunction(method), name


@every_revocation
async def test_a_failed_revocation_that_is_not_awaited_is_logged_and_counted(
    own_redis, caplog, revoke
):
    server = own_redis()
    async with PolicyCache(server.url, command_timeout=0.25) as cache:
        assert await cache.health_check() is True
        server.kill()
        revoke(cache)
        async with asyncio.timeout(20):
            while not cache.metrics.unconfirmed_revocations:
                await asyncio.sleep(0.005)
        [record] = [one for one in caplog.records if one.levelno == logging.ERROR]
        assert "could not be confirmed" in record.message
        assert "No caller awaits it" in record.message
        assert record.backend == "redis"
        assert "alice" not in caplog.text
        assert cache.get_metrics()["unconfirmed_revocations"] == 1


async def test_a_failed_revocation_that_is_awaited_raises_and_is_not_logged_as_lost(
    own_redis, caplog
):
    server = own_redis()
    async with PolicyCache(server.url, command_timeout=0.25) as cache:
        assert await cache.health_check() is True
        server.kill()
        with pytest.raises(Exception, match="could not be confirmed"):
            await cache.invalidate(user_id="alice")
        gc.collect()
        assert cache.metrics.unconfirmed_revocations == 0
        assert not [one for one in caplog.records if one.levelno == logging.ERROR]


async def test_wrong_arguments_raise_at_the_call(cache):
    for wrong in (
        lambda: cache.delete(1, "read", "doc"),
        lambda: cache.invalidate(user_id=1),
        lambda: cache.invalidate_pattern(1),
    ):
        with pytest.raises(TypeError):
            wrong()
