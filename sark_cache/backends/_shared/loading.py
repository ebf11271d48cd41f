"""What a request of `get_or_load` does after a miss: leads the load, or waits for its leader.

The leader awaits its loader right here, in its own task and context: cancellation, context
variables and tracebacks are those of a direct call. Which request leads, and what the others get,
is decided in Rust.

# Loaders that ask for other decisions

A loader may ask any cache for other decisions, in its own task and in others. If it would have to
wait for itself in that way, the request that closes the circle raises a RuntimeError.

A load waits for another one while its leader's task waits for it, or waits for a task that does.
Tasks are seen at what they wait for at that moment, so a task that a loader started and that
nobody waits for is in no circle, and a task that outlived its loader is in the circle of the task
that awaits it now. The search is made when a request that comes from inside a loader is about to
wait, and again every half second, since a loader may await a task long after it made it.

Some waits cannot be seen: those of threads, of executors, of `asyncio.shield`, and of tasks of
other event loops. For their sake a request waits for another's load for five seconds at most. Then
it evaluates for itself, in the place of the load that it waited for: what that one brings is not
stored any more. The metric `overdue` counts it.
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, auto
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeAlias

from sark_cache._core.observers import observers, observers_for
from sark_cache.types import JSONObject, Loaded, Loader

if TYPE_CHECKING:
    from sark_cache._native import Load

Brought: TypeAlias = tuple[Any, float | None, Any]
"""What a loader brought: the value, its time to live and its tags."""

within: ContextVar[tuple[int, ...]] = ContextVar("sark_cache_within", default=())
"""The innermost load whose loader this is, or made this task; empty outside of loaders.

It says only that a circle is possible: a task keeps it, though nobody waits for that task.
"""


class Step(Enum):
    """The next step of a request that missed."""

    LEAD = auto()
    """Run the loader, store its decision, and give it to all requests that wait."""
    ANSWERED = auto()
    """Return the decision of another request's load."""
    ALONE = auto()
    """Run the loader for this request only: the decision of the load cannot be copied."""
    OFF = auto()
    """Run the loader and store nothing: the cache was disabled or closed."""


def load_decision(load: "Load") -> Coroutine[Any, Any, JSONObject]:
    """Answers a request to a policy cache."""
    return _answer(load, _decision)


def load_value(load: "Load") -> Coroutine[Any, Any, Any]:
    """Answers a request to the general cache."""
    return _answer(load, _value)


