"""Detection of async functions and objects, by the rules of FastAPI."""

import sys
from functools import partial
from inspect import unwrap
from typing import Any

if sys.version_info >= (3, 12):
    from inspect import iscoroutinefunction
else:  # there only asyncio knows the mark of a coroutine function
    from asyncio import iscoroutinefunction


def is_async(function: Any) -> bool:  # noqa: ANN401 - any callable
    """Returns whether a call of a function or object returns a coroutine. Does not call it.

    As FastAPI does, it unwraps partials and `functools.wraps`, and checks an object's `__call__`.
    """
    while isinstance(function, partial):
        function = function.func
    candidates = (function, unwrap(function), getattr(function, "__call__", None))  # noqa: B004
    return any(iscoroutinefunction(each) for each in candidates)  # pyright: ignore[reportDeprecated]
