"""The misses of `get_or_load_many`, evaluated together by a batch loader.

Each miss is a load of its own: it has its own stamp, it is stored separately, and any other request
for the same decision waits for it. Only the evaluation is shared.

- The native cache begins all loads at once, in the task of the caller (`lead_many`). This task
  awaits the loader, so cancellation and context variables are those of a direct call. A decision
  that another request is loading is awaited in a task of its own.
- The other caches await each load in a task of its own, and the loaders of these tasks are answered
  together (`Gathering`).

A request that takes over an evaluation later asks the loader alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sark_cache._core import arguments
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

PARALLEL_CALLS: Final = 4
"""The maximum number of calls of a loader that run at the same time for one batch."""

Row: TypeAlias = Sequence[Any]
"""`(user_id, action, resource, context)`."""
Answer: TypeAlias = JSONObject | Exception
"""The answer to one request: the decision, or why there is none."""


class Evaluation:
    """The evaluation of many requests by a loader.

    Args:
        cache: The cache of the requests.
        loader: The loader.
        rows: The requests.
        max_batch: The maximum number of requests in one call.

    Raises:
        TypeError, ValueError: An argument is wrong. The message names it.
    """

    def __init__(self, cache: object, loader: BatchLoader, rows: list[Any], max_batch: int) -> None:
        arguments.check_loader(loader)
        self._cache: Final = cache
        self._loader: Final = loader
        self.rows: Final = rows
        self._max_batch: Final = arguments.read_max_batch(max_batch)

    def of(self, places: Sequence[int]) -> "Evaluation":
        """Returns the evaluation of the requests at some places."""
        rows = [self.rows[place] for place in places]
        return Evaluation(self._cache, self._loader, rows, self._max_batch)

    async def ask(self, places: Sequence[int]) -> list[LoadResult | Exception]:
        """Calls the loader once, for the requests at some places. An error is their result."""
        rows = [_asked(self.rows[place]) for place in places]
        try:
            return await evaluated_many(self._cache, partial(self._loader, rows), len(rows))
        except Exception as error:  # noqa: BLE001 - given to each request
            return [error] * len(rows)

    async def ask_all(
        self, places: Sequence[int], answer: Callable[[int, LoadResult | Exception], None]
    ) -> None:
        """Calls the loader for parts of the requests, some at the same time.

        Args:
            places: The places of the requests.
            answer: Called with each place and its result, once its part is evaluated.
        """

        async def one(part: Sequence[int]) -> None:
            for place, result in zip(part, await self.ask(part), strict=True):
                answer(place, result)

        parts = [
            places[start : start + self._max_batch]
            for start in range(0, len(places), self._max_batch)
        ]
        if len(parts) <= 1:  # in the task of the caller, like a loader of `get_or_load`
            for part in parts:
                await one(part)
            return
        waiting = iter(parts)

        async def some() -> None:
            for part in waiting:
                await one(part)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(PARALLEL_CALLS, len(parts))):
                group.create_task(some())

    def loader_at(self, place: int) -> Loader:
        """Returns a loader that asks for the request at one place alone."""

        async def load() -> Loaded:
            [result] = await self.ask([place])
            if isinstance(result, Exception):
                raise result
            decision, ttl_seconds, tags = result
            return Loaded(decision, ttl_seconds, tags or ())

        return load


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


async def all_of(parts: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Awaits several parts of a batch at the same time.

    Raises:
        Exception: The first exception of a part. The other parts are then cancelled.
    """
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def evaluate_alone(evaluation: Evaluation) -> list[Answer]:
    """Evaluates all requests. Their decisions are neither stored nor shared."""
    answers: dict[int, Answer] = {}

    def answer(place: int, result: LoadResult | Exception) -> None:
        answers[place] = result if isinstance(result, Exception) else result[0]

    await evaluation.ask_all(range(len(evaluation.rows)), answer)
    return [answers[place] for place in range(len(evaluation.rows))]


