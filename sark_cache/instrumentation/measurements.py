"""The measurements of a cache, for every exporter: each with its unit and its description.

Each collection reads them from the cache, which takes about 0.1 ms.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sark_cache._core.observers import CompositeCache
from sark_cache.backends._shared.latency import whole_nanoseconds
from sark_cache.metrics import LatencyHistogram, counters
from sark_cache.protocol import PolicyCacheProtocol


@runtime_checkable
class CompositePolicyCache(CompositeCache, Protocol):
    """A policy cache that forwards requests to others: `SelectedPolicyCache`."""

    def backends(self) -> Iterable[PolicyCacheProtocol]:
        """Returns the caches that have been created so far."""
        ...


@runtime_checkable
class Settles(Protocol):
    """A cache whose revocations wait for other processes: `PolicyCache`."""

    def settle_histogram(self) -> LatencyHistogram:
        """Returns the durations of these waits."""
        ...


@runtime_checkable
class Leased(Protocol):
    """A cache that serves hits only under a lease: `TieredPolicyCache`."""

    @property
    def lease(self) -> float:
        """The time, in seconds, for which hits may be served without news."""
        ...

    @property
    def record_lag(self) -> float:
        """The age of the last revocation in the log when this process read it, in seconds."""
        ...


class Rollouts(Protocol):
    """An object that knows the rollout percentage of each feature: `FeatureFlagManager`."""

    def get_all_rollouts(self) -> Mapping[str, float]:
        """Returns the percentages, 0 to 100, by feature. Sends nothing to a server."""
        ...


@dataclass(frozen=True, slots=True)
class Measurement:
    """The name of a number, its UCUM unit, and its description."""

    name: str
    unit: str
    description: str


@dataclass(frozen=True, slots=True)
class Timing(Measurement):
    """The name, unit and description of a histogram of durations."""

    counted: str
    """The UCUM unit of its counts."""


COUNTERS = tuple(
    Measurement(name, unit, description) for name, (unit, description) in counters().items()
)
"""The counters, named as in `get_metrics()`. They only grow, until `reset_metrics()`."""

GAUGES = (
    Measurement(
        "entries", "{entry}", "Entries in the cache, including expired ones not yet removed."
    ),
    Measurement("max_entries", "{entry}", "The maximum number of entries."),
    Measurement("hit_ratio", "1", "Fresh hits per look-up since the metrics were last reset."),
    Measurement(
        "effective_hit_ratio",
        "1",
        "Hits, fresh or stale, per look-up since the metrics were last reset.",
    ),
    Measurement("miss_ratio", "1", "1 minus the hit ratio; 1 if nothing was looked up."),
    Measurement("enabled", "", "1 if the cache serves and stores, 0 if it is disabled."),
    Measurement(
        "circuit_open",
        "",
        "1 while no requests are sent to the backend because it failed; always 0 without a server.",
    ),
    Measurement("lease", "s", "The time for which hits may be served without news."),
    Measurement(
        "record_lag",
        "s",
        "The age of the last revocation in the log when this process read it, by both clocks.",
    ),
)
"""Only a tiered cache has the last two."""

LATENCY = Timing(
    "latency",
    "s",
    "Durations of requests to the cache; the native cache measures one request in 64.",
    counted="{request}",
)
EVALUATION = Timing(
    "evaluation",
    "s",
    "Durations of the evaluations that were recorded.",
    counted="{evaluation}",
)
SETTLE = Timing(
    "settle",
    "s",
    "Durations of the waits, after confirmed revocations, until no process served the decisions.",
    counted="{revocation}",
)
"""Only a cache that shares revocations with other processes has it."""
LATENCY_PERCENTILE = Measurement(
    "latency_percentile",
    "s",
    "Percentiles of the durations of requests since the metrics were last reset.",
)
ROLLOUT = Measurement("rollout", "%", "The percentage of users that get a feature.")
BACKEND = Measurement(
    "backend", "", "A cache of this process: native, tiered, redis or none. Several can be in use."
)

HISTOGRAMS = (LATENCY, EVALUATION, SETTLE)

_PERCENTILES = (
    ("50", "cache_latency_p50_us"),
    ("95", "cache_latency_p95_us"),
    ("99", "cache_latency_p99_us"),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """The measurements of one cache, at one moment."""

    labels: Mapping[str, str]
    """The labels of the cache: `backend` and, if it was given a name, `cache`."""
    numbers: Mapping[str, float]
    """The counters, and the gauges that the cache has, by name."""
    percentiles: Mapping[str, float]
    """The percentiles of the latency, in seconds, by the percentage of the requests."""
    histograms: Mapping[str, LatencyHistogram]
    """The histograms that the cache has, by name."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A cache that is measured. If it has several backends, each backend is measured.

    Args:
        cache: The cache.
        backend: The label `backend`. None: that of the cache, or of each of its backends.
        name: The label `cache`, if the process has several caches. None: no label.
        flags: The feature flags whose percentages are exported.
        bounds: The upper bounds of the histograms, in seconds, in rising order.

    Raises:
        ValueError: The bounds do not rise.
    """

    cache: PolicyCacheProtocol
    backend: str | None
    name: str | None
    flags: Rollouts | None
    bounds: Sequence[float]

    def __post_init__(self) -> None:
        whole_nanoseconds(self.bounds)

    def read(self) -> list[Reading]:
        """Returns the measurements of each backend, also of a closed or disabled cache."""
        if self.backend is None and isinstance(self.cache, CompositePolicyCache):
            return [self._read(cache) for cache in self.cache.backends()]
        return [self._read(self.cache)]

    def rollouts(self) -> Mapping[str, float]:
        """Returns the percentages of rollouts, by feature."""
        return self.flags.get_all_rollouts() if self.flags else {}

    def labels(self, cache: object) -> dict[str, str]:
        """Returns the labels of the measured cache, or of one of its backends."""
        backend: str = getattr(cache, "backend", "") if self.backend is None else self.backend
        return (
            {"backend": backend} if self.name is None else {"backend": backend, "cache": self.name}
        )

    @property
    def is_several(self) -> bool:
        """True if each backend is measured."""
        return self.backend is None and isinstance(self.cache, CompositePolicyCache)

    def refuse_alike(self, others: Iterable["Source"]) -> None:
        """Raises a ValueError if another source has the same labels."""
        for other in others:
            backend = other.labels(other.cache)["backend"]
            alike = backend == self.labels(self.cache)["backend"]
            if other.name == self.name and (alike or self.is_several or other.is_several):
                message = (
                    f'a cache with the backend "{backend}" and name={self.name!r} is exported '
                    "already: pass a different name= for each cache"
                )
                raise ValueError(message)

    def _read(self, cache: PolicyCacheProtocol) -> Reading:
        metrics = cache.get_metrics()
        return Reading(
            labels=self.labels(cache),
            numbers={
                **{counter.name: metrics[counter.name] for counter in COUNTERS},
                **_ratios(metrics["hits"], metrics["stale_hits"], metrics["total_requests"]),
                "entries": metrics["size"],
                "max_entries": metrics["max_size"],
                "enabled": int(cache.enabled),
                "circuit_open": int(getattr(cache, "circuit_open", False)),
                **_of_lease(cache),
            },
            percentiles={percent: metrics[name] / 1e6 for percent, name in _PERCENTILES},
            histograms={
                LATENCY.name: cache.latency_histogram(self.bounds),
                EVALUATION.name: cache.evaluation_histogram(self.bounds),
                **({SETTLE.name: cache.settle_histogram()} if isinstance(cache, Settles) else {}),
            },
        )


def _of_lease(cache: PolicyCacheProtocol) -> dict[str, float]:
    if not isinstance(cache, Leased):
        return {}
    return {"lease": cache.lease, "record_lag": cache.record_lag}


def _ratios(hits: float, stale_hits: float, total: float) -> dict[str, float]:
    """Returns the rates of `get_metrics()` as ratios from 0 to 1, not rounded."""
    look_ups = total or 1
    return {
        "hit_ratio": hits / look_ups,
        "effective_hit_ratio": (hits + stale_hits) / look_ups,
        "miss_ratio": 1 - hits / look_ups,
    }
