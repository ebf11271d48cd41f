"""OpenTelemetry: metrics read when collected, and a span for each evaluation. Extra `[otel]`.

>>> from sark_cache import RustPolicyCache
>>> from sark_cache.instrumentation.opentelemetry import instrument
>>> cache = RustPolicyCache()
>>> instrumentation = instrument(cache)  # with the global providers by default
>>> instrumentation.uninstrument()

A service with a rollout instruments `SelectedPolicyCache()`, with
`flags=get_feature_flag_manager()`. Each backend is exported and traced as soon as it is used.

The metrics are the same as for Prometheus, with dots in their names. Observable counters are
`sark_cache.hits` and so on. Observable gauges are `sark_cache.entries`, `sark_cache.hit_ratio` and
so on, `sark_cache.latency_percentile` (attribute `percentile`), `sark_cache.rollout` (attribute
`feature`) and `sark_cache.backend`, which is 1. `sark_cache.instrumentation.prometheus` has a table
of the metrics and the numbers of `get_metrics()`. All metrics except the rollout have the attribute
`backend`. If a cache was instrumented with a name, they also have the attribute `cache`. A
collection reads each cache once, in about 0.1 ms. Requests cost nothing.

OpenTelemetry has no histogram that can be read when it is collected: "It is impossible for an
asynchronous instrument to report a histogram, presently"
(https://github.com/open-telemetry/opentelemetry-specification/issues/2713). So there are three
observable counters for latencies: `sark_cache.latency.bucket`, `sark_cache.latency.sum` in seconds,
and `sark_cache.latency.count`. The attribute `le` of a bucket is its upper bound in seconds. Its
value is cumulative as in Prometheus, up to `+Inf`. For evaluations there are the same three:
`sark_cache.evaluation.bucket`, `.sum` and `.count`.

After `reset_metrics()` counters start at zero. With cumulative temporality this looks like a
restart. With delta temporality the next difference is negative: do not call `reset_metrics()` then.

Spans. Each evaluation after a miss has a span `sark_cache.evaluate`, and each refresh has a span
`sark_cache.refresh`. A hit has no span, and a request that waits for the evaluation of another one
has none. The parent of the span is the current span of the evaluating task. The parent of a refresh
is the span of the hit that started it, which may end earlier. While the loader runs, the span is
the current one. It contains no part of the request:

| attribute              | value                                                                 |
|------------------------|-----------------------------------------------------------------------|
| `sark_cache.backend`   | the backend, as in metrics                                            |
| `sark_cache.cache`     | the name of the cache, if it has one                                  |
| `sark_cache.outcome`   | `loaded`; `error`; or `cancelled`, if the calling task was cancelled  |
| `sark_cache.coalesced` | the number of other requests that were waiting for it when it ended   |
| `error.type`           | the type of the exception. Its message may contain data of a request. |
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeAlias
from weakref import WeakKeyDictionary

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import TracerProvider
except ImportError as _error:
    _message = "opentelemetry is missing: get it with `pip install 'sark-cache[otel]'`"
    raise ImportError(_message) from _error

from sark_cache import __version__
from sark_cache._core.observers import observe
from sark_cache.instrumentation.measurements import (
    BACKEND,
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    LATENCY_PERCENTILE,
    ROLLOUT,
    Measurement,
    Reading,
    Rollouts,
    Source,
)
from sark_cache.instrumentation.spans import Spans
from sark_cache.metrics import LATENCY_BOUNDS_SECONDS
from sark_cache.protocol import PolicyCacheProtocol

__all__ = ["Instrumentation", "Rollouts", "instrument"]

SCOPE = "sark_cache"
"""The instrumentation scope, and the prefix of all names of metrics, spans and attributes."""


class Instrumentation:
    """A cache that is instrumented, until `uninstrument()`."""

    def __init__(self, *ends: Callable[[], None]) -> None:
        self._ends = ends

    def uninstrument(self) -> None:
        """Ends the instrumentation; can be called twice. Running evaluations end their spans."""
        for end in self._ends:
            end()


def instrument(
    cache: PolicyCacheProtocol,
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
    backend: str | None = None,
    name: str | None = None,
    flags: Rollouts | None = None,
    bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS,
) -> Instrumentation:
    """Exports a cache's metrics and traces its evaluations.

    Args:
        cache: The cache. A reference is kept until it is uninstrumented. For a cache with several
            backends, such as `SelectedPolicyCache`, each backend is exported.
        meter_provider: The provider of the metrics. None: the global one, even if it is set later.
        tracer_provider: The provider of the spans. None: the global one, even if it is set later.
        backend: The attribute `backend`. None: that of the cache, `native`, `tiered`, `redis` or
            `none`.
        name: The attribute `cache`. It is needed if two caches have the same backend.
        flags: The feature flags whose percentages are exported. Pass them once for each provider.
        bounds: The upper bounds of the histograms, in seconds, in rising order.

    Raises:
        ValueError: The bounds do not rise, or a cache with the same backend and name is
            instrumented already.
    """
    measured = Source(cache, backend, name, flags, tuple(map(float, bounds)))
    end_metrics = _instruments(meter_provider).add(measured)
    tracer = trace.get_tracer(SCOPE, __version__, tracer_provider)
    return Instrumentation(end_metrics, observe(cache, Spans(tracer, measured.labels)))


Observed: TypeAlias = Iterable[tuple[float, Mapping[str, str]]]
"""The numbers of one instrument for one cache, each with its attributes."""


class _Rounds:
    """The readings of one cache, shared by all instruments of one collection.

    So all numbers of a collection are of one moment, and a collection reads the cache once.
    """

    def __init__(self, measured: Source) -> None:
        self.source = measured
        self._readings: list[Reading] = []
        self._asked: set[str] = set()

    def readings(self, instrument: str) -> list[Reading]:
        """Returns the readings of this collection. It ends when an instrument calls this again."""
        if not self._asked or instrument in self._asked:
            self._readings = self.source.read()
            self._asked.clear()
        self._asked.add(instrument)
        return self._readings


class _Instruments:
    """The instruments of one provider, shared by all caches.

    If an instrument of the same name were created again, OpenTelemetry would return the first one,
    and would never call the new callback.
    """

    def __init__(self, meter: Meter) -> None:
        self._rounds: tuple[_Rounds, ...] = ()
        for counter in COUNTERS:
            meter.create_observable_counter(
                f"{SCOPE}.{counter.name}",
                [partial(self._observe, counter.name, partial(_number, counter.name))],
                counter.unit,
                counter.description,
            )
        for histogram in HISTOGRAMS:
            for part, unit, observed in (
                ("bucket", histogram.counted, _buckets),
                ("sum", histogram.unit, _sum),
                ("count", histogram.counted, _count),
            ):
                name = f"{histogram.name}.{part}"
                meter.create_observable_counter(
                    f"{SCOPE}.{name}",
                    [partial(self._observe, name, partial(observed, histogram.name))],
                    unit,
                    histogram.description,
                )
        gauges: list[tuple[Measurement, Callable[[Reading], Observed]]] = [
            *((gauge, partial(_number, gauge.name)) for gauge in GAUGES),
            (LATENCY_PERCENTILE, _percentiles),
            (BACKEND, _one),
        ]
        for gauge, gauged in gauges:
            meter.create_observable_gauge(
                f"{SCOPE}.{gauge.name}",
                [partial(self._observe, gauge.name, gauged)],
                gauge.unit,
                gauge.description,
            )
        meter.create_observable_gauge(
            f"{SCOPE}.{ROLLOUT.name}", [self._rollouts], ROLLOUT.unit, ROLLOUT.description
        )

    def add(self, measured: Source) -> Callable[[], None]:
        """Observes a cache from now on. Returns a function that ends this."""
        measured.refuse_alike(rounds.source for rounds in self._rounds)
        added = _Rounds(measured)
        self._rounds = (*self._rounds, added)

        def end() -> None:
            self._rounds = tuple(rounds for rounds in self._rounds if rounds is not added)

        return end

    def _observe(
        self, instrument: str, observed: Callable[[Reading], Observed], _options: CallbackOptions
    ) -> Iterator[Observation]:
        for rounds in self._rounds:
            for reading in rounds.readings(instrument):
                for number, attributes in observed(reading):
                    yield Observation(number, {**reading.labels, **attributes})

    def _rollouts(self, _options: CallbackOptions) -> Iterator[Observation]:
        """Yields the rollouts of the process, from every cache that was instrumented with flags."""
        percentages = {
            feature: percentage
            for rounds in self._rounds
            for feature, percentage in rounds.source.rollouts().items()
        }
        for feature, percentage in percentages.items():
            yield Observation(percentage, {"feature": feature})


def _number(name: str, reading: Reading) -> Observed:
    if name in reading.numbers:
        yield reading.numbers[name], {}


def _buckets(name: str, reading: Reading) -> Observed:
    histogram = reading.histograms.get(name)
    if histogram is None:
        return
    for bound, count in zip(histogram.bounds, histogram.counts, strict=True):
        yield count, {"le": str(bound)}
    yield histogram.count, {"le": "+Inf"}


def _sum(name: str, reading: Reading) -> Observed:
    if name in reading.histograms:
        yield reading.histograms[name].sum_seconds, {}


def _count(name: str, reading: Reading) -> Observed:
    if name in reading.histograms:
        yield reading.histograms[name].count, {}


def _percentiles(reading: Reading) -> Observed:
    return ((seconds, {"percentile": percent}) for percent, seconds in reading.percentiles.items())


def _one(_reading: Reading) -> Observed:
    yield 1, {}


_of_providers: WeakKeyDictionary[MeterProvider, _Instruments] = WeakKeyDictionary()
_of_the_global_provider: list[_Instruments] = []


def _instruments(provider: MeterProvider | None) -> _Instruments:
    """Returns the instruments of a provider, creating them once. None: the global provider."""
    if provider is None or provider is metrics.get_meter_provider():
        if not _of_the_global_provider:
            meter = metrics.get_meter(SCOPE, __version__)
            _of_the_global_provider.append(_Instruments(meter))
        return _of_the_global_provider[0]
    if provider not in _of_providers:
        _of_providers[provider] = _Instruments(provider.get_meter(SCOPE, __version__))
    return _of_providers[provider]
