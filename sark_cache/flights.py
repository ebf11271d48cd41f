"""One evaluation for all who ask for the same decision at the same time, in this process.

The compiled module's where it is there: across threads and event loops, with a lead that is handed
over when its task is cancelled. Else a plain asyncio one, for the tasks of each event loop. Nothing
is stored here: what an evaluation brings goes to those who wait for it, and is forgotten.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from typing import NamedTuple, Protocol, TypeAlias, cast

from sark_cache.compiled import AsyncCache, is_rust_cache_available
from sark_cache.loading import within

FlightKey: TypeAlias = str
"""Says what is evaluated, and since when."""

Brought: TypeAlias = str | None
"""What an evaluation brings: JSON as text, which everybody reads for themselves, or nothing."""


Evaluate: TypeAlias = Callable[[], Awaitable[Brought]]


class Flights(Protocol):
    """Evaluations under way."""

    async def run(self, key: FlightKey, evaluate: Evaluate) -> Brought:
        """What `evaluate()` brings, or what another's does that is under way.

        What it raises, everybody is raised. One who leads and is cancelled hands over to another.

        Raises:
            RuntimeError: An evaluation asks for itself.
        """
        ...


def new_flights() -> Flights:
    """Flights as good as this installation has them."""
    return NativeFlights() if is_rust_cache_available() else AsyncioFlights()


class NativeFlights:
    """Those of the compiled module's general cache, told to store nothing."""

    def __init__(self) -> None:
        self._cache = AsyncCache(max_size=1)

    async def run(self, key: FlightKey, evaluate: Evaluate) -> Brought:
        """As `Flights.run`."""
        return cast("Brought", await self._cache.get_or_load(key, evaluate, 0))


class _HandedOverError(Exception):
    """The one who led gave up; whoever waits may lead."""


class _Flight(NamedTuple):
    number: int
    outcome: asyncio.Future[Brought]


class AsyncioFlights:
    """Flights in Python alone, each in one event loop."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._flights: dict[tuple[asyncio.AbstractEventLoop, FlightKey], _Flight] = {}
        self._waits: dict[int, Counter[int]] = {}
        """For each flight, those that tasks which are part of it wait for."""

    async def run(self, key: FlightKey, evaluate: Evaluate) -> Brought:
        """As `Flights.run`."""
        event_loop = asyncio.get_running_loop()
        while (flight := self._flights.get((event_loop, key))) is not None:
            with suppress(_HandedOverError), self._waiting(flight.number, within.get()):
                # Shielded: one who gives up must not end it for the others.
                return await asyncio.shield(flight.outcome)
        return await self._lead(event_loop, key, evaluate)

    async def _lead(
        self, event_loop: asyncio.AbstractEventLoop, key: FlightKey, evaluate: Evaluate
    ) -> Brought:
        flight = _Flight(next(self._numbers), event_loop.create_future())
        flight.outcome.add_done_callback(_retrieved)
        self._flights[event_loop, key] = flight
        outside = within.set((*within.get(), flight.number))
        try:
            value = await evaluate()
        except Exception as error:
            flight.outcome.set_exception(error)
            raise
        else:
            flight.outcome.set_result(value)
            return value
        finally:
            del self._flights[event_loop, key]
            if not flight.outcome.done():
                flight.outcome.set_exception(_HandedOverError())
            with suppress(ValueError):  # closed in another context
                within.reset(outside)

    @contextmanager
    def _waiting(self, flight: int, chain: tuple[int, ...]) -> Generator[None]:
        """While a task that is part of the flights in `chain` waits for another.

        Raises:
            RuntimeError: That one waits for one of them, or is one of them.
        """
        if self._leads_to(flight, frozenset(chain)):
            message = (
                "get_or_load: this request comes from a loader that it would have to wait for; "
                "a loader must not ask for its own key, nor two for each other's"
            )
            raise RuntimeError(message)
        for part in chain:
            self._waits.setdefault(part, Counter())[flight] += 1
        try:
            yield
        finally:
            for part in chain:
                self._waits[part] -= Counter([flight])
                if not self._waits[part]:
                    del self._waits[part]

    def _leads_to(self, flight: int, wanted: frozenset[int]) -> bool:
        """Whether it is one of those wanted, or waits for one, however many are in between."""
        seen, ahead = set[int](), [flight]
        while ahead:
            one = ahead.pop()
            if one in wanted:
                return True
            if one not in seen:
                seen.add(one)
                ahead += self._waits.get(one, ())
        return False


def _retrieved(flight: asyncio.Future[Brought]) -> None:
    """Looks at the exception, which the one who led has raised, so that asyncio does not log it."""
    if not flight.cancelled():
        flight.exception()
