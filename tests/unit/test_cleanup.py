"""Cleanup tasks remove expired entries, whatever fails in between."""

import asyncio
import gc
import logging
import math
from contextlib import asynccontextmanager, closing

import pytest

from interpreters import needs_fork, run
from sark_cache import RustPolicyCache, cleanup
from sark_cache.cleanup import (
    CacheCleanupTask,
    CleanupMetrics,
    get_cleanup_task,
    start_cache_cleanup,
    stop_cache_cleanup,
)

SOON = 0.001
NEVER = 3600
PATIENCE = 10.0
"""The maximum number of seconds that a test waits."""


class Cache:
    """A cache whose cleanup the test controls."""

    def __init__(self):
        self.cycles = 0
        self.removes = 3
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def cleanup_expired(self):
        self.cycles += 1
        self.begun.set()
        await self.may_end.wait()
        if isinstance(self.removes, BaseException):
            raise self.removes
        return self.removes

    async def another_cycle(self):
        self.begun.clear()
        async with asyncio.timeout(PATIENCE):
            await self.begun.wait()


@pytest.fixture
async def cache():
    return Cache()


@asynccontextmanager
async def cleaning(cache, interval=SOON):
    task = CacheCleanupTask(cache, interval)
    await task.start()
    yield task
    await task.stop()
    assert no_other_tasks()


def no_other_tasks():
    return asyncio.all_tasks() == {asyncio.current_task()}


async def test_expired_entries_leave_the_cache():
    rust = RustPolicyCache()
    for number in range(10):
        await rust.set("alice", "read", str(number), {"allow": True}, ttl_seconds=0.001)
    await rust.set("alice", "read", "kept", {"allow": True})
    async with cleaning(rust) as task, asyncio.timeout(PATIENCE):
        while task.metrics.total_entries_removed < 10:
            await asyncio.sleep(SOON)
    assert rust.metrics.size == 1
    assert rust.metrics.expirations == task.metrics.total_entries_removed == 10
    assert task.metrics.last_cleanup_duration_ms > 0
    assert task.metrics.errors == 0


async def test_it_runs_again_and_again(cache):
    async with cleaning(cache) as task:
        for _ in range(5):
            await cache.another_cycle()
    assert task.metrics.cleanups_run == cache.cycles >= 5
    assert task.metrics.total_entries_removed == 3 * cache.cycles
    assert task.metrics.last_cleanup_removed == 3


async def test_the_first_cycle_comes_after_one_interval(cache):
    async with cleaning(cache, NEVER):
        await asyncio.sleep(0.01)
    assert cache.cycles == 0


async def test_it_has_the_defaults_of_sark(cache):
    task = CacheCleanupTask(cache)
    assert (task.cache, task.interval, task.enabled, task.running) == (cache, 60, True, False)
    assert task.metrics == CleanupMetrics()


@pytest.mark.parametrize("interval", [0, -1, -0.0, math.nan, math.inf])
async def test_an_interval_is_positive_and_finite(cache, interval):
    with pytest.raises(ValueError, match="interval must be more than 0 seconds and finite"):
        CacheCleanupTask(cache, interval)
    with pytest.raises(ValueError, match="interval"):
        await start_cache_cleanup(cache, interval)
    assert get_cleanup_task() is None


@pytest.mark.parametrize("interval", ["60", None, True])
async def test_an_interval_is_a_number(cache, interval):
    with pytest.raises(TypeError, match="interval must be a number of seconds"):
        CacheCleanupTask(cache, interval)


# Starting and stopping


async def test_it_runs_from_start_to_stop(cache):
    task = CacheCleanupTask(cache, NEVER)
    assert not task.running
    await task.start()
    assert task.running
    await task.stop()
    assert not task.running
    assert no_other_tasks()


async def test_stopping_while_it_pauses_takes_no_time(cache):
    async with asyncio.timeout(1), cleaning(cache, NEVER):
        pass


async def test_starting_twice_starts_it_once(cache):
    async with cleaning(cache, NEVER) as task:
        await task.start()
        assert len(asyncio.all_tasks()) == 2


async def test_stopping_an_idle_task_is_harmless(cache):
    task = CacheCleanupTask(cache, NEVER)
    await task.stop()
    await task.start()
    await task.stop()
    await task.stop()
    assert no_other_tasks()


async def test_it_can_be_started_again(cache):
    task = CacheCleanupTask(cache, SOON)
    for _ in range(3):
        await task.start()
        await cache.another_cycle()
        await task.stop()
    assert task.metrics.cleanups_run == cache.cycles


async def test_disabled_it_does_not_start(cache):
    task = CacheCleanupTask(cache, SOON, enabled=False)
    await task.start()
    assert not task.running
    assert no_other_tasks()
    await task.stop()


