"""The misses of `get_or_load_many`, evaluated together by a batch loader.

Each miss is a load of its own: it has its own stamp, it is stored separately, and any other request
for the same decision waits for it. Only the evaluation is shared.

- The native cache begins many loads at once, in the task of the caller (`lead_many`). This task
  awaits the loader, so cancellation and context variables are those of a direct call. A decision
  that another request is loading is awaited in a task of its own.
- The other caches await each load in a task of its own, and the loaders of these tasks are answered
  together (`Gathering`).

A request that takes over an evaluation later asks the loader alone.

The key of a decision and the request that the loader gets are made from one copy of the request.
Otherwise a caller or a loader that changes a context in the meantime would get a decision stored
for another request. For the same reason each call of a loader gets copies of the contexts.
"""

import asyncio
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard, TypeVar

from sark_cache._core import arguments
from sark_cache._core.json import NotJSONError, to_plain_mapping
from sark_cache.backends._shared.loading import (
    LoadResult,
    Step,
    current_flights,
    evaluated_many,
    load_decision,
)
from sark_cache.errors import BatchLoadError
from sark_cache.types import BatchLoader, JSONObject, Loaded, Loader

if TYPE_CHECKING:
    from sark_cache._native import Load

T = TypeVar("T")

PARALLEL_CALLS: Final = 4
"""The maximum number of calls of a loader that run at the same time for one batch."""
REQUESTS_AT_ONCE: Final = 16
"""The maximum number of requests of a batch that use the server at the same time.

A command has a time limit, which also counts while it waits for a connection.
"""
SCALARS: Final = frozenset({str, int, float, bool, type(None)})

Row: TypeAlias = tuple[str, str, str, Any]
"""`(user_id, action, resource, context)`."""
Answer: TypeAlias = JSONObject | Exception
"""The answer to one request: the decision, or why there is none."""
Request: TypeAlias = Callable[[], Awaitable[JSONObject]]
"""A function that makes one request of a batch."""
Deliver: TypeAlias = Callable[[int, LoadResult | Exception], None]
"""Takes the place of a request and the result of its evaluation."""


class BatchEvaluator:
    """Evaluates many requests by a loader.

    Args:
        cache: The cache of the requests.
        loader: The loader.
        max_batch: The maximum number of requests in one call.

    Raises:
        TypeError, ValueError: An argument is wrong. The message names it.
    """

    def __init__(self, cache: object, loader: BatchLoader, max_batch: int) -> None:
        arguments.check_loader(loader, arguments.BATCH_LOADER)
        self._cache: Final = cache
        self._loader: Final = loader
        self._max_batch: Final = arguments.read_max_batch(max_batch)

    def windows(self, places: Sequence[int]) -> Iterable[Sequence[int]]:
        """Yields the places of the requests whose loads begin at the same time.

        Other requests wait five seconds for a load, so it must not begin long before its loader is
        called.
        """
        size = PARALLEL_CALLS * self._max_batch
        return (places[start : start + size] for start in range(0, len(places), size))

    async def ask(self, rows: Sequence[Row]) -> list[LoadResult | Exception]:
        """Calls the loader once. An exception is the result of each request."""
        copies = [(*row[:3], copied(row[3])) for row in rows]
        try:
            return await evaluated_many(self._cache, partial(self._loader, copies), len(copies))
        except Exception as error:  # noqa: BLE001 - given to each request
            return [error] * len(copies)

    async def ask_all(self, asked: Mapping[int, Row], deliver: Deliver) -> None:
        """Calls the loader for parts of the requests, some at the same time.

        Args:
            asked: The requests by their places.
            deliver: Called with the result of each request, once its part is evaluated.
        """

        async def one(part: Sequence[int]) -> None:
            results = await self.ask([asked[place] for place in part])
            for place, result in zip(part, results, strict=True):
                deliver(place, result)

        places, size = [*asked], self._max_batch
        parts = [places[start : start + size] for start in range(0, len(places), size)]
        if len(parts) <= 1:  # in the task of the caller, like a loader of `get_or_load`
            for part in parts:
                await one(part)
            return
        waiting = iter(parts)

        async def some() -> None:
            for part in waiting:
                await one(part)

        await all_ended([asyncio.create_task(some()) for _ in parts[:PARALLEL_CALLS]])

    def loader_of(self, row: Row) -> Loader:
        """Returns a loader that asks for one request alone."""

        async def load() -> Loaded:
            [result] = await self.ask([row])
            return loaded(result)

        return load


