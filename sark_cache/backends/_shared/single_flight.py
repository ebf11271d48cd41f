"""One evaluation for all who ask for the same decision at the same time, in this process.

The compiled module's where it is there: across threads and event loops, with a lead that is handed
over when its task is cancelled. Else a plain asyncio one, for the tasks of each event loop. Nothing
is stored here: what an evaluation brings goes to those who wait for it, and is forgotten.

Both end every wait, by the rules that `loading.py` explains. The plain one looks every half second
whether the outcome is there and whether a circle has closed, and after five seconds a waiter
evaluates for itself. So nobody waits for ever for a leader that was abandoned, for one that waits
for its waiter, or for a wake-up that an interrupt lost.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple, Protocol, TypeAlias, cast
from weakref import WeakKeyDictionary

from sark_cache._core.compiled import AsyncCache, is_rust_cache_available
from sark_cache.backends._shared.loading import within
from sark_cache.backends._shared.task_waits import Task, awaited_by

FlightKey: TypeAlias = str
"""Says what is evaluated, and since when."""

Brought: TypeAlias = str | None
"""What an evaluation brings: JSON as text, which everybody reads for themselves, or nothing."""

Evaluate: TypeAlias = Callable[[], Awaitable[Brought]]
Overdue: TypeAlias = Callable[[], None]
"""Called for each request that waited too long for another one's evaluation."""

MOMENT_SECONDS: Final = 0.5
PATIENCE_SECONDS: Final = 5.0
MAX_OVERTAKEN: Final = 16
MAX_VISITED: Final = 1_000
"""As in the compiled module's `load.rs`."""


class Flights(Protocol):
    """Evaluations under way."""

    async def run(self, key: FlightKey, evaluate: Evaluate) -> Brought:
        """What `evaluate()` brings, or what another's does that is under way.

        What it raises, everybody is raised. One who leads and is cancelled hands over to another.

        Raises:
            RuntimeError: An evaluation would wait for itself, or too many of the same have not
                ended.
        """
        ...


def _ignore() -> None:
    pass


def new_flights(overdue: Overdue = _ignore) -> Flights:
    """Flights as good as this installation has them."""
    return NativeFlights(overdue) if is_rust_cache_available() else AsyncioFlights(overdue)


class NativeFlights:
    """Those of the compiled module's general cache, told to store nothing."""

    def __init__(self, overdue: Overdue = _ignore) -> None:
        self._cache = AsyncCache(max_size=1)
        self._overdue = overdue

    async def run(self, key: FlightKey, evaluate: Evaluate) -> Brought:
        """As `Flights.run`."""
        try:
            return cast("Brought", await self._cache.get_or_load(key, evaluate, 0))
        finally:
            for _ in range(self._cache._take_overdue()):  # noqa: SLF001 - made for this
                self._overdue()


class _HandedOverError(Exception):
    """The leader gave up; a waiter may lead."""


class _Flight(NamedTuple):
    leader: Task | None
    outcome: asyncio.Future[Brought]
    overtaken: int = 0
    """How many flights of this key took each other's place before it."""


_waits: WeakKeyDictionary[Task, _Flight] = WeakKeyDictionary()
"""The flight that a task waits for."""


class AsyncioFlights:
    """Flights in Python alone, each in one event loop."""

    def __init__(self, overdue: Overdue = _ignore) -> None:
        self._flights: dict[tuple[asyncio.AbstractEventLoop, FlightKey], _Flight] = {}
        self._overdue = overdue

    async def run(self, key: FlightKey, evaluate: Evaluate) -> Brought:
        """As `Flights.run`."""
        event_loop = asyncio.get_running_loop()
        overtaken = in_vain = 0
        last: _Flight | None = None
        while (flight := self._flights.get((event_loop, key))) is not None:
            if in_vain and (flight is last or in_vain > 1):
                overtaken = flight.overtaken + 1
                break
            with suppress(_HandedOverError):
                if await _outcome_in_time(flight):
                    return flight.outcome.result()
                last, in_vain = flight, in_vain + 1
        if overtaken > MAX_OVERTAKEN:
            message = (
                f"get_or_load: {MAX_OVERTAKEN} evaluations of this decision have not ended; does "
                "its loader wait for itself?"
            )
            raise RuntimeError(message)
        if overtaken:
            self._overdue()
        return await self._lead(event_loop, key, evaluate, overtaken)

    async def _lead(
        self,
        event_loop: asyncio.AbstractEventLoop,
        key: FlightKey,
        evaluate: Evaluate,
        overtaken: int,
    ) -> Brought:
        self._forget_closed_loops()
        flight = _Flight(asyncio.current_task(), event_loop.create_future(), overtaken)
        flight.outcome.add_done_callback(_retrieved)
        self._flights[event_loop, key] = flight
        outside = within.set((id(flight),))
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
                with suppress(RuntimeError):  # of a closed event loop, in which nobody waits
                    flight.outcome.set_exception(_HandedOverError())
            with suppress(ValueError):  # closed in another context
                within.reset(outside)

    def _forget_closed_loops(self) -> None:
        """Forgets the flights of closed loops: nobody joins them any more."""
        for event_loop, key in self._flights.copy():
            if event_loop.is_closed():
                self._flights.pop((event_loop, key), None)


async def _outcome_in_time(flight: _Flight) -> bool:
    """Waits for a flight; False if its outcome is not there when the patience ends.

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
            if within.get() or now > began:
                _check_circle(flight, task)
            if now - began >= PATIENCE_SECONDS:
                return False
            await asyncio.wait([flight.outcome], timeout=MOMENT_SECONDS)
            now = clock()
    finally:
        if task is not None:
            _waits.pop(task, None)
    if isinstance(error := flight.outcome.exception(), _HandedOverError):
        raise error
    return True


def _check_circle(flight: _Flight, task: Task | None) -> None:
    """Raises a RuntimeError if the leader is a task or waits for it, however many are between."""
    if task is not None and _leads_to(flight.leader, task):
        message = (
            "get_or_load: this request comes from a loader that it would have to wait for; "
            "a loader must not ask for its own key, nor two for each other's"
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


def _retrieved(flight: asyncio.Future[Brought]) -> None:
    """Looks at the exception, which the leader has raised, so that asyncio does not log it."""
    if not flight.cancelled():
        flight.exception()