async def test_stopping_waits_for_a_running_cycle(cache):
    cache.may_end.clear()
    task = CacheCleanupTask(cache, SOON)
    await task.start()
    await cache.another_cycle()
    stopping = asyncio.create_task(task.stop())
    await asyncio.sleep(0.01)
    assert not stopping.done()
    assert not task.running
    cache.may_end.set()
    await stopping
    assert task.metrics.cleanups_run == 1
    assert no_other_tasks()


async def test_stopping_cancels_a_cycle_that_takes_too_long(cache, monkeypatch, caplog):
    assert cleanup.STOP_SECONDS == 5
    monkeypatch.setattr(cleanup, "STOP_SECONDS", 0.01)
    cache.may_end.clear()
    task = CacheCleanupTask(cache, SOON)
    await task.start()
    await cache.another_cycle()
    await task.stop()
    assert no_other_tasks()
    assert task.metrics == CleanupMetrics(), "cancelled is not failed"
    assert "is cancelled" in caplog.text


async def test_a_cancelled_stop_leaves_nothing_running(cache):
    cache.may_end.clear()
    task = CacheCleanupTask(cache, SOON)
    await task.start()
    await cache.another_cycle()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(task.stop(), 0.01)
    await asyncio.sleep(0)
    assert no_other_tasks()


async def test_a_start_during_a_stop_starts_it_again(cache):
    cache.may_end.clear()
    task = CacheCleanupTask(cache, SOON)
    await task.start()
    await cache.another_cycle()
    stopping = asyncio.create_task(task.stop())
    await asyncio.sleep(0)
    await task.start()
    cache.may_end.set()
    await stopping
    assert task.running
    await cache.another_cycle()
    await task.stop()
    assert no_other_tasks()


async def test_a_cache_may_stop_its_own_cleanup():
    class Once(Cache):
        async def cleanup_expired(self):
            await task.stop()
            return await super().cleanup_expired()

    cache = Once()
    task = CacheCleanupTask(cache, SOON)
    await task.start()
    await cache.another_cycle()
    async with asyncio.timeout(PATIENCE):
        while not no_other_tasks():
            await asyncio.sleep(0)
    assert task.metrics.cleanups_run == cache.cycles == 1


async def test_it_keeps_running_without_references_to_it():
    class Waits(Cache):
        async def cleanup_expired(self):
            self.cycles += 1
            self.begun.set()
            await asyncio.get_running_loop().create_future()  # which has no other reference, either

    cache = Waits()
    await CacheCleanupTask(cache, SOON).start()
    await cache.another_cycle()
    gc.collect()
    [task] = asyncio.all_tasks() - {asyncio.current_task()}
    task.cancel()
    await asyncio.wait({task})


# Event loops


async def test_stopping_it_in_another_loop_is_an_error_that_names_the_loop(cache):
    async with cleaning(cache, NEVER) as task:

        def stop_elsewhere():
            with pytest.raises(RuntimeError, match="another event loop: stop it there"):
                asyncio.run(task.stop())

        await asyncio.to_thread(stop_elsewhere)
        assert task.running


def test_it_ends_with_its_event_loop_and_can_be_started_in_another_one():
    async def start():
        await task.start()
        return task.running

    async def start_and_stop():
        assert await start()
        await task.stop()
        assert no_other_tasks()

    async def stop():
        await task.stop()

    task = CacheCleanupTask(RustPolicyCache(), NEVER)
    assert asyncio.run(start())
    assert not task.running, "asyncio.run cancels what it leaves behind"
    asyncio.run(start_and_stop())

    with closing(asyncio.new_event_loop()) as loop:
        assert loop.run_until_complete(start())
        assert task.running
        [pending] = asyncio.all_tasks(loop)
    assert not task.running, "its loop is closed"
    asyncio.run(stop())
    asyncio.run(start_and_stop())
    pending._log_destroy_pending = False  # it is abandoned on purpose


@needs_fork
def test_a_child_starts_its_own():
    assert run(
        """
        import asyncio, os, signal
        from sark_cache import RustPolicyCache
        from sark_cache.cleanup import get_cleanup_task, start_cache_cleanup, stop_cache_cleanup

        async def child(cache):
            assert not get_cleanup_task().running
            task = await start_cache_cleanup(cache, 3600)
            assert task.running
            assert len(asyncio.all_tasks()) == 2
            await stop_cache_cleanup()
            assert len(asyncio.all_tasks()) == 1

        def child_process(cache):
            signal.alarm(20)
            try:
                asyncio.run(child(cache))
            finally:
                os._exit(int(get_cleanup_task() is not None))

        async def parent():
            cache = RustPolicyCache()
            task = await start_cache_cleanup(cache, 3600)
            pid = os.fork()
            if pid == 0:
                child_process(cache)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), task.running)
            await stop_cache_cleanup()

        asyncio.run(parent())
        """
    ) == ["0 True"]


# Faults


