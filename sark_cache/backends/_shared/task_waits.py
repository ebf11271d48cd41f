"""The tasks that a suspended task waits for, as far as asyncio shows them.

A loader may wait for a request in another task: through `await task`, `gather`, a task group,
`wait` or `wait_for`. A request that would close a circle of such waits is an error, and this module
finds the circle. Waits that asyncio does not show (for a thread, or through `shield`) are not
found; a time limit ends them, see `loading.py`. The same holds for an event loop whose tasks are
not those of asyncio.
"""

import asyncio
from collections.abc import Collection, Generator
from types import FrameType
from typing import Any, TypeAlias, TypeGuard

Task: TypeAlias = asyncio.Task[Any]

_WAITING_MODULES = frozenset({"asyncio", "anyio"})
_FRAMES = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))
"""The attributes with the frame and the awaited object of each kind of coroutine."""


def awaited_by(task: Task) -> list[Task]:
    """Returns the tasks that must all end before a suspended task of this event loop continues."""
    future: object = getattr(task, "_fut_waiter", None)
    if future is None:
        return []
    gathered = getattr(future, "_children", None)
    if isinstance(future, asyncio.Task) or gathered is not None:
        several: Any = [future] if gathered is None else gathered
        found = _tasks_in(several)
    else:
        found = [one for frame in _frames(task) for one in _held_by(frame)]
    return [one for one in found if one is not task and not one.done()]


def _frames(task: Task) -> Generator[FrameType]:
    """Yields the frames of asyncio's own functions that a task is suspended in."""
    awaiting: object = task.get_coro()
    while awaiting is not None:
        for frame_name, next_name in _FRAMES:
            frame = getattr(awaiting, frame_name, None)
            if frame is not None:
                if frame.f_globals.get("__name__", "").partition(".")[0] in _WAITING_MODULES:
                    yield frame
                awaiting = getattr(awaiting, next_name, None)
                break
        else:
            return


def _held_by(frame: FrameType) -> list[Task]:
    """Returns the tasks in the local variables of such a function."""
    held = frame.f_locals
    if held.get("return_when", asyncio.ALL_COMPLETED) != asyncio.ALL_COMPLETED:
        return []  # the end of one task is enough
    return [
        one
        for value in held.values()
        for one in (_tasks_in([value]) or _tasks_in(value) or _tasks_in(_of_group(value)))
    ]


def _of_group(value: object) -> object:
    """Returns the tasks of a task group, asyncio's or anyio's."""
    return getattr(value, "_tasks", None) if type(value).__name__ == "TaskGroup" else None


def _tasks_in(values: object) -> list[Task]:
    if not _holds_several(values):
        return []
    return [one for one in tuple(values) if isinstance(one, asyncio.Task)]


def _holds_several(value: object) -> TypeGuard[Collection[object]]:
    return isinstance(value, (set, frozenset, list, tuple))
