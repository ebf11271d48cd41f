"""How long a hit takes here, measured."""

import asyncio
from collections.abc import Callable, Coroutine
from statistics import median
from time import perf_counter
from typing import Any, TypeAlias

Request: TypeAlias = tuple[str, str, str]

Get: TypeAlias = Callable[[str, str, str], Coroutine[Any, Any, Any]]


async def seconds_per_call(get: Get, request: Request, *, rounds: int, calls: int) -> float:
    """The median over `rounds` of what one of `calls` look-ups in a row takes, in seconds."""
    user, action, resource = request
    times: list[float] = []
    for _ in range(rounds):
        started = perf_counter()
        for _ in range(calls):
            await get(user, action, resource)
        times.append((perf_counter() - started) / calls)
        await asyncio.sleep(0)  # where Ctrl-C is heard
    return median(times)