async def test_a_failing_cycle_is_counted_and_logged_once_and_the_task_goes_on(cache, caplog):
    async with cleaning(cache) as task:
        cache.removes = ConnectionError("gone")
        for _ in range(5):
            await cache.another_cycle()
        cache.removes = 7
        await cache.another_cycle()
        await cache.another_cycle()
        assert await task.health_check()
    assert task.metrics.errors >= 4
    assert task.metrics.cleanups_run >= 1
    assert task.metrics.last_cleanup_removed == 7
    [fault] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "cleanup failed: ConnectionError: gone" in fault.message


async def test_a_cycle_that_returns_no_number_counts_as_failed(cache):
    cache.removes = None
    task = CacheCleanupTask(cache)
    assert await task.trigger_cleanup() == 0
    assert task.metrics == CleanupMetrics(errors=1)


async def test_a_cancellation_is_not_caught(cache):
    cache.removes = asyncio.CancelledError()
    task = CacheCleanupTask(cache, SOON)
    with pytest.raises(asyncio.CancelledError):
        await task.trigger_cleanup()
    await task.start()
    await cache.another_cycle()
    async with asyncio.timeout(PATIENCE):
        while task.running:
            await asyncio.sleep(0)
    assert not await task.health_check()
    assert task.metrics.errors == 0
    cache.removes = 1
    await task.start()
    await cache.another_cycle()
    assert await task.health_check()
    await task.stop()


async def test_it_is_healthy_if_it_runs_as_configured(cache):
    task = CacheCleanupTask(cache, NEVER)
    assert not await task.health_check()
    await task.start()
    assert await task.health_check()
    await task.stop()
    assert not await task.health_check()
    assert await CacheCleanupTask(cache, enabled=False).health_check()


# Triggers and metrics


async def test_a_triggered_cycle_returns_the_number_of_removed_entries(cache):
    for enabled in (True, False):
        task = CacheCleanupTask(cache, NEVER, enabled)
        assert await task.trigger_cleanup() == 3
        assert task.metrics.cleanups_run == 1


async def test_a_triggered_cycle_that_fails_returns_nothing_removed(cache):
    task = CacheCleanupTask(cache)
    await task.trigger_cleanup()
    cache.removes = ConnectionError()
    assert await task.trigger_cleanup() == 0
    assert (task.metrics.errors, task.metrics.last_cleanup_removed) == (1, 3)


async def test_cycles_that_overlap_remove_and_count_each_entry_once():
    rust = RustPolicyCache()
    for number in range(1000):
        await rust.set("alice", "read", str(number), {"allow": True}, ttl_seconds=0.001)
    await asyncio.sleep(0.01)
    async with cleaning(rust) as task:
        await asyncio.gather(*(task.trigger_cleanup() for _ in range(10)))
    assert task.metrics.total_entries_removed == rust.metrics.expirations == 1000
    assert task.metrics.cleanups_run >= 10


async def test_each_of_several_triggers_runs_a_cycle(cache):
    task = CacheCleanupTask(cache)
    assert await asyncio.gather(*(task.trigger_cleanup() for _ in range(3))) == [3, 3, 3]
    assert task.metrics.cleanups_run == 3


async def test_metrics_can_be_reset(cache):
    task = CacheCleanupTask(cache)
    await task.trigger_cleanup()
    task.reset_metrics()
    assert task.metrics == CleanupMetrics()


def test_metrics_have_the_names_of_sark():
    assert CleanupMetrics().avg_entries_per_cleanup == 0.0
    assert CleanupMetrics(3, 10, 4, 1.23456, 1).to_dict() == {
        "cleanups_run": 3,
        "total_entries_removed": 10,
        "last_cleanup_removed": 4,
        "last_cleanup_duration_ms": 1.23,
        "avg_entries_per_cleanup": 3.33,
        "errors": 1,
    }


async def test_metrics_are_available_as_a_dict(cache):
    task = CacheCleanupTask(cache)
    await task.trigger_cleanup()
    assert task.get_metrics() == task.metrics.to_dict()
    assert task.get_metrics()["avg_entries_per_cleanup"] == 3


# One for each process


async def test_a_process_has_one_from_start_to_stop(cache):
    assert get_cleanup_task() is None
    task = await start_cache_cleanup(cache, NEVER)
    assert task.running
    assert get_cleanup_task() is task
    assert await start_cache_cleanup(cache) is task
    await stop_cache_cleanup()
    assert not task.running
    assert get_cleanup_task() is None
    await stop_cache_cleanup()
    assert no_other_tasks()


async def test_a_start_for_a_second_cache_warns(cache, caplog):
    task = await start_cache_cleanup(cache, NEVER)
    assert await start_cache_cleanup(Cache(), NEVER) is task
    assert "the cleanup of another cache is already running" in caplog.text
    await stop_cache_cleanup()


async def test_one_that_does_not_run_is_replaced(cache):
    disabled = await start_cache_cleanup(cache, enabled=False)
    assert get_cleanup_task() is disabled
    assert not disabled.running
    task = await start_cache_cleanup(cache, NEVER)
    assert task is not disabled
    assert task.running
    await stop_cache_cleanup()
