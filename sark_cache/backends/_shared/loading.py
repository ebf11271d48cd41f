"""The steps of a `get_or_load` request after a miss: it leads the load, or waits for the leader.

The leader awaits its loader in its own task and context, so cancellation, context variables and
tracebacks are those of a direct call. Rust code decides which request leads, and gives the result
to the waiters.

# Loaders that request other decisions

A loader may request other decisions from any cache, in its own task or in other tasks. If a loader
would wait for itself in that way, the request that closes the circle raises a RuntimeError.

A load waits for another load while the task of its leader waits for that load, directly or through
other tasks. Only the present waits of tasks count. So a task that a loader started, and that no
task awaits, is in no circle. A task that outlived its loader is in the circle of the task that
awaits it now. The search for a circle runs when a request from inside a loader starts to wait, and
again every half second, because a loader may await a task long after it created it.

Some waits are invisible: those for threads, for executors, through `asyncio.shield`, and for tasks
of other event loops. So a request waits at most five seconds for another request's load. Then it
takes over: it evaluates itself, and the result of the older load is not stored any more. The metric
`overdue` counts such requests.
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from sark_cache._core.arguments import BATCH_LOADER, LOADER
from sark_cache._core.json import type_name
from sark_cache._core.observers import observers, observers_for
from sark_cache.types import JSONObject, Loaded, Loader

if TYPE_CHECKING:
    from sark_cache._native import Load

LoadResult: TypeAlias = tuple[Any, float | None, Any]
"""The result of a loader: the value, its time to live and its tags."""

current_flights: ContextVar[tuple[int, ...]] = ContextVar("sark_cache_current_flights", default=())
"""The innermost load whose loader runs this code or created this task; empty outside of loaders.

It shows only that a circle is possible: a task keeps the value even if no task awaits it.
"""


class Step(Enum):
    """The next step of a request that missed."""

    LEAD = auto()
    """Run the loader, store its decision, and give it to all waiters."""
    ANSWERED = auto()
    """Return the decision of another request's load."""
    ALONE = auto()
    """Run the loader for this request only: the decision of the load cannot be copied."""
    OFF = auto()
    """Run the loader and store nothing: the cache was disabled or closed."""


def load_decision(load: "Load") -> Coroutine[Any, Any, JSONObject]:
    """Answers a request to a policy cache."""
    return _answer(load, _read_decision)


def load_value(load: "Load") -> Coroutine[Any, Any, Any]:
    """Answers a request to the general cache."""
    return _answer(load, _read_value)


def _no_waiters() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class LoaderRun:
    """An evaluation without a `Load`, as observers see it."""

    cache: object
    loader: Callable[[], Awaitable[Any]]
    ahead: bool = False
    waiting: Callable[[], int] = _no_waiters
    """Returns the number of other requests that wait for the evaluation."""


async def evaluate(
    loader: Loader,
    failed: Callable[[], None] | None = None,
    cache: object = None,
    superseding: Callable[[], None] | None = None,
) -> JSONObject:
    """Runs a loader for one request. The decision is neither stored nor shared.

    Args:
        loader: The loader given to `get_or_load`.
        failed: Called if the loader raises.
        cache: The cache of the request.
        superseding: Called if the loader returns a decision, so that it replaces the stored one.
    """
    try:
        decision: JSONObject = (await evaluated(LoaderRun(cache, loader)))[0]
    except Exception:
        if failed is not None:
            failed()
        raise
    if superseding is not None:
        superseding()
    return decision


async def evaluated(evaluation: LoaderRun) -> LoadResult:
    """Runs a loader. Returns its decision, with the time to live and tags of a `Loaded`.

    Raises:
        TypeError: The loader returns no decision.
    """
    return _read_decision(await _start(evaluation.loader, evaluation, _read_decision))


async def evaluated_ahead(evaluation: LoaderRun) -> LoadResult | None:
    """Runs a revalidation callback. Returns its decision; None: the stored one is still valid.

    Raises:
        TypeError: The callback returns neither a decision nor None.
    """
    return _read_renewal(await _start(evaluation.loader, evaluation, _read_renewal))


async def evaluated_many(
    cache: object, loader: Callable[[], Awaitable[Any]], count: int
) -> list[LoadResult | Exception]:
    """Runs a loader for many requests. Returns the result of each, or why it has none.

    Args:
        cache: The cache of the requests.
        loader: The loader. Its result has a decision, a `Loaded` or an exception for each request.
        count: The number of requests.

    Raises:
        TypeError: The loader does not return that many.
    """

    async def ask() -> object:
        if _replacements:
            return [_replacements[-1]] * count
        return await _called(loader, BATCH_LOADER)

    return _read_many(count, await _start(ask, LoaderRun(cache, ask), partial(_read_many, count)))


