"""Cleanup: a background task that removes a cache's expired entries at an interval.

An expired entry is never served, whether it was removed or not. Removing it releases its memory. A
cycle costs the same as a call of the cache's `cleanup_expired`. Between two cycles the task sleeps.
"""

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable
from dataclasses import asdict, dataclass, field
from typing import Final, Protocol

from sark_cache._core.errors import with_text
from sark_cache._core.fault_log import FaultLog
from sark_cache._core.tasks import end

__all__ = [
    "CacheCleanupTask",
    "CleanupMetrics",
    "get_cleanup_task",
    "start_cache_cleanup",
    "stop_cache_cleanup",
]

logger: Final = logging.getLogger("sark_cache")

STOP_SECONDS: Final = 5.0
"""The longest wait of `stop` for a running cycle, before it cancels the cycle."""


class Cleanable(Protocol):
    """A cache whose expired entries can be removed: every cache of this package."""

    def cleanup_expired(self) -> Awaitable[int]:
        """Removes expired entries. Returns the number of entries removed."""
        ...


@dataclass(slots=True)
class CleanupMetrics:
    """The counters of the cleanup of one cache."""

    cleanups_run: int = 0
    """The number of successful cycles."""
    total_entries_removed: int = 0
    last_cleanup_removed: int = 0
    last_cleanup_duration_ms: float = 0.0
    errors: int = 0
    """The number of failed cycles."""

    @property
    def avg_entries_per_cleanup(self) -> float:
        """The mean number of entries removed in a successful cycle."""
        return self.total_entries_removed / self.cleanups_run if self.cleanups_run else 0.0

    def to_dict(self) -> dict[str, int | float]:
        """Returns all numbers, with floats rounded to 2 decimals."""
        return {
            **asdict(self),
            "last_cleanup_duration_ms": round(self.last_cleanup_duration_ms, 2),
            "avg_entries_per_cleanup": round(self.avg_entries_per_cleanup, 2),
        }


@dataclass(frozen=True, slots=True)
class _Run:
    """The cycles between a start and a stop."""

    task: asyncio.Task[None]
    stop: asyncio.Future[None]
    process: int = field(default_factory=os.getpid)

    @property
    def is_running(self) -> bool:
        """False if it was cancelled, its loop was closed, or it belongs to a parent process."""
        in_this_process = self.process == os.getpid()
        return in_this_process and not self.task.done() and not self.task.get_loop().is_closed()


_tasks: set[asyncio.Task[None]] = set()
"""The running tasks. An event loop holds no strong reference to its tasks."""


