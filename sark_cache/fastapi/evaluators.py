"""The evaluators that `authorize` takes: also dependencies and `FromRequest`s that return one."""

from typing import Annotated, Any, Final, get_origin

from starlette.concurrency import run_in_threadpool

from sark_cache.evaluation import evaluators
from sark_cache.evaluation.evaluators import AsyncEvaluator
from sark_cache.fastapi.sources import FromRequest, read_source

HINT: Final = f"{evaluators.HINT}, or a dependency, Depends(...), or a FromRequest that returns one"


def read_evaluator_source(given: Any) -> Any:  # noqa: ANN401 - any argument
    """Returns a dependency or `FromRequest` that returns an evaluator, or an async evaluator.

    Raises:
        TypeError: `given` is none of these. The message says what to pass.
    """
    if get_origin(given) is Annotated or not callable(given):
        source = read_source("evaluate", given)
        if get_origin(source) is Annotated or isinstance(source, FromRequest):
            return source
    return callable_evaluator(given)


def callable_evaluator(evaluator: Any) -> AsyncEvaluator:  # noqa: ANN401 - checked there
    """Returns an async function that calls an evaluator, in the threadpool if it is not async.

    Raises:
        TypeError: `evaluator` is not an evaluator. The message says what to pass.
    """
    return evaluators.callable_evaluator(evaluator, run_in_threadpool, HINT)
