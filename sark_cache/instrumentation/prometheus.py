"""Prometheus: a collector that reads the caches when it is scraped. Extra `[prometheus]`.

>>> from sark_cache import RustPolicyCache
>>> from sark_cache.instrumentation.prometheus import register
>>> cache = RustPolicyCache()
>>> registration = register(cache)  # on prometheus_client's own registry by default
>>> registration.unregister()

A service with a rollout registers `SelectedPolicyCache()`, with
`flags=get_feature_flag_manager()`. Each backend is exported as soon as it is used.

A scrape takes one or two milliseconds for each cache. prometheus_client needs most of this time to
write the text. Requests to the cache cost nothing. Each number of `get_metrics()` is exported in
base units, or can be calculated from exported numbers:

| `get_metrics()`                         | exported                                              |
|-----------------------------------------|-------------------------------------------------------|
| hits, misses, lapsed, stale_hits,       | `sark_cache_hits_total` and so on: counters with the  |
| revalidations, batch_operations,        | same name                                             |
| evictions, expirations, invalidations,  |                                                       |
| foreign_revocations, loads,             |                                                       |
| load_errors, coalesced, overdue,        |                                                       |
| errors, flushes,                        |                                                       |
| unconfirmed_revocations                 |                                                       |
| total_requests                          | hits + stale_hits + misses + lapsed                   |
| hit_rate                                | 100 × `sark_cache_hit_ratio`                          |
| effective_hit_rate                      | 100 × `sark_cache_effective_hit_ratio`                |
| miss_rate                               | 100 × `sark_cache_miss_ratio`                         |
| size, max_size                          | `sark_cache_entries`, `sark_cache_max_entries`        |
| avg_cache_latency_ms                    | 1000 × `sark_cache_latency_seconds_sum` / `_count`    |
| avg_opa_latency_ms                      | 1000 × `sark_cache_evaluation_seconds_sum` / `_count` |
| cache_latency_p50_us, _p95_us, _p99_us  | 10⁶ × `sark_cache_latency_percentile_seconds`         |
|                                         | `{percentile="50"}`, `"95"`, `"99"`                   |

There are also the histograms `sark_cache_latency_seconds`, `sark_cache_evaluation_seconds` and, for
a cache with a server, `sark_cache_settle_seconds`; the gauges `sark_cache_enabled` and
`sark_cache_circuit_open`, and for a tiered cache `sark_cache_lease_seconds` and
`sark_cache_record_lag_seconds`; and `sark_cache_backend_info{backend="native"} 1`. The percentages
of rollouts are `sark_cache_rollout_percent{feature="rust_cache"}`. All metrics except the last have
the label `backend`. If a cache was registered with a name, they also have the label `cache`.

The ratios and percentiles include all requests since the last `reset_metrics()`. For the last
minutes, use the counters and the histograms. The native cache measures the latency of one request
in 64, so `sark_cache_latency_seconds_count` is about a 64th of the requests.

After `reset_metrics()`, counters and histograms start at zero. Prometheus takes this for a restart:
`rate()` and `increase()` stay right, except for the requests between the last scrape and the reset.

Each process of a service has its own cache and its own numbers. The multiprocess mode of
prometheus_client cannot add them up: it merges files that its own counters write, and "custom
collectors do not work" there (https://prometheus.github.io/client_python/multiprocess). If the
workers share a socket, a scrape reaches only one of them, and another one the next time. So give
each worker its own endpoint, and let Prometheus scrape all of them and add them up. With gunicorn,
write this into its configuration file:

    def post_fork(server, worker):
        for port in range(9100, 9100 + server.num_workers):
            with contextlib.suppress(OSError):  # another worker has this one
                return prometheus_client.start_http_server(port)

Or run one worker in each container. If only the shared socket can be scraped, register the cache in
each worker with `name=f"pid-{os.getpid()}"`. Then the numbers of different workers are not mixed,
but each scrape still sees only one worker. A cache that was registered before a fork is also
registered in the child, which exports its own numbers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final
from weakref import WeakKeyDictionary

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Metric
    from prometheus_client.registry import Collector
except ImportError as _error:
    _message = "prometheus_client is missing: get it with `pip install 'sark-cache[prometheus]'`"
    raise ImportError(_message) from _error

from sark_cache.instrumentation.measurements import (
    BACKEND,
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    LATENCY_PERCENTILE,
    ROLLOUT,
    Reading,
    Rollouts,
    Source,
)
from sark_cache.metrics import LATENCY_BOUNDS_SECONDS, LatencyHistogram
from sark_cache.protocol import PolicyCacheProtocol

__all__ = ["PolicyCacheCollector", "Registration", "Rollouts", "register"]


class PolicyCacheCollector(Collector):
    """Exports one cache. For several caches on one registry use `register`, which merges them.

    Args:
        cache: The cache. The collector keeps a reference to it. For a cache with several backends,
            such as `SelectedPolicyCache`, each backend is exported.
        backend: The label `backend`. None: that of the cache, `native`, `tiered`, `redis` or
            `none`.
        name: The label `cache`, if the process has several caches. None: no label.
        flags: The feature flags whose percentages are exported.
        namespace: The beginning of all names.
        bounds: The upper bounds of the histograms, in seconds, in rising order.

    Raises:
        ValueError: The bounds do not rise.
    """

    def __init__(
        self,
        cache: PolicyCacheProtocol,
        *,
        backend: str | None = None,
        name: str | None = None,
        flags: Rollouts | None = None,
        namespace: str = "sark_cache",
        bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS,
    ) -> None:
        self._namespace = namespace
        self._source = Source(cache, backend, name, flags, tuple(map(float, bounds)))

    def describe(self) -> Iterable[Metric]:
        """Returns the exported metrics without numbers; the registry asks at registration."""
        return _families(self._namespace, ())

    def collect(self) -> Iterable[Metric]:
        """Returns the exported metrics, as they are now."""
        return _families(self._namespace, (self._source,))


class Registration:
    """A cache that a registry exports, until `unregister()`."""

    def __init__(
        self, registry: CollectorRegistry, exported: "_Exported", measured: Source
    ) -> None:
        self._registry = registry
        self._exported = exported
        self._measured = measured

    def unregister(self) -> None:
        """Ends the export. Calling it again does nothing."""
        self._exported.remove(self._measured, self._registry)


def register(
    cache: PolicyCacheProtocol,
    registry: CollectorRegistry = REGISTRY,
    *,
    backend: str | None = None,
    name: str | None = None,
    flags: Rollouts | None = None,
    namespace: str = "sark_cache",
    bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS,
) -> Registration:
    """Exports a cache on a registry, together with the caches that it exports already.

    Args:
        cache: The cache. The registry keeps a reference to it until it is unregistered. For a cache
            with several backends, such as `SelectedPolicyCache`, each backend is exported.
        registry: The registry.
        backend: The label `backend`. None: that of the cache, `native`, `tiered`, `redis` or
            `none`.
        name: The label `cache`. It is needed if two caches have the same backend.
        flags: The feature flags whose percentages are exported. Pass them once for each registry.
        namespace: The beginning of all names.
        bounds: The upper bounds of the histograms, in seconds, in rising order.

    Raises:
        ValueError: The bounds do not rise, or a cache with the same backend and name is exported
            already.
    """
    measured = Source(cache, backend, name, flags, tuple(map(float, bounds)))
    exported = _exported.setdefault(registry, {}).setdefault(namespace, _Exported(namespace))
    exported.add(measured, registry)
    return Registration(registry, exported, measured)


class _Exported(Collector):
    """The caches that one registry exports under one namespace.

    They share one collector, because a registry accepts the name of a metric only once.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace: Final = namespace
        self._sources: tuple[Source, ...] = ()

    def add(self, measured: Source, registry: CollectorRegistry) -> None:
        """Adds a cache. With the first cache, registers this collector."""
        measured.refuse_alike(self._sources)
        if not self._sources:
            registry.register(self)
        self._sources = (*self._sources, measured)

    def remove(self, measured: Source, registry: CollectorRegistry) -> None:
        """Removes a cache. With the last cache, unregisters this collector."""
        left = tuple(other for other in self._sources if other is not measured)
        if self._sources and not left:
            registry.unregister(self)
        self._sources = left

    def describe(self) -> Iterable[Metric]:
        """Returns the exported metrics without numbers; the registry asks at registration."""
        return _families(self._namespace, ())

    def collect(self) -> Iterable[Metric]:
        """Returns the exported metrics, as they are now."""
        return _families(self._namespace, self._sources)


