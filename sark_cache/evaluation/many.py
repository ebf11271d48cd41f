"""Evaluators of many requests: that of an engine, or single evaluations at the same time."""

import asyncio
from collections.abc import Callable
from inspect import getmro
from typing import Any, Final, TypeAlias, get_origin

from sark_cache._core import arguments
from sark_cache.evaluation.evaluators import AsyncEvaluator, RunInThread, as_async, check_callable
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
    check_callable("evaluate_many", HINT, evaluate_many, [])
    return as_async(evaluate_many, run_in_thread)


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
