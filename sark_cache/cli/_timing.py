"""A measurement of the time that a hit takes on this machine."""

import asyncio
from collections.abc import Callable, Coroutine
from statistics import median
from time import perf_counter
from typing import Any, TypeAlias

RequestFields: TypeAlias = tuple[str, str, str]
"""User, action and resource."""

Get: TypeAlias = Callable[[str, str, str], Coroutine[Any, Any, Any]]


async def seconds_per_call(get: Get, request: RequestFields, *, rounds: int, calls: int) -> float:
    """Measures the time of one look-up, in seconds.

    Args:
        get: The look-up.
        request: The user, action and resource to look up.
        rounds: The number of rounds. Between two of them the event loop runs, so that Ctrl-C works.
        calls: The look-ups of each round.

    Returns:
        The median of the rounds' means.
    """
    user, action, resource = request
    times: list[float] = []
    for _ in range(rounds):
        started = perf_counter()
        for _ in range(calls):
            await get(user, action, resource)
        times.append((perf_counter() - started) / calls)
        await asyncio.sleep(0)  # lets Ctrl-C interrupt the measurement
    return median(times)