def _nobody() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation that no `Load` is about, as those are told who observe it."""

    cache: object
    loader: Callable[[], Awaitable[Any]]
    ahead: bool = False
    waiting: Callable[[], int] = _nobody
    """How many other requests wait for it."""


async def evaluate(
    loader: Loader,
    failed: Callable[[], None] | None = None,
    cache: object = None,
    superseding: Callable[[], None] | None = None,
) -> JSONObject:
    """Runs a loader for one request alone: where nothing is stored, nothing is shared.

    Args:
        loader: As given to `get_or_load`.
        failed: Called if the loader raises.
        cache: The cache that was asked.
        superseding: Called if the loader brings a decision, which ends the stored one.
    """
    try:
        decision: JSONObject = (await evaluated(Evaluation(cache, loader)))[0]
    except Exception:
        if failed is not None:
            failed()
        raise
    if superseding is not None:
        superseding()
    return decision


async def evaluated(evaluation: Evaluation) -> Brought:
    """Runs a loader: the decision that it brings, its time to live and its tags, if it says so.

    Raises:
        TypeError: It brings no decision.
    """
    return _decision(await _begun(evaluation.loader, evaluation, _decision))


async def evaluated_ahead(evaluation: Evaluation) -> Brought | None:
    """Runs a revalidation callback; None: it brings nothing new.

    Raises:
        TypeError: It brings no decision.
    """
    return _renewal(await _begun(evaluation.loader, evaluation, _renewal))


async def refresh(load: "Load") -> None:
    """Leads a load in the background, for nobody; raises what it raises."""
    within.set(())  # of this task, which no loader waits for
    try:
        brought = _renewal(await _begun(load.loader, load, _renewal))
        if brought is None:
            load.keep()
        else:
            load.finish(*brought)
    except Exception as error:
        load.fail(error)
        raise
    finally:
        load.leave()


async def _answer(load: "Load", brought: Callable[[Any], Brought]) -> Any:  # noqa: ANN401
    try:
        while True:
            step = load.next_step(within.get())
            if step is Step.LEAD:
                return await _lead(load, brought)
            if step is Step.ANSWERED:
                return load.answer()
            if step is Step.ALONE:
                return await _alone(load, brought)
            if step is Step.OFF:
                decision = brought(await _begun(load.loader, load, brought))[0]
                load.supersede()
                return decision
            await step
    finally:
        # Whatever ended this: one who led hands over, one who waited disturbs nobody. Where no
        # stack is left for that call, letting go does it, though a traceback holds this frame.
        try:
            load.leave()
        finally:
            del load


async def _lead(load: "Load", brought: Callable[[Any], Brought]) -> Any:  # noqa: ANN401
    outside = within.set((load.flight,))
    try:
        return load.finish(*brought(await _begun(load.loader, load, brought)))
    except Exception as error:
        load.fail(error)
        raise
    finally:
        del load
        # An abandoned coroutine is closed in another context, which has nothing to take back.
        with suppress(ValueError):
            within.reset(outside)


async def _alone(load: "Load", brought: Callable[[Any], Brought]) -> Any:  # noqa: ANN401
    try:
        return brought(await _begun(load.loader, load, brought))[0]
    except Exception as error:
        load.fail(error)
        raise


_replacements: list[Loaded] = []
"""What evaluations bring in place of their loaders; the last one counts."""


@contextmanager
def replacing(decision: Loaded) -> Generator[None]:
    """Replaces every evaluation of a decision in this process: for tests of services."""
    _replacements.append(decision)
    try:
        yield
    finally:
        _replacements.remove(decision)


async def _replacement() -> Loaded:
    return _replacements[-1]


def _begun(
    loader: Callable[[], Awaitable[Any]],
    evaluation: "Load | Evaluation | None",
    brought: Callable[[Any], Brought | None],
) -> Awaitable[Any]:
    if observers and evaluation is not None:
        return _observed(evaluation, brought)
    if _replacements and brought is _decision:
        return _replacement()
    loading = loader()
    if not isawaitable(loading):
        message = (
            f"loader must be an async function without arguments: it returned "
            f"{type(loading).__qualname__}, which cannot be awaited"
        )
        raise TypeError(message)
    return loading


async def _observed(
    evaluation: "Load | Evaluation", brought: Callable[[Any], Brought | None]
) -> Any:  # noqa: ANN401
    """Evaluates in the sight of who observes it, to whom what brings no decision is an error."""
    try:
        with ExitStack() as sight:
            for observer in observers_for(evaluation.cache):
                sight.enter_context(observer(evaluation))
            loaded = await _begun(evaluation.loader, None, brought)
            brought(loaded)
            return loaded
    finally:
        del evaluation  # as in `_answer`


def _decision(loaded: object) -> Brought:
    brought: Brought = (loaded, None, None)
    if isinstance(loaded, Loaded):
        brought = (loaded.decision, loaded.ttl_seconds, loaded.tags)
    if not isinstance(brought[0], Mapping):
        message = (
            "loader must bring a decision, a dict, or a Loaded with one, "
            f"not {type(brought[0]).__qualname__}"
        )
        raise TypeError(message)
    return brought


def _renewal(loaded: object) -> Brought | None:
    """Reads what a revalidation callback brings."""
    return None if loaded is None else _decision(loaded)


def _value(loaded: object) -> Brought:
    return loaded, None, None
