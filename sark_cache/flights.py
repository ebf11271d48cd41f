"""One evaluation for all who ask for the same decision at the same time, in this process.

The compiled module's where it is there: across threads and event loops, with a lead that is handed
over when its task is cancelled. Else a plain asyncio one, for the tasks of each event loop. Nothing
is stored here: what an evaluation brings goes to those who wait for it, and is forgotten.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol, TypeAlias, cast

from sark_cache.compiled import AsyncCache, is_rust_cache_available
from sark_cache.loading import within

FlightKey: TypeAlias = tuple[Any, ...]
"""A tuple of JSON values that says what is evaluated, and since when."""

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


class AsyncioFlights:
    """Flights in Python alone, each in one event loop."""

    def __init__(self) -> None:
        self._flights: dict[
            tuple[asyncio.AbstractEventLoop, FlightKey], asyncio.Future[Brought]
        ] = {}

    async def run(self, key: FlightKey, evaluate: Evaluate) -> Brought:
        """As `Flights.run`."""
        event_loop = asyncio.get_running_loop()
        while (flight := self._flights.get((event_loop, key))) is not None:
            if id(flight) in within.get():
                message = (
                    "get_or_load: this request comes from a loader that it would have to wait "
                    "for; a loader must not ask for its own key, nor two for each other's"
                )
                raise RuntimeError(message)
            with suppress(_HandedOverError):
                # Shielded: one who gives up must not end it for the others.
                return await asyncio.shield(flight)
        return await self._lead(event_loop, key, evaluate)

    async def _lead(
        self,
        event_loop: asyncio.AbstractEventLoop,
        key: FlightKey,
        evaluate: Evaluate,
    ) -> Brought:
        flight: asyncio.Future[Brought] = event_loop.create_future()
        flight.add_done_callback(_retrieved)
        self._flights[event_loop, key] = flight
        outside = within.set((*within.get(), id(flight)))
        try:
            value = await evaluate()
        except Exception as error:
            flight.set_exception(error)
            raise
        else:
            flight.set_result(value)
            return value
        finally:
            del self._flights[event_loop, key]
            if not flight.done():
                flight.set_exception(_HandedOverError())
            with suppress(ValueError):  # closed in another context
                within.reset(outside)


def _retrieved(flight: asyncio.Future[Brought]) -> None:
    """Looks at the exception, which the one who led has raised, so that asyncio does not log it."""
    if not flight.cancelled():
        flight.exception()
