"""Refreshes ahead: background tasks that nobody awaits, kept until they are done."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from sark_cache._core.tasks import end


class Refreshes:
    """The refreshes of one cache, in whatever event loops they run.

    Holds a strong reference to each task: an event loop itself holds none.
    """

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self._report = report
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, refresh: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        """Runs a refresh in the background of the running event loop."""
        event_loop = asyncio.get_running_loop()
        # Of a copy, which is made in one step: threads with other event loops begin and end some.
        for cut_off in [task for task in self._tasks.copy() if task.get_loop().is_closed()]:
            self._tasks.discard(cut_off)  # it never ends
        task = event_loop.create_task(self._run(refresh), name="sark-cache refresh")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def stop(self) -> set[asyncio.Task[None]]:
        """Cancels all; returns those of the running event loop, to be waited for."""
        here: set[asyncio.Task[None]] = set()
        running = running_loop()
        current = asyncio.current_task(running) if running else None
        for task in self._tasks.copy():
            event_loop = task.get_loop()
            if event_loop is not running:
                with suppress(RuntimeError):  # closed: its tasks do not run any more
                    event_loop.call_soon_threadsafe(task.cancel)
            elif task is not current:  # a callback may close the cache that it refreshes
                task.cancel()
                here.add(task)
        return here

    @staticmethod
    async def ended(tasks: set[asyncio.Task[None]]) -> None:
        """Returns when tasks that were stopped have ended, or after a bounded wait."""
        await end(tasks, "refreshes")

    async def _run(self, refresh: Coroutine[Any, Any, object]) -> None:
        try:
            await refresh
        except Exception as error:  # noqa: BLE001 - whatever the callback raises
            # Its type alone: its message may hold what the request was about.
            self._report("refresh", f"the callback raised {type(error).__qualname__}")


def goes_on(task: "asyncio.Task[None]") -> bool:
    """Returns whether a task runs on: not if it ended, or its event loop does not run."""
    return not task.done() and task.get_loop().is_running()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, if any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
