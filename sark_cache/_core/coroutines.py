"""Helpers for functions that act when they are called and return an awaitable.

Such a function cannot be an `async def`, which does nothing until it is awaited. But frameworks
check before they call: Starlette runs a function that is not async in a thread, and drops the
awaitable that the function returns. So these functions are marked as coroutine functions.
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
    """Marks a function, so that `asyncio.iscoroutinefunction` returns True for it.

    From CPython 3.12 on, `inspect.iscoroutinefunction` returns True, too. Older versions of
    inspect know no mark.
    """
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    function.__dict__["_is_coroutine"] = getattr(asyncio.coroutines, "_is_coroutine", None)
    return function


class Deferred(Coroutine[Any, Any, T]):
    """A coroutine that is created when it is first awaited.

    Dropping it before that causes no "never awaited" warning.

    Args:
        make: Returns the coroutine to run.
    """

    __slots__ = ("__weakref__", "_coroutine", "_make")

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._make: Callable[[], Coroutine[Any, Any, T]] | None = make
        self._coroutine: Coroutine[Any, Any, T] | None = None

    def send(self, value: Any, /) -> Any:  # noqa: ANN401 - the signature of Coroutine
        """Resumes the coroutine until it waits for something."""
        return self._made().send(value)

    def throw(
        self,
        kind: Any,  # noqa: ANN401 - an exception, or its class
        value: Any = None,  # noqa: ANN401
        traceback: TracebackType | None = None,
        /,
    ) -> Any:  # noqa: ANN401
        """Raises an exception in the coroutine, at the point where it waits."""
        error = kind if value is None else value
        return self._made().throw(error if traceback is None else error.with_traceback(traceback))

    def close(self) -> None:
        """Ends the coroutine at the point where it waits."""
        self._made().close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._made().__await__()

    def _made(self) -> Coroutine[Any, Any, T]:
        if self._coroutine is None:
            make, self._make = self._make, None
            if make is None:  # an earlier call was interrupted in `make`
                message = "cannot reuse already awaited coroutine"
                raise RuntimeError(message)
            self._coroutine = make()
        return self._coroutine
