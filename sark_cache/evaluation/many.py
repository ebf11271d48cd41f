"""Evaluators of many requests: that of an engine, or single evaluations at the same time."""

import asyncio
from collections.abc import Callable, Iterator
from inspect import isawaitable
from time import perf_counter
from typing import Any, Final, TypeAlias, cast

from sark_cache._core import arguments
from sark_cache.evaluation.calling import is_async
from sark_cache.evaluation.evaluators import AsyncEvaluator, RunInThread, Timed
from sark_cache.types import BatchLoader

ManyEvaluator: TypeAlias = Callable[[list[Any]], Any]
"""Asks the policy engine about many requests: `(requests) -> decisions`, async or not."""

AT_ONCE: Final = 16
"""The number of single evaluations that one call runs at the same time."""
HINT: Final = "a function of a list of requests (user_id, action, resource, context), or None"


def read_many(evaluate_many: Any, run_in_thread: RunInThread) -> BatchLoader:  # noqa: ANN401
    """Returns an async function that calls an evaluator of many requests.

    Args:
        evaluate_many: The evaluator, async or not.
        run_in_thread: Runs an evaluator that is not async.

    Raises:
        TypeError: `evaluate_many` is not a function.
    """
    if not callable(evaluate_many):
        arguments.refuse("evaluate_many", HINT, evaluate_many)
    if is_async(evaluate_many):
        return cast("BatchLoader", evaluate_many)

    async def evaluate(requests: list[Any]) -> Any:  # noqa: ANN401 - checked by the cache
        found = await run_in_thread(evaluate_many, requests)
        return await found if isawaitable(found) else found

    return evaluate


def each_alone(evaluate: AsyncEvaluator) -> BatchLoader:
    """Returns an evaluator of many requests that evaluates each alone, `AT_ONCE` at a time.

    It returns the exception of an evaluation in place of its decision.
    """

    async def evaluate_all(requests: list[Any]) -> list[Any]:
        found: list[Any] = [None] * len(requests)
        left: Iterator[tuple[int, Any]] = iter(enumerate(requests))

        async def work() -> None:
            for at, request in left:  # shared: each worker takes the next request
                try:
                    found[at] = await evaluate(*request)
                except Exception as error:  # noqa: BLE001 - the cache gets it
                    found[at] = error

        async with asyncio.TaskGroup() as workers:
            for _ in range(min(AT_ONCE, len(requests))):
                workers.create_task(work())
        return found

    return evaluate_all


def timed_many(evaluate: BatchLoader, cache: Timed) -> BatchLoader:
    """Returns an evaluator that also records the duration of each call in the cache."""

    async def evaluated(requests: list[Any]) -> list[Any] | tuple[Any, ...]:
        begun = perf_counter()
        found = await evaluate(requests)
        cache.record_opa_latency((perf_counter() - begun) * 1e3)
        return found

    return evaluated
