"""Evaluators of many requests: that of an engine, or single evaluations at the same time."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from inspect import getmro, isawaitable, isclass, signature
from time import perf_counter
from typing import Any, Final, TypeAlias, cast, get_origin

from sark_cache._core import arguments
from sark_cache._core.json import type_name
from sark_cache.evaluation.calling import is_async
from sark_cache.evaluation.evaluators import AsyncEvaluator, RunInThread, Timed
from sark_cache.types import BatchLoader

ManyEvaluator: TypeAlias = Callable[[list[Any]], Any]
"""Asks the policy engine about many requests: `(requests) -> decisions`, async or not."""

TOGETHER: Final = 4
"""The number of requests in one call of `each_alone`. A cache runs four calls at the same time."""
HINT: Final = "a function of a list of requests (user_id, action, resource, context), or None"


def read_many(evaluate_many: Any, run_in_thread: RunInThread) -> BatchLoader:  # noqa: ANN401
    """Returns an async function that calls an evaluator of many requests.

    Args:
        evaluate_many: The evaluator, async or not.
        run_in_thread: Runs an evaluator that is not async.

    Raises:
        TypeError: `evaluate_many` is not a function of one argument.
    """
    if not callable(evaluate_many) or get_origin(evaluate_many) is not None:
        arguments.refuse("evaluate_many", HINT, evaluate_many)
    name = getattr(evaluate_many, "__qualname__", None) or type_name(evaluate_many)
    if isclass(evaluate_many):
        message = f"evaluate_many must be {HINT}, not the class {name}"
        raise TypeError(message)
    with suppress(ValueError):  # a function in C without a signature: only its call can fail
        taken = signature(evaluate_many)
        try:
            taken.bind([])
        except TypeError:
            message = f"evaluate_many must be {HINT}, but {name} takes {taken}"
            raise TypeError(message) from None
    if is_async(evaluate_many):
        return cast("BatchLoader", evaluate_many)

    async def evaluate(requests: list[Any]) -> Any:  # noqa: ANN401 - checked by the cache
        found = await run_in_thread(evaluate_many, requests)
        return await found if isawaitable(found) else found

    return evaluate


def own_evaluate_many(evaluator: object) -> Any:  # noqa: ANN401 - any method
    """Returns the method `evaluate_many` of an evaluator. None: it has none that can be used.

    If a class overrides the evaluation of one request and inherits that of many, then those could
    decide differently. So the method is used only if no class between redefines the other one.
    """
    single = "__call__" if callable(evaluator) else "evaluate"
    if single in getattr(evaluator, "__dict__", ()):
        return None
    for kind in getmro(type(evaluator)):
        if "evaluate_many" in vars(kind):
            return getattr(evaluator, "evaluate_many")  # noqa: B009 - an object of any class
        if single in vars(kind):
            return None
    return None


def each_alone(evaluate: AsyncEvaluator) -> BatchLoader:
    """Returns an evaluator of many requests that evaluates each alone, all at the same time.

    It returns the exception of an evaluation in place of its decision.
    """

    async def evaluate_all(requests: list[Any]) -> list[Any]:
        evaluations = (evaluate(*request) for request in requests)
        found = await asyncio.gather(*evaluations, return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException) and not isinstance(each, Exception):
                raise each  # such as a CancelledError of the evaluator
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
