"""Cancellation of background tasks, with a limit on the wait for their end.

`task.cancel()` is a request that a task can lose: on CPython 3.11 `asyncio.wait_for` drops a
cancellation that arrives just after the awaited operation has ended. A loop around such a call then
continues, and an unlimited wait for its end never returns. So every wait for a cancelled task uses
`end`, which cancels again and gives up after a limit.
"""

import asyncio
from collections.abc import Collection, Generator
from contextlib import contextmanager
from logging import getLogger
from typing import Any, Final

logger: Final = getLogger("sark_cache")

ASK_AGAIN_SECONDS: Final = 0.1
"""The pause before a task that did not end is cancelled again."""
END_SECONDS: Final = 2.0
"""The longest wait for cancelled tasks."""


async def end(
    tasks: Collection["asyncio.Task[Any]"], what: str, seconds: float = END_SECONDS
) -> None:
    """Cancels tasks of the running event loop and waits for their end, at most `seconds`.

    Logs the number of tasks that did not end at WARNING. They stay cancelled, and nothing waits
    for them.

    Args:
        tasks: The tasks. The current task must not be one of them.
        what: The name of the tasks in the log.
        seconds: The longest wait.
    """
    clock = asyncio.get_running_loop().time
    give_up = clock() + seconds
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        left = give_up - clock()
        if left <= 0:
            logger.warning("%d of the cache's %s did not end in %g s", len(running), what, seconds)
            return
        _, running = await asyncio.wait(running, timeout=min(ASK_AGAIN_SECONDS, left))


@contextmanager
def cancellation_kept() -> Generator[None]:
    """Raises `CancelledError` at the end of the block if a cancellation was lost within it.

    The `CancelledError` replaces an exception that the block raises.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except Exception:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError from None
        raise
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