async def refresh(load: "Load") -> None:
    """Leads a load in the background. Raises the exception of its loader."""
    current_flights.set(())  # no loader waits for this task
    try:
        result = _read_renewal(await _start(load.loader, load, _read_renewal))
        if result is None:
            load.keep()
        else:
            load.finish(*result)
    except Exception as error:
        load.fail(error)
        raise
    finally:
        load.leave()


async def _answer(load: "Load", read: Callable[[Any], LoadResult]) -> Any:  # noqa: ANN401
    try:
        while True:
            step = load.next_step(current_flights.get())
            if step is Step.LEAD:
                return await _lead(load, read)
            if step is Step.ANSWERED:
                return load.answer()
            if step is Step.ALONE:
                return await _run_alone(load, read)
            if step is Step.OFF:
                decision = read(await _start(load.loader, load, read))[0]
                load.supersede()
                return decision
            await step
    finally:
        # At any end, a leader hands over, and a waiter affects no other request. If the stack has
        # no room for this call, deleting the load does it, although a traceback holds this frame.
        try:
            load.leave()
        finally:
            del load


async def _lead(load: "Load", read: Callable[[Any], LoadResult]) -> Any:  # noqa: ANN401
    outside = current_flights.set((load.flight,))
    try:
        return load.finish(*read(await _start(load.loader, load, read)))
    except Exception as error:
        load.fail(error)
        raise
    finally:
        del load
        # An abandoned coroutine is closed in another context, where there is nothing to reset.
        with suppress(ValueError):
            current_flights.reset(outside)


async def _run_alone(load: "Load", read: Callable[[Any], LoadResult]) -> Any:  # noqa: ANN401
    try:
        return read(await _start(load.loader, load, read))[0]
    except Exception as error:
        load.fail(error)
        raise


_replacements: list[Loaded] = []
"""The decisions that replace the results of loaders. The last one applies."""


@contextmanager
def replacing(decision: Loaded) -> Generator[None]:
    """Replaces the result of every evaluation in this process; for tests of services."""
    _replacements.append(decision)
    try:
        yield
    finally:
        _replacements.remove(decision)


async def _replacement() -> Loaded:
    return _replacements[-1]


def _start(
    loader: Callable[[], Awaitable[Any]],
    evaluation: "Load | LoaderRun | None",
    read: Callable[[Any], object],
) -> Awaitable[Any]:
    if observers and evaluation is not None:
        return _observed(evaluation, read)
    if _replacements and read is _read_decision:
        return _replacement()
    return _called(loader, LOADER)


def _called(loader: Callable[[], Awaitable[Any]], takes: str) -> Awaitable[Any]:
    loading = loader()
    if not isawaitable(loading):
        message = (
            f"loader must be {takes}: it returned {type(loading).__qualname__}, which cannot be "
            "awaited"
        )
        raise TypeError(message)
    return loading


async def _observed(evaluation: "Load | LoaderRun", read: Callable[[Any], object]) -> Any:  # noqa: ANN401
    """Evaluates within the context managers of the observers.

    The result is checked within them, so observers see the TypeError of a wrong result.
    """
    try:
        with ExitStack() as stack:
            for observer in observers_for(evaluation.cache):
                stack.enter_context(observer(evaluation))
            loaded = await _start(evaluation.loader, None, read)
            read(loaded)
            return loaded
    finally:
        del evaluation  # as in `_answer`


def _read_decision(loaded: object) -> LoadResult:
    result: LoadResult = (loaded, None, None)
    if isinstance(loaded, Loaded):
        result = (loaded.decision, loaded.ttl_seconds, loaded.tags)
    if not isinstance(result[0], Mapping):
        message = (
            "loader must return a decision, which is a dict, or a Loaded with one, "
            f"not {type(result[0]).__qualname__}"
        )
        raise TypeError(message)
    return result


def _read_many(count: int, loaded: object) -> list[LoadResult | Exception]:
    given = type_name(loaded)
    results = cast("list[object]", [*loaded]) if isinstance(loaded, list | tuple) else None
    if results is None or len(results) != count:
        if results is not None:
            given = f"a {given} of {len(results):,}"
        message = (
            "loader must return a list with a decision, a Loaded or an exception for each of the "
            f"{count:,} requests, in their order, not {given}"
        )
        raise TypeError(message)
    return [_read_one(one) for one in results]


def _read_one(loaded: object) -> LoadResult | Exception:
    if isinstance(loaded, Exception):
        return loaded
    try:
        return _read_decision(loaded)
    except TypeError as error:
        return error


def _read_renewal(loaded: object) -> LoadResult | None:
    """Returns the result of a revalidation callback. None: the stored decision is still valid."""
    return None if loaded is None else _read_decision(loaded)


def _read_value(loaded: object) -> LoadResult:
    return loaded, None, None
