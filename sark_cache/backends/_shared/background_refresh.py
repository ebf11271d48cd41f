"""Background refreshes: tasks that no caller awaits, held until they are done."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from sark_cache._core.tasks import end


class Refreshes:
    """The running refreshes of one cache, in any number of event loops.

    It holds a strong reference to each task, because an event loop holds none.
    """

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self._report = report
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, refresh: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        """Runs a refresh as a task of the running event loop."""
        event_loop = asyncio.get_running_loop()
        # `copy` is one step, so threads with other event loops may add and remove tasks.
        for cut_off in [task for task in self._tasks.copy() if task.get_loop().is_closed()]:
            self._tasks.discard(cut_off)  # a task of a closed loop never ends
        task = event_loop.create_task(self._run(refresh), name="sark-cache refresh")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def stop(self) -> set[asyncio.Task[None]]:
        """Cancels all refreshes. Returns those of the running event loop, for `ended`."""
        here: set[asyncio.Task[None]] = set()
        running = running_loop()
        current = asyncio.current_task(running) if running else None
        for task in self._tasks.copy():
            event_loop = task.get_loop()
            if event_loop is not running:
                with suppress(RuntimeError):  # the loop is closed: its tasks do not run any more
                    event_loop.call_soon_threadsafe(task.cancel)
            elif task is not current:  # a callback may close the cache that it refreshes
                task.cancel()
                here.add(task)
        return here

    @staticmethod
    async def ended(tasks: set[asyncio.Task[None]]) -> None:
        """Waits until cancelled refreshes have ended, for a limited time."""
        await end(tasks, "refreshes")

    async def _run(self, refresh: Coroutine[Any, Any, object]) -> None:
        try:
            await refresh
        except Exception as error:  # noqa: BLE001 - the callback may raise anything
            # The message shows only the type: the error's text may hold data of the request.
            self._report("refresh", f"the callback raised {type(error).__qualname__}")


def goes_on(task: "asyncio.Task[None]") -> bool:
    """Returns True if a task has not ended and its event loop is running."""
    return not task.done() and task.get_loop().is_running()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Returns the event loop that runs in this thread. None: there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
