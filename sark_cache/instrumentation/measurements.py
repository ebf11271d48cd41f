"""The measurements of a cache, for every exporter: each number with its unit and its meaning.

They are read from the cache at each collection, which takes about 0.1 ms.
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
    """A policy cache that asks others: `SelectedPolicyCache`."""

    def backends(self) -> Iterable[PolicyCacheProtocol]:
        """Returns the caches that it uses so far."""
        ...


class Rollouts(Protocol):
    """An object that knows the rollout percentage of each feature: `FeatureFlagManager`."""

    def get_all_rollouts(self) -> Mapping[str, float]:
        """Returns percentages, 0 to 100, by feature. Sends nothing to a server."""
        ...


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number: its name, its unit as UCUM writes it, and what it means."""

    name: str
    unit: str
    description: str


@dataclass(frozen=True, slots=True)
class Timing(Measurement):
    """A histogram of durations, and what it is that took them."""

    counted: str


COUNTERS = tuple(
    Measurement(name, unit, description) for name, (unit, description) in counters().items()
)
"""Named as in `get_metrics()`. They only grow, until `reset_metrics()`."""

GAUGES = (
    Measurement("entries", "{entry}", "Entries held; the expired ones until they are cleaned up."),
    Measurement("max_entries", "{entry}", "The most entries that may be held."),
    Measurement("hit_ratio", "1", "Fresh hits per look-up since the metrics were last reset."),
    Measurement(
        "effective_hit_ratio",
        "1",
        "Hits, fresh or stale, per look-up since the metrics were last reset.",
    ),
    Measurement("miss_ratio", "1", "1 less the hit ratio; 1 when nothing was looked up."),
    Measurement("enabled", "", "1 if the cache serves and stores, 0 if it is switched off."),
    Measurement(
        "circuit_open",
        "",
        "1 while the backend is not asked because it failed; always 0 for one without a server.",
    ),
)

LATENCY = Timing(
    "latency",
    "s",
    "How long requests to the cache took; the native one measures one in 64.",
    counted="{request}",
)
EVALUATION = Timing(
    "evaluation",
    "s",
    "How long evaluations took, each that was recorded.",
    counted="{evaluation}",
)
LATENCY_PERCENTILE = Measurement(
    "latency_percentile",
    "s",
    "What so many of a hundred measured requests did not exceed since the metrics were last reset.",
)
ROLLOUT = Measurement("rollout", "%", "How many of a hundred users a feature is rolled out to.")
BACKEND = Measurement("backend", "", "What holds the decisions: native, redis or none.")

HISTOGRAMS = (LATENCY, EVALUATION)

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
    """The counters and gauges, by name."""
    percentiles: Mapping[str, float]
    """Of the latency, in seconds, by the percentage of the requests."""
    histograms: Mapping[str, LatencyHistogram]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A cache that is measured; one that asks several is measured backend by backend.

    Args:
        cache: The cache.
        backend: What holds its decisions; None: as it says, or as each of those says that it asks.
        name: Tells it from other caches of this process; None: there is no need to.
        flags: What knows how far features are rolled out.
        bounds: Those of the histograms, in seconds, rising.

    Raises:
        ValueError: Bounds that do not rise.
    """

    cache: PolicyCacheProtocol
    backend: str | None
    name: str | None
    flags: Rollouts | None
    bounds: Sequence[float]

    def __post_init__(self) -> None:
        whole_nanoseconds(self.bounds)

    def read(self) -> list[Reading]:
        """Measures. What is closed or switched off is measured like any other."""
        if self.backend is None and isinstance(self.cache, CompositePolicyCache):
            return [self._read(cache) for cache in self.cache.backends()]
        return [self._read(self.cache)]

    def rollouts(self) -> Mapping[str, float]:
        """Percentages by feature."""
        return self.flags.get_all_rollouts() if self.flags else {}

    def labels(self, cache: object) -> dict[str, str]:
        """Returns the labels of a cache: this one, or one that this one uses."""
        backend: str = getattr(cache, "backend", "") if self.backend is None else self.backend
        return (
            {"backend": backend} if self.name is None else {"backend": backend, "cache": self.name}
        )

    @property
    def is_several(self) -> bool:
        """True if it is measured backend by backend."""
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
                **_ratios(metrics["hits"], metrics["stale_hits"], metrics["misses"]),
                "entries": metrics["size"],
                "max_entries": metrics["max_size"],
                "enabled": int(cache.enabled),
                "circuit_open": int(getattr(cache, "circuit_open", False)),
            },
            percentiles={percent: metrics[name] / 1e6 for percent, name in _PERCENTILES},
            histograms={
                LATENCY.name: cache.latency_histogram(self.bounds),
                EVALUATION.name: cache.evaluation_histogram(self.bounds),
            },
        )


def _ratios(hits: float, stale_hits: float, misses: float) -> dict[str, float]:
    """Returns the rates of `get_metrics()` as ratios from 0 to 1, not rounded."""
    look_ups = hits + stale_hits + misses or 1
    return {
        "hit_ratio": hits / look_ups,
        "effective_hit_ratio": (hits + stale_hits) / look_ups,
        "miss_ratio": 1 - hits / look_ups,
    }
