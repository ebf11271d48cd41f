"""Single flight: one evaluation for all simultaneous requests of this process for one decision.

With the compiled module, an evaluation is shared by all threads and event loops. Without it, an
evaluation in pure asyncio is shared by the tasks of one event loop. In both, a waiter takes over
when the leader is cancelled. Nothing is stored here: the result goes to the waiters.

Both limit every wait, by the rules in `loading.py`. The asyncio version checks every half second
for the outcome and for a circle of waits. After five seconds a waiter evaluates itself. So no
waiter waits forever for an abandoned leader, for a leader that waits for its waiter, or for a
wake-up that an interrupt lost.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple, Protocol, TypeAlias, cast
from weakref import WeakKeyDictionary

from sark_cache._core.compiled import AsyncCache, is_rust_cache_available
from sark_cache._core.limits import (
    CHECK_INTERVAL_SECONDS,
    MAX_SUPERSEDED,
    MAX_VISITED,
    WAIT_LIMIT_SECONDS,
)
from sark_cache.backends._shared.loading import current_flights
from sark_cache.backends._shared.task_waits import Task, awaited_by

FlightKey: TypeAlias = str
"""Identifies an evaluation. Requests with the same key share it."""

FlightResult: TypeAlias = str | None
"""The result of an evaluation, or None: JSON text, which each request parses for itself."""

Evaluate: TypeAlias = Callable[[], Awaitable[FlightResult]]
Overdue: TypeAlias = Callable[[], None]
"""Called for each request that waited too long for another request's evaluation."""


class Flights(Protocol):
    """The running evaluations of one cache."""

    async def run(self, key: FlightKey, evaluate: Evaluate) -> FlightResult:
        """Returns the result of `evaluate()`, or of a running evaluation of the same key.

        If the evaluation raises, the leader and every waiter get the same exception. If the leader
        is cancelled, a waiter takes over.

        Raises:
            RuntimeError: An evaluation would wait for itself, or too many evaluations of the same
                key have not ended.
        """
        ...


def _do_nothing() -> None:
    pass


def new_flights(overdue: Overdue = _do_nothing) -> Flights:
    """Creates flights that use the compiled module if it is available."""
    return NativeFlights(overdue) if is_rust_cache_available() else AsyncioFlights(overdue)


class NativeFlights:
    """Flights that use the compiled module's general cache, with a time to live of 0."""

    def __init__(self, overdue: Overdue = _do_nothing) -> None:
        self._cache = AsyncCache(max_size=1)
        self._overdue = overdue

    async def run(self, key: FlightKey, evaluate: Evaluate) -> FlightResult:
        """Implements `Flights.run`."""
        try:
            return cast("FlightResult", await self._cache.get_or_load(key, evaluate, 0))
        finally:
            for _ in range(self._cache._take_overdue()):  # noqa: SLF001 - made for this
                self._overdue()


class _HandedOverError(Exception):
    """The leader was cancelled. A waiter may lead."""


class _Flight(NamedTuple):
    leader: Task | None
    outcome: asyncio.Future[FlightResult]
    superseded: int = 0
    """The number of flights of this key in a row that were superseded before this one."""


_waits: WeakKeyDictionary[Task, _Flight] = WeakKeyDictionary()
"""The flight that each task waits for."""


class AsyncioFlights:
    """Flights in pure Python, each in one event loop."""

    def __init__(self, overdue: Overdue = _do_nothing) -> None:
        self._flights: dict[tuple[asyncio.AbstractEventLoop, FlightKey], _Flight] = {}
        self._overdue = overdue

    async def run(self, key: FlightKey, evaluate: Evaluate) -> FlightResult:
        """Implements `Flights.run`."""
        event_loop = asyncio.get_running_loop()
        superseded = failed_waits = 0
        last: _Flight | None = None
        while (flight := self._flights.get((event_loop, key))) is not None:
            if failed_waits and (flight is last or failed_waits > 1):
                superseded = flight.superseded + 1
                break
            with suppress(_HandedOverError):
                if await _wait_for_outcome(flight):
                    return flight.outcome.result()
                last, failed_waits = flight, failed_waits + 1
        if superseded > MAX_SUPERSEDED:
            message = (
                f"get_or_load: {MAX_SUPERSEDED} evaluations of this decision have not ended; does "
                "its loader wait for itself?"
            )
            raise RuntimeError(message)
        if superseded:
            self._overdue()
        return await self._lead(event_loop, key, evaluate, superseded)

    async def _lead(
        self,
        event_loop: asyncio.AbstractEventLoop,
        key: FlightKey,
        evaluate: Evaluate,
        superseded: int,
    ) -> FlightResult:
        self._forget_closed_loops()
        flight = _Flight(asyncio.current_task(), event_loop.create_future(), superseded)
        flight.outcome.add_done_callback(_retrieve_exception)
        self._flights[event_loop, key] = flight
        previous = current_flights.set((id(flight),))
        try:
            value = await evaluate()
        except Exception as error:
            flight.outcome.set_exception(error)
            raise
        else:
            flight.outcome.set_result(value)
            return value
        finally:
            if self._flights.get((event_loop, key)) is flight:
                del self._flights[event_loop, key]
            if not flight.outcome.done():
                with suppress(RuntimeError):  # the event loop is closed and has no waiters
                    flight.outcome.set_exception(_HandedOverError())
            with suppress(ValueError):  # an abandoned coroutine is closed in another context
                current_flights.reset(previous)

    def _forget_closed_loops(self) -> None:
        """Removes the flights of closed event loops, which can have no more waiters."""
        for event_loop, key in self._flights.copy():
            if event_loop.is_closed():
                self._flights.pop((event_loop, key), None)


async def _wait_for_outcome(flight: _Flight) -> bool:
    """Waits for a flight, at most `WAIT_LIMIT_SECONDS`. Returns whether it has an outcome.

    Raises:
        RuntimeError: The flight waits for this task.
        _HandedOverError: The flight has no leader any more.
    """
    task = asyncio.current_task()
    clock = asyncio.get_running_loop().time
    began = now = clock()
    if task is not None:
        _waits[task] = flight
    try:
        while not flight.outcome.done():
            if current_flights.get() or now > began:
                _check_circle(flight, task)
            if now - began >= WAIT_LIMIT_SECONDS:
                return False
            await asyncio.wait([flight.outcome], timeout=CHECK_INTERVAL_SECONDS)
            now = clock()
    finally:
        if task is not None:
            _waits.pop(task, None)
    if isinstance(error := flight.outcome.exception(), _HandedOverError):
        raise error
    return True


def _check_circle(flight: _Flight, task: Task | None) -> None:
    """Raises a RuntimeError if the leader is `task`, or waits for it directly or indirectly."""
    if task is not None and _leads_to(flight.leader, task):
        message = (
            "deadlock: this call was made inside a loader that it would have to wait for. A loader "
            "must not load its own key, and two loaders must not load each other's keys."
        )
        raise RuntimeError(message)


def _leads_to(leader: Task | None, wanted: Task) -> bool:
    seen, ahead = set[Task](), [leader]
    while ahead and len(seen) < MAX_VISITED:
        one = ahead.pop()
        if one is wanted:
            return True
        if one is not None and one not in seen:
            seen.add(one)
            ahead += awaited_by(one)
            if one in _waits:
                ahead.append(_waits[one].leader)
    return False


def _retrieve_exception(flight: asyncio.Future[FlightResult]) -> None:
    """Retrieves the exception, so that asyncio does not log it: the leader has raised it."""
    if not flight.cancelled():
        flight.exception()