_exported: WeakKeyDictionary[CollectorRegistry, dict[str, _Exported]] = WeakKeyDictionary()


def _families(namespace: str, sources: Sequence[Source]) -> Iterable[Metric]:
    readings = [reading for measured in sources for reading in measured.read()]
    yield from _numbers(namespace, readings)
    yield from _histograms(namespace, readings)
    yield _percentiles(namespace, readings)
    yield _backends(namespace, readings)
    yield _rollouts(namespace, sources)


def _numbers(namespace: str, readings: Sequence[Reading]) -> Iterator[Metric]:
    for counter in COUNTERS:
        family = Metric(f"{namespace}_{counter.name}", counter.description, "counter")
        for reading in readings:
            family.add_sample(
                f"{family.name}_total", {**reading.labels}, reading.numbers[counter.name]
            )
        yield family
    for gauge in GAUGES:
        unit = "seconds" if gauge.unit == "s" else ""
        name = f"{namespace}_{gauge.name}_{unit}" if unit else f"{namespace}_{gauge.name}"
        family = Metric(name, gauge.description, "gauge", unit)
        for reading in readings:
            if gauge.name in reading.numbers:
                family.add_sample(family.name, {**reading.labels}, reading.numbers[gauge.name])
        if family.samples or not readings:
            yield family


