"""A span around each evaluation, in the task that evaluates.

The span has the outcome and the number of waiters. It contains no part of the request.
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
        tracer: The tracer that creates the spans.
        labels: Returns the labels of a cache: `backend` and, if it has a name, `cache`.
    """

    def __init__(self, tracer: Tracer, labels: Callable[[object], Mapping[str, str]]) -> None:
        self._tracer = tracer
        self._labels = labels

    def __call__(self, evaluation: Evaluation) -> AbstractContextManager[None]:
        """Returns a context manager whose block is the span of an evaluation."""
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
        # An abandoned coroutine is closed in another context, where the span was not attached.
        if context.get_current() is self._current:
            context.detach(self._outside)
        span.end()


def _name(kind: type) -> str:
    """Returns the name of an exception type as `error.type` needs it, with its module.

    Built-in types have no module in their name.
    """
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"
