"""Uses of the names of the instrumentation, for type checkers. Checked by `nox -s typing`."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import assert_type

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from prometheus_client import CollectorRegistry, Metric

from sark_cache import (
    PolicyCacheProtocol,
    RustPolicyCache,
    SelectedPolicyCache,
    get_feature_flag_manager,
)
from sark_cache._core.observers import Evaluation, Observer, observe
from sark_cache.backends._shared.latency import Latency
from sark_cache.instrumentation.opentelemetry import Instrumentation, instrument
from sark_cache.instrumentation.prometheus import (
    PolicyCacheCollector,
    Registration,
    Rollouts,
    register,
)
from sark_cache.metrics import LATENCY_BOUNDS_SECONDS, LatencyHistogram


class Percentages:
    def get_all_rollouts(self) -> dict[str, int]:
        return {"rust_cache": 25}


def rollouts(flags: Rollouts) -> None:
    assert_type(flags.get_all_rollouts(), Mapping[str, float])


def histograms(cache: PolicyCacheProtocol) -> None:
    assert_type(LATENCY_BOUNDS_SECONDS, tuple[float, ...])
    histogram = cache.latency_histogram()
    assert_type(histogram, LatencyHistogram)
    assert_type(histogram.bounds, tuple[float, ...])
    assert_type(histogram.counts, tuple[int, ...])
    assert_type(histogram.sum_seconds, float)
    assert_type(histogram.count, int)
    assert_type(cache.evaluation_histogram([0.001, 1]), LatencyHistogram)
    assert_type(cache.backend, str)
    assert_type(RustPolicyCache.backend, str)


def in_python(latency: Latency) -> None:
    latency.record(0.001)
    assert_type(latency.count, int)
    assert_type(latency.mean_ms, float)
    assert_type(latency.percentile(0.5), float)
    assert_type(latency.histogram(), LatencyHistogram)
    latency.reset()


def prometheus(cache: PolicyCacheProtocol, registry: CollectorRegistry) -> None:
    flags: Rollouts = Percentages()
    assert_type(register(cache), Registration)
    registration = register(
        cache, registry, backend="redis", name="gateway", flags=flags, namespace="authorization"
    )
    assert_type(registration, Registration)
    registration.unregister()
    register(SelectedPolicyCache(), flags=get_feature_flag_manager())
    collector = PolicyCacheCollector(cache, flags=Percentages(), bounds=(0.001, 0.01))
    registry.register(assert_type(collector, PolicyCacheCollector))
    assert_type(collector.describe(), Iterable[Metric])
    assert_type(collector.collect(), Iterable[Metric])


def opentelemetry(
    cache: RustPolicyCache, meter_provider: MeterProvider, tracer_provider: TracerProvider
) -> None:
    assert_type(instrument(cache), Instrumentation)
    instrumentation = instrument(
        cache,
        meter_provider=meter_provider,
        tracer_provider=tracer_provider,
        name="gateway",
        flags=Percentages(),
    )
    assert_type(instrumentation, Instrumentation)
    instrumentation.uninstrument()


def evaluations(cache: PolicyCacheProtocol) -> None:
    def observer(evaluation: Evaluation) -> AbstractContextManager[None]:
        assert_type(evaluation.ahead, bool)
        assert_type(evaluation.cache, object)
        assert_type(evaluation.waiting(), int)
        return nullcontext()

    same: Observer = observer
    end = observe(cache, same)
    end()
