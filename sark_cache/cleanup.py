"""Cleanup: what expired leaves the cache every so often, not only when it is asked for again.

An expired entry is never served, cleaned up or not; this gives its memory back. A cycle costs what
the cache's `cleanup_expired` costs; between two cycles there is a task that sleeps.
"""

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable
from dataclasses import asdict, dataclass, field
from typing import Final, Protocol

from sark_cache._core.fault_log import FaultLog
from sark_cache._core.tasks import end

logger: Final = logging.getLogger("sark_cache")

STOP_SECONDS: Final = 5.0
"""How long `stop` waits for a cycle under way before it cancels it."""


class Cleanable(Protocol):
    """A cache whose expired entries can be removed: every cache of this package."""

    def cleanup_expired(self) -> Awaitable[int]:
        """Removes expired entries; returns how many."""
        ...


@dataclass(slots=True)
class CleanupMetrics:
    """What the cleanup of a cache counted."""

    cleanups_run: int = 0
    """Cycles that succeeded."""
    total_entries_removed: int = 0
    last_cleanup_removed: int = 0
    last_cleanup_duration_ms: float = 0.0
    errors: int = 0
    """Cycles that failed."""

    @property
    def avg_entries_per_cleanup(self) -> float:
        """Entries removed per cycle that succeeded."""
        return self.total_entries_removed / self.cleanups_run if self.cleanups_run else 0.0

    def to_dict(self) -> dict[str, int | float]:
        """All of it, floats rounded to 2 decimals."""
        return {
            **asdict(self),
            "last_cleanup_duration_ms": round(self.last_cleanup_duration_ms, 2),
            "avg_entries_per_cleanup": round(self.avg_entries_per_cleanup, 2),
        }


@dataclass(frozen=True, slots=True)
class _Round:
    """The cycles between a start and a stop."""

    task: asyncio.Task[None]
    stop: asyncio.Future[None]
    process: int = field(default_factory=os.getpid)

    @property
    def is_running(self) -> bool:
        """False: it was cancelled, or its event loop was closed or is a parent process's."""
        in_this_process = self.process == os.getpid()
        return in_this_process and not self.task.done() and not self.task.get_loop().is_closed()


_tasks: set[asyncio.Task[None]] = set()
"""The tasks that run: an event loop itself holds none."""


class CacheCleanupTask:
    """Removes a cache's expired entries every so often, in the background of an event loop.

    A cycle that fails is counted in `metrics.errors`, logged once per burst, and followed by the
    next one. A cycle that is triggered may overlap a scheduled one, which does no harm: each entry
    is removed, and counted, by one of them.

    Args:
        cache: What to clean up.
        interval: The pause between two cycles, in seconds.
        enabled: If False, `start` does nothing.

    Raises:
        TypeError: `interval` is not a number.
        ValueError: `interval` is not more than 0 and finite.

    Attributes:
        cache: As given.
        interval: As given.
        enabled: As given.
        metrics: What it counted.
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
        self._round: _Round | None = None
        self._faults: Final = FaultLog("policy")

    @property
    def running(self) -> bool:
        """Whether it was started, and neither stopped nor ended by something else."""
        return self._round is not None and self._round.is_running

    async def start(self) -> None:
        """Begins in the background of the running event loop, unless it runs or is disabled.

        The first cycle comes after one interval.
        """
        if self.running or not self.enabled:
            return
        stop = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._clean_up_until(stop), name="sark-cache cleanup")
        self._round = _Round(task, stop)
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        logger.info("cleanup started", extra={"interval_seconds": self.interval})

    async def stop(self) -> None:
        """Ends it: waits for a cycle under way at most 5 seconds, then cancels it.

        It can be started again. Nothing happens if it does not run.

        Raises:
            RuntimeError: It was started in another event loop, which is where it has to be stopped.
        """
        ending = self._round
        if ending is None or not ending.is_running:
            self._round = None
            return
        if ending.task.get_loop() is not asyncio.get_running_loop():
            message = "the cleanup was started in another event loop: stop it there"
            raise RuntimeError(message)
        self._round = None
        ending.stop.set_result(None)
        if ending.task is not asyncio.current_task():  # a cache may stop its own cleanup
            await _end(ending.task)
        logger.info("cleanup stopped", extra=self.metrics.to_dict())

    async def trigger_cleanup(self) -> int:
        """Runs a cycle now, whether it was started or not; the schedule stays as it is.

        Returns:
            How many entries it removed; 0 if it failed, which is counted and logged.
        """
        return await self._clean_up()

    def get_metrics(self) -> dict[str, int | float]:
        """What it counted, as a dict."""
        return self.metrics.to_dict()

    def reset_metrics(self) -> None:
        """Sets every counter to zero."""
        self.metrics = CleanupMetrics()

    async def health_check(self) -> bool:
        """Whether it runs, or is not meant to."""
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
        except Exception as error:  # noqa: BLE001 - whatever a cache raises
            self.metrics.errors += 1
            self._faults.report("cleanup", f"{type(error).__qualname__}: {error}")
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
    """Starts the cleanup of this process, unless one runs, which is then returned as it is.

    Args:
        cache: What to clean up.
        interval: The pause between two cycles, in seconds.
        enabled: If False, it is made but does not run.

    Raises:
        TypeError, ValueError: As `CacheCleanupTask` does.
    """
    global _cleanup_task  # noqa: PLW0603 - one per process is what this is for
    if _cleanup_task is not None and _cleanup_task.running:
        if _cleanup_task.cache is not cache:
            logger.warning("the cleanup of another cache runs already: stop that one first")
        return _cleanup_task
    _cleanup_task = CacheCleanupTask(cache, interval, enabled)
    await _cleanup_task.start()
    return _cleanup_task


async def stop_cache_cleanup() -> None:
    """Stops the cleanup of this process, if there is one, as `CacheCleanupTask.stop` does."""
    global _cleanup_task  # noqa: PLW0603
    if _cleanup_task is not None:
        await _cleanup_task.stop()
        _cleanup_task = None


def get_cleanup_task() -> CacheCleanupTask | None:
    """The cleanup of this process: from `start_cache_cleanup` to `stop_cache_cleanup`."""
    return _cleanup_task


def _check_interval(interval: object) -> None:
    if not isinstance(interval, int | float) or isinstance(interval, bool):
        message = f"interval must be a number of seconds, not a {type(interval).__name__}"
        raise TypeError(message)
    if not 0 < interval < math.inf:
        message = f"interval must be more than 0 seconds and finite, not {interval}"
        raise ValueError(message)


async def _end(task: asyncio.Task[None]) -> None:
    """Waits for a task's end; cancels a task that takes too long, and waits a little more."""
    try:
        done, _ = await asyncio.wait({task}, timeout=STOP_SECONDS)
    except asyncio.CancelledError:  # the caller does not wait any longer
        task.cancel()
        raise
    if not done:
        logger.warning("a cleanup took more than %g s to stop: it is cancelled", STOP_SECONDS)
        await end([task], "cleanups")