class CacheCleanupTask:
    """Removes a cache's expired entries at an interval, in a task of an event loop.

    A failed cycle is counted in `metrics.errors` and logged once per burst, and the next cycle
    follows. A triggered cycle may overlap with a scheduled one: each entry is removed and counted
    by only one of them.

    Args:
        cache: The cache to clean up.
        interval: The pause between two cycles, in seconds.
        enabled: If False, `start` does nothing.

    Raises:
        TypeError: `interval` is not a number.
        ValueError: `interval` is not more than 0 and finite.

    Attributes:
        cache: The cache to clean up.
        interval: The pause between two cycles, in seconds.
        enabled: If False, `start` does nothing.
        metrics: The counters.
    """

    def __init__(
        self,
        cache: Cleanable,
        interval: float = 60,
        enabled: bool = True,  # noqa: FBT001, FBT002 - the signature is SARK's
    ) -> None:
        _check_interval(interval)
        self.cache = cache
        self.interval = interval
        self.enabled = enabled
        self.metrics: CleanupMetrics = CleanupMetrics()
        self._run: _Run | None = None
        self._faults: Final = FaultLog("policy")

    @property
    def running(self) -> bool:
        """True from `start` to `stop`, unless the task was cancelled or its event loop closed."""
        return self._run is not None and self._run.is_running

    async def start(self) -> None:
        """Starts the task in the running event loop, unless it runs or the cleanup is disabled.

        The first cycle starts after one interval.
        """
        if self.running or not self.enabled:
            return
        stop = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._clean_up_until(stop), name="sark-cache cleanup")
        self._run = _Run(task, stop)
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        logger.info("cleanup started", extra={"interval_seconds": self.interval})

    async def stop(self) -> None:
        """Stops the task. Waits at most 5 seconds for a running cycle, then cancels it.

        The task can be started again. If it does not run, nothing happens.

        Raises:
            RuntimeError: The task was started in another event loop, and must be stopped there.
        """
        ending = self._run
        if ending is None or not ending.is_running:
            self._run = None
            return
        if ending.task.get_loop() is not asyncio.get_running_loop():
            message = "the cleanup was started in another event loop: stop it there"
            raise RuntimeError(message)
        self._run = None
        ending.stop.set_result(None)
        if ending.task is not asyncio.current_task():  # a cache may stop its own cleanup
            await _end(ending.task)
        logger.info("cleanup stopped", extra=self.metrics.to_dict())

    async def trigger_cleanup(self) -> int:
        """Runs a cycle now, even if the task was not started. The schedule does not change.

        Returns:
            The number of entries removed; 0 if the cycle failed, which is counted and logged.
        """
        return await self._clean_up()

    def get_metrics(self) -> dict[str, int | float]:
        """Returns the counters as a dict."""
        return self.metrics.to_dict()

    def reset_metrics(self) -> None:
        """Sets every counter to zero."""
        self.metrics = CleanupMetrics()

    async def health_check(self) -> bool:
        """Returns True if the task runs, or if the cleanup is disabled."""
        return self.running or not self.enabled

    async def _clean_up_until(self, stop: asyncio.Future[None]) -> None:
        while not stop.done():
            await asyncio.wait({stop}, timeout=self.interval)
            if not stop.done():
                await self._clean_up()

    async def _clean_up(self) -> int:
        begun = time.perf_counter()
        try:
            removed = await self.cache.cleanup_expired()
            self.metrics.total_entries_removed += removed
        except Exception as error:  # noqa: BLE001 - a cache may raise anything
            self.metrics.errors += 1
            self._faults.report("cleanup", with_text(error))
            return 0
        duration_ms = 1000 * (time.perf_counter() - begun)
        self.metrics.cleanups_run += 1
        self.metrics.last_cleanup_removed = removed
        self.metrics.last_cleanup_duration_ms = duration_ms
        logger.debug("cleanup removed %d entries in %.2f ms", removed, duration_ms)
        return removed


_cleanup_task: CacheCleanupTask | None = None


async def start_cache_cleanup(
    cache: Cleanable,
    interval: float = 60,
    enabled: bool = True,  # noqa: FBT001, FBT002 - the signature is SARK's
) -> CacheCleanupTask:
    """Starts the cleanup of this process. If one is running, returns it unchanged.

    Args:
        cache: The cache to clean up.
        interval: The pause between two cycles, in seconds.
        enabled: If False, the task is created but does not run.

    Raises:
        TypeError: `interval` is not a number.
        ValueError: `interval` is not more than 0 and finite.
    """
    global _cleanup_task  # noqa: PLW0603 - there is one per process
    if _cleanup_task is not None and _cleanup_task.running:
        if _cleanup_task.cache is not cache:
            logger.warning("the cleanup of another cache is already running: stop it first")
        return _cleanup_task
    _cleanup_task = CacheCleanupTask(cache, interval, enabled)
    await _cleanup_task.start()
    return _cleanup_task


async def stop_cache_cleanup() -> None:
    """Stops the cleanup of this process, if there is one. See `CacheCleanupTask.stop`."""
    global _cleanup_task  # noqa: PLW0603
    if _cleanup_task is not None:
        await _cleanup_task.stop()
        _cleanup_task = None


def get_cleanup_task() -> CacheCleanupTask | None:
    """Returns the cleanup of this process, if it was started and not stopped."""
    return _cleanup_task


def _check_interval(interval: object) -> None:
    if not isinstance(interval, int | float) or isinstance(interval, bool):
        message = f"interval must be a number of seconds, not a {type(interval).__name__}"
        raise TypeError(message)
    if not 0 < interval < math.inf:
        message = f"interval must be more than 0 seconds and finite, not {interval}"
        raise ValueError(message)


async def _end(task: asyncio.Task[None]) -> None:
    """Waits for a task's end. Cancels a task that takes too long, and waits for it once more."""
    try:
        done, _ = await asyncio.wait({task}, timeout=STOP_SECONDS)
    except asyncio.CancelledError:  # the caller was cancelled
        task.cancel()
        raise
    if not done:
        logger.warning("a cleanup took more than %g s to stop and is cancelled", STOP_SECONDS)
        await end([task], "cleanups")
