"""Calling what users gave, a function or an object, async or not, as FastAPI would."""

import sys
from functools import partial
from inspect import unwrap
from typing import Any

if sys.version_info >= (3, 12):
    from inspect import iscoroutinefunction
else:  # what marks a function as a coroutine function there is known to asyncio alone
    from asyncio import iscoroutinefunction


def is_async(function: Any) -> bool:  # noqa: ANN401 - any callable
    """Returns whether calling it gives a coroutine, by what it says of itself.

    As FastAPI does, it looks through partials and `functools.wraps`, and at an object's `__call__`.
    """
    while isinstance(function, partial):
        function = function.func
    candidates = (function, unwrap(function), getattr(function, "__call__", None))  # noqa: B004
    return any(iscoroutinefunction(each) for each in candidates)  # pyright: ignore[reportDeprecated]