def own_rows(rows: Iterable[Sequence[Any]]) -> list[Row]:
    """Returns copies of requests, which nobody else can change."""
    copies: dict[int, Any] = {}
    owned: list[Row] = []
    for user_id, action, resource, *rest in rows:
        context = rest[0] if rest else None
        if context is not None:
            if id(context) not in copies:
                copies[id(context)] = copied(context)
            context = copies[id(context)]
        owned.append((user_id, action, resource, context))
    return owned


def copied(context: Any) -> Any:  # noqa: ANN401 - any object of a caller
    """Returns a copy of a context. An object that is not JSON is returned as it is."""
    if not _is_mapping(context):
        return context
    fields = context
    if _is_dict(fields) and SCALARS.issuperset(map(type, fields.values())):
        return fields.copy()
    try:
        return to_plain_mapping(fields)
    except NotJSONError:  # a decision for it is never stored
        return fields


def _is_mapping(context: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(context, Mapping)


def _is_dict(fields: Mapping[Any, Any]) -> TypeGuard[dict[Any, Any]]:
    return type(fields) is dict


def loaded(result: LoadResult | Exception) -> Loaded:
    """Returns a result as a loader would, or raises it."""
    if isinstance(result, Exception):
        raise result
    decision, ttl_seconds, tags = result
    return Loaded(decision, ttl_seconds, tags or ())


def merged(
    found: Sequence[JSONObject | None], missed: Sequence[int], answers: Sequence[Answer]
) -> list[Answer]:
    """Returns the hits of a batch, with the answers to its misses in their places."""
    every: list[Any] = list(found)
    for place, answer in zip(missed, answers, strict=True):
        every[place] = answer
    return every


def complete(answers: Iterable[Answer]) -> list[JSONObject]:
    """Returns the decisions of a batch.

    Raises:
        BatchLoadError: A request has no decision.
    """
    every = list(answers)
    errors = {at: one for at, one in enumerate(every) if isinstance(one, Exception)}
    if errors:
        decisions = [None if isinstance(one, Exception) else one for one in every]
        raise BatchLoadError(decisions, errors)
    return [one for one in every if not isinstance(one, Exception)]


async def answers_of(batch: Awaitable[list[JSONObject]]) -> list[Answer]:
    """Returns the decisions of a batch, with an exception for each request that has none."""
    try:
        return [*await batch]
    except BatchLoadError as error:
        return [
            error.errors[at] if decision is None else decision
            for at, decision in enumerate(error.decisions)
        ]


async def evaluate_alone(evaluator: BatchEvaluator, rows: Sequence[Row]) -> list[Answer]:
    """Evaluates requests. Their decisions are neither stored nor shared."""
    answers: dict[int, Answer] = {}

    def deliver(place: int, result: LoadResult | Exception) -> None:
        answers[place] = result if isinstance(result, Exception) else result[0]

    await evaluator.ask_all(dict(enumerate(rows)), deliver)
    return [answers[place] for place in range(len(rows))]


async def lead_many(
    evaluator: BatchEvaluator,
    rows: Sequence[Row],
    loads: Sequence["Load | None"],
    count_error: Callable[[], None],
    *,
    serves: bool,
) -> list[Answer]:
    """Answers requests to the native cache.

    Args:
        evaluator: Evaluates the requests.
        rows: The requests.
        loads: The load of each request. None: its decision cannot be stored.
        count_error: Counts the failure of a load without a `Load`.
        serves: If False, the cache is disabled, and the decisions replace stored ones.
    """
    answers: dict[int, Answer] = {}
    led: list[Load] = []

    def deliver(place: int, result: LoadResult | Exception) -> None:
        answers[place] = _finish(loads[place], result, count_error, serves=serves)

    outside = None
    waiting: dict[int, asyncio.Task[Answer]] = {}
    try:
        asked: dict[int, Row] = {}
        for place, load in enumerate(loads):
            if load is None or not serves:
                asked[place] = rows[place]
            elif load.idle:
                waiting[place] = asyncio.create_task(_caught(partial(load_decision, load)))
            elif load.next_step(()) is Step.LEAD:
                led.append(load)
                asked[place] = rows[place]
            else:
                answers[place] = load.answer()
        if led:
            outside = current_flights.set((led[0].flight,))
        with cancelling([*waiting.values()]):
            await evaluator.ask_all(asked, deliver)
            for place, task in waiting.items():
                answers[place] = await task
    finally:
        for load in led:
            load.leave()
        if outside is not None:
            with suppress(ValueError):  # an abandoned coroutine is closed in another context
                current_flights.reset(outside)
    return [answers[place] for place in range(len(loads))]


class Gathering:
    """The loaders of many tasks, answered together.

    A loader waits for a task that waits for the call, in the way that `task_waits` sees. So it is
    an error if it would wait for itself, as in `get_or_load`.

    The event loop serves others, too: only some tasks begin at once, and only some get their
    results at once and store them.

    Args:
        evaluator: Evaluates the requests.
    """

    def __init__(self, evaluator: BatchEvaluator) -> None:
        self._evaluator: Final = evaluator
        self._requests: Final[dict[int, asyncio.Task[Answer]]] = {}
        self._helpers: Final[list[asyncio.Task[Any]]] = []
        """The tasks that call the loader or wait for a turn."""
        self._have_begun: Final = asyncio.Event()
        """Set when every request has had its first step."""
        self._next: _Call | None = None
        """The call that has not begun. None: there is none."""

    def loader_of(self, place: int, row: Row) -> Loader:
        """Returns the loader of the request at a place."""

        async def load() -> Loaded:
            if self._next is None:
                self._next = call = _Call()
                call.task = self._help(self._run(call))
            call = self._next
            if len(call.asked) % REQUESTS_AT_ONCE == 0:
                before, call.group = call.group, []
                call.turn = self._help(self._turn(call.task, before))
            call.asked[place] = row
            call.group.append(place)
            await asyncio.wait([call.turn])
            return loaded(call.task.result()[place])

        return load

    async def run(self, requests: Mapping[int, Request]) -> list[Answer]:
        """Makes requests, each in a task, and answers their loaders.

        Args:
            requests: The requests by their places. At its first step, each calls its loader, or
                waits for the load of another request.
        """
        with cancelling(self._helpers), cancelling(self._requests.values()):
            for place, request in requests.items():
                self._requests[place] = asyncio.create_task(_caught(request))
                if len(self._requests) % REQUESTS_AT_ONCE == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
            self._have_begun.set()
            await all_ended([*self._requests.values()])
        return [task.result() for task in self._requests.values()]

    def _help(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._helpers.append(task)
        return task

    async def _run(self, call: "_Call") -> dict[int, LoadResult | Exception]:
        await self._have_begun.wait()
        self._next = None
        results: dict[int, LoadResult | Exception] = {}
        await self._evaluator.ask_all(call.asked, results.__setitem__)
        return results

    async def _turn(self, call: asyncio.Task[Any], before: Sequence[int]) -> None:
        """Waits for a call, and for the requests that have their results before."""
        await asyncio.wait([call, *(self._requests[place] for place in before)])


class _Call:
    """One call of the loader, and the requests that wait for it."""

    task: asyncio.Task[dict[int, LoadResult | Exception]]
    turn: asyncio.Task[None]
    """The task that the last requests wait for."""

    def __init__(self) -> None:
        self.asked: Final[dict[int, Row]] = {}
        self.group: list[int] = []
        """The places of the last requests."""


def _finish(
    load: "Load | None",
    result: LoadResult | Exception,
    count_error: Callable[[], None],
    *,
    serves: bool,
) -> Answer:
    if isinstance(result, Exception):
        if serves:
            count_error() if load is None else load.fail(result)
        return result
    answer: Answer = result[0]
    if load is None:
        return answer
    if not serves:
        load.supersede()
        return answer
    try:
        answer = load.finish(*result)
    except Exception as error:  # noqa: BLE001 - as if the loader had raised it
        load.fail(error)
        return error
    return answer


async def _caught(request: Request) -> Answer:
    try:
        return await request()
    except Exception as error:  # noqa: BLE001 - one request of many
        return error


async def some_at_once(ask: Callable[[Row], Awaitable[T]], rows: Iterable[Row]) -> list[T]:
    """Returns the results of a function that asks the server, for each request in their order."""
    turns = asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def in_turn(row: Row) -> T:
        async with turns:
            return await ask(row)

    tasks = [asyncio.create_task(in_turn(row)) for row in rows]
    await all_ended(tasks)
    return [task.result() for task in tasks]


async def all_ended(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Waits until all tasks have ended, in a way that `task_waits` sees.

    If the caller is cancelled, they are cancelled, too.

    Raises:
        BaseException: What ended the first task that failed.
    """
    with cancelling(tasks):
        if tasks:
            await asyncio.wait(tasks)
    for task in tasks:
        task.result()


@contextmanager
def cancelling(tasks: Collection[asyncio.Task[Any]]) -> Generator[None]:
    """Cancels the tasks that run at the end of the block. Does not wait: it may be abandoned."""
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
