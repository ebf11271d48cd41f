"""OpenTelemetry: metrics read when collected, and a span for each evaluation. Extra `[otel]`.

>>> from sark_cache import RustPolicyCache
>>> from sark_cache.instrumentation.opentelemetry import instrument
>>> cache = RustPolicyCache()
>>> instrumentation = instrument(cache)  # with the global providers by default
>>> instrumentation.uninstrument()

A service that chooses its backend user by user instruments `SelectedPolicyCache()`, with
`flags=get_feature_flag_manager()`: each backend is exported and traced as soon as it is in use.

Metrics are those that Prometheus gets, under names with dots: observable counters `sark_cache.hits`
and so on, observable gauges `sark_cache.entries`, `sark_cache.hit_ratio`, …,
`sark_cache.latency_percentile` (attribute `percentile`), `sark_cache.rollout` (attribute `feature`)
and `sark_cache.backend`, which is 1. `sark_cache.instrumentation.prometheus` says which number of
`get_metrics()` is which. All but the rollout have the attribute `backend`, and `cache` for a cache
that was given a name. A collection reads each cache once, which takes about 0.1 ms; requests cost
nothing.

A histogram would have to be recorded request by request: "It is impossible for an asynchronous
instrument to report a histogram, presently"
(https://github.com/open-telemetry/opentelemetry-specification/issues/2713). So latencies and
evaluations are three observable counters each: `sark_cache.latency.bucket`, whose attribute `le` is
the upper bound in seconds and whose values are cumulative as in Prometheus, up to `+Inf`;
`sark_cache.latency.sum` in seconds; `sark_cache.latency.count`; and so `sark_cache.evaluation.…`.

After `reset_metrics()` counters start at zero again. With cumulative temporality that looks like a
restart; with delta temporality the interval's difference is negative: do not reset what is exported
so.

Spans. Each evaluation because of a miss is a span `sark_cache.evaluate`, each refresh ahead a
`sark_cache.refresh`. A hit has no span, and neither has a request that waits for another's
evaluation. The parent is the current span of the evaluating task; of a refresh, the span of the hit
that started it, which may end earlier. It is the current span while the loader runs. It contains no
part of the request:

| attribute              | value                                                                   |
|------------------------|-------------------------------------------------------------------------|
| `sark_cache.backend`   | as above                                                                |
| `sark_cache.cache`     | the name that the cache was given, if any                               |
| `sark_cache.outcome`   | `loaded`; `error`; or `cancelled`, with the task of the caller          |
| `sark_cache.coalesced` | how many other requests were waiting for it when it ended               |
| `error.type`           | the type of what it raised; never its message, which may hold a request |
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TypeAlias
from weakref import WeakKeyDictionary

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import TracerProvider
except ImportError as _error:
    _message = "opentelemetry is missing: get it with `pip install 'sark-cache[otel]'`"
    raise ImportError(_message) from _error

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
"""The instrumentation scope, and what the names of all metrics, spans and attributes begin with."""


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
        cache: The cache. It is kept until it is uninstrumented. One that asks several backends,
            such as `SelectedPolicyCache`, is exported backend by backend.
        meter_provider: Where metrics go; None: to the global one, whenever that is set.
        tracer_provider: Where spans go; None: to the global one, whenever that is set.
        backend: What holds the decisions; None: as the cache says ("native", "redis", "none").
        name: The attribute `cache`; needed where two caches have the same backend.
        flags: What knows how far features are rolled out; once for each provider is enough.
        bounds: Those of the histograms, in seconds, rising.

    Raises:
        ValueError: Bounds that do not rise; or a cache with the same backend and name is
            instrumented, so that nobody could tell their numbers apart.
    """
    measured = Source(cache, backend, name, flags, tuple(map(float, bounds)))
    end_metrics = _instruments(meter_provider).add(measured)
    tracer = trace.get_tracer(SCOPE, _version(), tracer_provider)
    return Instrumentation(end_metrics, observe(cache, Spans(tracer, measured.labels)))


Observed: TypeAlias = Iterable[tuple[float, Mapping[str, str]]]
"""Numbers of one instrument for one cache, with the attributes that tell them from one another."""


class _Rounds:
    """The readings of one cache: one for each round in which all instruments are asked.

    So what they say is of one moment, and a collection reads the cache once.
    """

    def __init__(self, measured: Source) -> None:
        self.source = measured
        self._readings: list[Reading] = []
        self._asked: set[str] = set()

    def readings(self, instrument: str) -> list[Reading]:
        """Returns the readings; takes new ones if this instrument has returned the last ones."""
        if not self._asked or instrument in self._asked:
            self._readings = self.source.read()
            self._asked.clear()
        self._asked.add(instrument)
        return self._readings


class _Instruments:
    """The instruments of one provider, shared by all caches.

    A second instrument of the same name would be the first one again, its callback never asked.
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
        """Observes a cache from now on; returns what ends it."""
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
    yield reading.numbers[name], {}


def _buckets(name: str, reading: Reading) -> Observed:
    histogram = reading.histograms[name]
    for bound, count in zip(histogram.bounds, histogram.counts, strict=True):
        yield count, {"le": str(bound)}
    yield histogram.count, {"le": "+Inf"}


def _sum(name: str, reading: Reading) -> Observed:
    yield reading.histograms[name].sum_seconds, {}


def _count(name: str, reading: Reading) -> Observed:
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
            meter = metrics.get_meter(SCOPE, _version())
            _of_the_global_provider.append(_Instruments(meter))
        return _of_the_global_provider[0]
    if provider not in _of_providers:
        _of_providers[provider] = _Instruments(provider.get_meter(SCOPE, _version()))
    return _of_providers[provider]


def _version() -> str:
    try:
        return version("sark-cache")
    except PackageNotFoundError:  # run from a tree that is not installed
        return ""
