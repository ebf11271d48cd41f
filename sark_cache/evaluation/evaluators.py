"""Evaluators: functions and objects, async or not, that ask a policy engine for a decision."""

from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable, isclass, signature
from time import perf_counter
from typing import Any, Final, ParamSpec, Protocol, TypeAlias, TypeVar, get_origin

from sark_cache._core import arguments
from sark_cache._core.json import type_name
from sark_cache.evaluation.calling import is_async
from sark_cache.types import Context, Loaded

Request = ParamSpec("Request")
Result = TypeVar("Result")

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
    ask = evaluator if callable(evaluator) else getattr(evaluator, "evaluate", None)
    if not callable(ask) or get_origin(ask) is not None:
        arguments.refuse("evaluate", hint, evaluator)
    check_callable("evaluate", TAKES, ask, "user_id", "action", "resource", None)
    asynchronous: AsyncEvaluator = as_async(ask, run_in_thread)
    return asynchronous


def check_callable(argument: str, takes: str, ask: Callable[..., Any], *example: object) -> None:
    """Checks that a function or object can be called with these arguments.

    Raises:
        TypeError: It cannot, or it is a class. The message has `takes`, which says what to pass.
    """
    name = getattr(ask, "__qualname__", None) or type_name(ask)
    if isclass(ask):
        message = f"{argument} must be {takes}, not the class {name}: create an object of it"
        raise TypeError(message)
    try:
        taken = signature(ask)
    except (TypeError, ValueError):  # a function in C: only its call can show an error
        return
    try:
        taken.bind(*example)
    except TypeError:
        message = f"{argument} must be {takes}, but {name} takes {taken}"
        raise TypeError(message) from None


def as_async(ask: Callable[..., Any], run_in_thread: RunInThread) -> Callable[..., Awaitable[Any]]:
    """Returns a function itself if it is async, else an async one that runs it in a thread."""
    if is_async(ask):
        return ask

    async def asked(*request: object) -> Any:  # noqa: ANN401 - any result
        found = await run_in_thread(ask, *request)
        return await found if isawaitable(found) else found

    return asked


def timed(
    evaluate: Callable[Request, Awaitable[Result]], cache: Timed
) -> Callable[Request, Awaitable[Result]]:
    """Returns an evaluator that also records the duration of each call in the cache."""

    async def evaluated(*request: Request.args, **by_name: Request.kwargs) -> Result:
        begun = perf_counter()
        found = await evaluate(*request, **by_name)
        cache.record_opa_latency((perf_counter() - begun) * 1e3)
        return found

    return evaluated
