"""Evaluators: functions and objects, async or not, that ask a policy engine for a decision."""

from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable, isclass, signature
from time import perf_counter
from typing import Any, Final, Protocol, TypeAlias, get_origin

from sark_cache._core import arguments
from sark_cache._core.json import type_name
from sark_cache.evaluation.calling import is_async
from sark_cache.types import Context, Loaded

EvaluatorResult: TypeAlias = Mapping[str, Any] | Loaded
Evaluator: TypeAlias = Callable[
    [str, str, str, Context | None], Awaitable[EvaluatorResult] | EvaluatorResult
]
"""Asks the policy engine: `(user_id, action, resource, context) -> decision`, async or not."""

AsyncEvaluator: TypeAlias = Callable[[str, str, str, Context | None], Awaitable[EvaluatorResult]]


class Engine(Protocol):
    """An object whose method `evaluate` asks the policy engine."""

    def evaluate(
        self, user_id: str, action: str, resource: str, context: Context | None, /
    ) -> Awaitable[EvaluatorResult] | EvaluatorResult:
        """Returns the decision for a request."""
        ...


TAKES: Final = "a function (user_id, action, resource, context), or an object with such a method"
HINT: Final = f"{TAKES} `evaluate` or `__call__`"


class RunInThread(Protocol):
    """Runs a function in a thread, while the event loop goes on."""

    def __call__(self, function: Callable[..., Any], /, *arguments: object) -> Awaitable[Any]:
        """Returns the result of the function."""
        ...


class Timed(Protocol):
    """A cache that records durations of evaluations."""

    def record_opa_latency(self, latency_ms: float) -> None:
        """Records a duration in milliseconds."""
        ...


def callable_evaluator(
    evaluator: Any,  # noqa: ANN401 - checked here
    run_in_thread: RunInThread,
    hint: str = HINT,
) -> AsyncEvaluator:
    """Returns an async function that calls an evaluator.

    Args:
        evaluator: The evaluator.
        run_in_thread: Runs an evaluator that is not async.
        hint: The description of what to pass, for errors.

    Raises:
        TypeError: `evaluator` is not an evaluator. The message says what to pass.
    """
    ask = _method(evaluator, hint)
    if is_async(ask):
        asynchronous: AsyncEvaluator = ask
        return asynchronous

    async def evaluate(
        user_id: str, action: str, resource: str, context: Context | None
    ) -> EvaluatorResult:
        found = await run_in_thread(ask, user_id, action, resource, context)
        evaluation: EvaluatorResult = await found if isawaitable(found) else found
        return evaluation

    return evaluate


def timed(evaluate: AsyncEvaluator, cache: Timed) -> AsyncEvaluator:
    """Returns an evaluator that also records the duration of each evaluation in the cache."""

    async def evaluated(
        user_id: str, action: str, resource: str, context: Context | None
    ) -> EvaluatorResult:
        begun = perf_counter()
        loaded = await evaluate(user_id, action, resource, context)
        cache.record_opa_latency((perf_counter() - begun) * 1e3)
        return loaded

    return evaluated


def _method(evaluator: Any, hint: str) -> Any:  # noqa: ANN401
    ask = evaluator if callable(evaluator) else getattr(evaluator, "evaluate", None)
    if not callable(ask) or get_origin(ask) is not None:
        arguments.refuse("evaluate", hint, evaluator)
    if isclass(ask):
        message = (
            f"evaluate must be {TAKES}, not the class {ask.__qualname__}: create an object of it"
        )
        raise TypeError(message)
    try:
        taken = signature(ask)
    except (TypeError, ValueError):  # a function in C: only its call can show an error
        return ask
    try:
        taken.bind("user_id", "action", "resource", None)
    except TypeError:
        name = getattr(ask, "__qualname__", None) or type_name(ask)
        message = f"evaluate must be {TAKES}, but {name} takes {taken}"
        raise TypeError(message) from None
    return ask