def _histograms(namespace: str, readings: Sequence[Reading]) -> Iterator[Metric]:
    for measured in HISTOGRAMS:
        name = f"{namespace}_{measured.name}_seconds"
        family = Metric(name, measured.description, "histogram", "seconds")
        for reading in readings:
            if measured.name in reading.histograms:
                _add_histogram(family, reading.labels, reading.histograms[measured.name])
        if family.samples:
            yield family


def _add_histogram(family: Metric, labels: Mapping[str, str], histogram: LatencyHistogram) -> None:
    for bound, count in zip(histogram.bounds, histogram.counts, strict=True):
        family.add_sample(f"{family.name}_bucket", {**labels, "le": str(bound)}, count)
    family.add_sample(f"{family.name}_bucket", {**labels, "le": "+Inf"}, histogram.count)
    family.add_sample(f"{family.name}_count", {**labels}, histogram.count)
    family.add_sample(f"{family.name}_sum", {**labels}, histogram.sum_seconds)


def _percentiles(namespace: str, readings: Sequence[Reading]) -> Metric:
    name = f"{namespace}_{LATENCY_PERCENTILE.name}_seconds"
    family = Metric(name, LATENCY_PERCENTILE.description, "gauge", "seconds")
    for reading in readings:
        for percent, seconds in reading.percentiles.items():
            family.add_sample(name, {**reading.labels, "percentile": percent}, seconds)
    return family


def _backends(namespace: str, readings: Sequence[Reading]) -> Metric:
    family = Metric(f"{namespace}_{BACKEND.name}", BACKEND.description, "info")
    for reading in readings:
        family.add_sample(f"{family.name}_info", {**reading.labels}, 1)
    return family


def _rollouts(namespace: str, sources: Sequence[Source]) -> Metric:
    """Returns the rollouts of the process, from every cache that was registered with flags."""
    name = f"{namespace}_{ROLLOUT.name}_percent"
    family = Metric(name, ROLLOUT.description, "gauge", "percent")
    percentages = {
        feature: percentage
        for measured in sources
        for feature, percentage in measured.rollouts().items()
    }
    for feature, percentage in percentages.items():
        family.add_sample(name, {"feature": feature}, percentage)
    return family