async def lead_many(
    evaluation: Evaluation,
    loads: Sequence["Load | None"],
    count: Callable[[int, int], None],
    *,
    serves: bool,
) -> list[Answer]:
    """Answers requests to the native cache.

    Args:
        evaluation: The requests and their loader.
        loads: The load of each request. None: its decision cannot be stored.
        count: Counts loads without a `Load`: their number, and the number of failures.
        serves: If False, the cache is disabled, and the decisions replace stored ones.
    """
    answers: dict[int, Answer] = {}
    led: list[Load] = []

    def answer(place: int, result: LoadResult | Exception) -> None:
        answers[place] = _finish(loads[place], result, count, serves=serves)

    outside = None
    tasks: dict[int, asyncio.Task[Answer]] = {}
    try:
        asked: list[int] = []
        for place, load in enumerate(loads):
            if load is None or not serves:
                asked.append(place)
            elif load.idle:
                tasks[place] = asyncio.create_task(_caught(load_decision(load)))
            elif load.next_step(()) is Step.LEAD:
                led.append(load)
                asked.append(place)
            else:
                answers[place] = load.answer()
        if led:
            outside = current_flights.set((led[0].flight,))
        await evaluation.ask_all(asked, answer)
        for place, task in tasks.items():
            answers[place] = await task
    finally:
        for load in led:
            load.leave()
        if outside is not None:
            with suppress(ValueError):  # an abandoned coroutine is closed in another context
                current_flights.reset(outside)
        await _end([*tasks.values()])
    return [answers[place] for place in range(len(loads))]


class Gathering:
    """The loaders of many tasks, answered together.

    Args:
        evaluation: The requests and their loader.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation: Final = evaluation
        self._asked: dict[int, asyncio.Future[Loaded]] = {}
        self._arrived = asyncio.Event()

    def loader_at(self, place: int) -> Loader:
        """Returns the loader of the request at a place."""

        def load() -> Awaitable[Loaded]:
            asked = asyncio.get_running_loop().create_future()
            self._asked[place] = asked
            self._arrived.set()
            return asked

        return load

    async def run(self, requests: Iterable[Coroutine[Any, Any, JSONObject]]) -> list[Answer]:
        """Awaits requests, each in a task, and answers their loaders.

        Args:
            requests: The requests. At its first step, each calls its loader, or waits for the load
                of another request.
        """
        tasks = [asyncio.create_task(_caught(one)) for one in requests]
        ended = asyncio.gather(*tasks)
        ended.add_done_callback(lambda _: self._arrived.set())
        try:
            await asyncio.sleep(0)  # the first step of each
            while not ended.done():
                self._arrived.clear()
                asked, self._asked = self._asked, {}
                if asked:
                    await self._evaluation.ask_all(list(asked), partial(_deliver, asked))
                    continue
                await self._arrived.wait()
            return await ended
        finally:
            await _end(tasks)


def _deliver(
    asked: dict[int, asyncio.Future[Loaded]], place: int, result: LoadResult | Exception
) -> None:
    future = asked[place]
    if future.done():  # its request was cancelled
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        decision, ttl_seconds, tags = result
        future.set_result(Loaded(decision, ttl_seconds, tags or ()))


def _finish(
    load: "Load | None",
    result: LoadResult | Exception,
    count: Callable[[int, int], None],
    *,
    serves: bool,
) -> Answer:
    failed = isinstance(result, Exception)
    answer: Answer = result if isinstance(result, Exception) else result[0]
    if load is None:
        if serves:
            count(1, int(failed))
    elif not serves:
        if not failed:
            load.supersede()
    elif isinstance(result, Exception):
        load.fail(result)
    else:
        try:
            answer = load.finish(*result)
        except Exception as error:  # noqa: BLE001 - as if the loader had raised it
            load.fail(error)
            answer = error
    return answer


async def _caught(request: Coroutine[Any, Any, JSONObject]) -> Answer:
    try:
        return await request
    except Exception as error:  # noqa: BLE001 - one request of many
        return error


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancels the tasks that have not ended, and waits for their end."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)


def _asked(row: Row) -> tuple[str, str, str, Any]:
    user_id, action, resource, *context = row
    return user_id, action, resource, context[0] if context else None
