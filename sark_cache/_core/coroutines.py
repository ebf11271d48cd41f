"""Functions that return awaitables: marked as async for frameworks, and awaitables to be dropped.

A method that has to act when it is called cannot be an `async def`, which does nothing until it is
awaited. Frameworks ask before they call: Starlette runs a function that is not async in a thread,
and drops the awaitable that it returns.
"""

import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])


def returns_awaitable(function: Function) -> Function:
    """Marks a function, so that `iscoroutinefunction` of asyncio and of inspect says True.

    That of inspect does from CPython 3.12 on: before, nothing can be marked for it.
    """
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    function.__dict__["_is_coroutine"] = getattr(asyncio.coroutines, "_is_coroutine", None)
    return function


class Deferred(Coroutine[Any, Any, T]):
    """A coroutine that is made when it is first awaited: dropped before that, it warns of nothing.

    Args:
        make: Makes the coroutine.
    """

    __slots__ = ("__weakref__", "_coroutine", "_make")

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._make: Callable[[], Coroutine[Any, Any, T]] | None = make
        self._coroutine: Coroutine[Any, Any, T] | None = None

    def send(self, value: Any, /) -> Any:  # noqa: ANN401 - as a coroutine of Python's own
        """Runs it until it waits for something, as the event loop does."""
        return self._made().send(value)

    def throw(
        self,
        kind: Any,  # noqa: ANN401 - an exception, or its class
        value: Any = None,  # noqa: ANN401
        traceback: TracebackType | None = None,
        /,
    ) -> Any:  # noqa: ANN401
        """Raises an exception where it waits."""
        error = kind if value is None else value
        return self._made().throw(error if traceback is None else error.with_traceback(traceback))

    def close(self) -> None:
        """Ends it where it waits."""
        self._made().close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._made().__await__()

    def _made(self) -> Coroutine[Any, Any, T]:
        if self._coroutine is None:
            make, self._make = self._make, None
            if make is None:  # interrupted while it was made
                message = "cannot reuse already awaited coroutine"
                raise RuntimeError(message)
            self._coroutine = make()
        return self._coroutine
