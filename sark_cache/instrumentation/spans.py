"""A span around each evaluation, in the task that evaluates.

It has the outcome and the number of waiters, and no part of the request.
"""

from asyncio import CancelledError
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType

from opentelemetry import context, trace
from opentelemetry.trace import StatusCode, Tracer

from sark_cache._core.observers import Evaluation


class Spans:
    """Observes the evaluations of one cache.

    Args:
        tracer: What makes the spans.
        labels: Says what tells a cache from others: `backend` and, if it has a name, `cache`.
    """

    def __init__(self, tracer: Tracer, labels: Callable[[object], Mapping[str, str]]) -> None:
        self._tracer = tracer
        self._labels = labels

    def __call__(self, evaluation: Evaluation) -> AbstractContextManager[None]:
        """The span of an evaluation, from entering to leaving."""
        labels = self._labels(evaluation.cache)
        attributes = {f"sark_cache.{label}": value for label, value in labels.items()}
        return _EvaluationSpan(self._tracer, attributes, evaluation)


class _EvaluationSpan(AbstractContextManager[None]):
    def __init__(
        self, tracer: Tracer, attributes: Mapping[str, str], evaluation: Evaluation
    ) -> None:
        self._evaluation = evaluation
        name = "sark_cache.refresh" if evaluation.ahead else "sark_cache.evaluate"
        self._span = tracer.start_span(name, attributes=attributes)
        self._current = trace.set_span_in_context(self._span)

    def __enter__(self) -> None:
        self._outside = context.attach(self._current)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        span = self._span
        span.set_attribute("sark_cache.coalesced", self._evaluation.waiting())
        if error is None:
            span.set_attribute("sark_cache.outcome", "loaded")
        elif isinstance(error, CancelledError | GeneratorExit):
            span.set_attribute("sark_cache.outcome", "cancelled")
        else:
            span.set_attribute("sark_cache.outcome", "error")
            span.set_attribute("error.type", _name(type(error)))
            span.set_status(StatusCode.ERROR)
        # An abandoned coroutine is closed in another context, which has nothing to take back.
        if context.get_current() is self._current:
            context.detach(self._outside)
        span.end()


def _name(kind: type) -> str:
    """As the convention for `error.type` has it: with its module, but for the built-in ones."""
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"
