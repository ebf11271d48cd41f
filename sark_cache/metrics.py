"""The numbers that a policy cache counts, with their units and meanings.

Each counter is described once, here: the exporters, the table of metrics in the documentation and
the dashboard take names, units and descriptions from `CacheMetrics`.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

__all__ = [
    "LATENCY_BOUNDS_SECONDS",
    "SETTLE_BOUNDS_SECONDS",
    "CacheMetrics",
    "LatencyHistogram",
]

LATENCY_BOUNDS_SECONDS: tuple[float, ...] = tuple(2**power / 1e9 for power in range(8, 31))
"""The default bounds of a `LatencyHistogram`: 256 ns to 1.07 s, each twice the one before.

They coincide with borders of the buckets that durations are recorded in, so every duration is
counted on the right side of a bound.
"""

SETTLE_BOUNDS_SECONDS: tuple[float, ...] = tuple(2**power / 1e9 for power in range(18, 37))
"""The default bounds of `settle_histogram`: 0.26 ms to 69 s, each twice the one before."""


@dataclass(frozen=True, slots=True)
class LatencyHistogram:
    """A cumulative histogram of durations, at one moment.

    Durations are recorded in buckets, 32 per power of two of nanoseconds. A bucket counts as below
    a bound only if the whole bucket is. If a bound lies inside a bucket, a duration just below the
    bound counts as above it. The error is at most 3.2 % of the bound. Bounds that are powers of two
    in nanoseconds, such as `LATENCY_BOUNDS_SECONDS`, have no such error.
    """

    bounds: tuple[float, ...]
    """Upper bounds in seconds, in increasing order."""
    counts: tuple[int, ...]
    """The number of durations below each bound. Cumulative, so they never decrease."""
    sum_seconds: float
    """The sum of all durations."""
    count: int
    """The number of all durations."""


def counter(unit: str, description: str) -> Any:  # noqa: ANN401 - a field, typed by its annotation
    """Returns a field of `CacheMetrics` that only grows, with its UCUM unit and its meaning."""
    return field(default=0, metadata={"unit": unit, "description": description})


@dataclass(frozen=True, slots=True)
class CacheMetrics:
    """The counters of one cache, since it was created or since `reset_metrics()`.

    A snapshot: it does not change afterwards. Percentages are 0 to 100. A native cache measures the
    latency of one request in 64, the first one included; a Redis cache measures every request.
    Percentiles are exact to within 3.2 %.
    """

    hits: int = counter("{request}", "Lookups answered with an entry that is not stale.")
    misses: int = counter("{request}", "Lookups that found no entry that may be served.")
    lapsed: int = counter(
        "{request}",
        "Lookups of a tiered cache that served nothing, because the log was not confirmed lately.",
    )
    stale_hits: int = counter(
        "{request}",
        "Lookups answered near the end of the time to live, while the entry is refreshed.",
    )
    revalidations: int = counter("{refresh}", "Refreshes started in the background.")
    batch_operations: int = counter("{batch}", "Batches looked up or stored.")
    total_requests: int = 0
    """Lookups: the sum of hits, stale hits, misses and lapsed ones, unless a number is given."""
    evictions: int = counter("{entry}", "Entries removed because the cache was full.")
    expirations: int = counter("{entry}", "Entries removed because their time to live was over.")
    invalidations: int = counter(
        "{entry}",
        "Entries revoked, and decisions refused because they were revoked during their evaluation.",
    )
    foreign_revocations: int = counter(
        "{revocation}",
        "Revocations of other caches, in any process, that a tiered cache read from its log.",
    )
    loads: int = counter("{evaluation}", "Evaluations started because of a miss.")
    load_errors: int = counter("{evaluation}", "Failed evaluations of requests that missed.")
    coalesced: int = counter(
        "{request}",
        "Requests that missed and were answered by another request's evaluation or store.",
    )
    overdue: int = counter(
        "{request}",
        "Requests that stopped waiting for another request's evaluation and evaluated themselves.",
    )
    errors: int = counter(
        "{error}",
        "Requests not served or not stored because of bad input or a fault of the backend, and "
        "failed refreshes.",
    )
    flushes: int = counter(
        "{revocation}",
        "Revocations that revoked everything because the log had no room for their scope.",
    )
    unconfirmed_revocations: int = counter(
        "{revocation}",
        "Revocations that no caller awaited and that could not be confirmed.",
    )
    size: int = 0
    """The number of entries; expired ones count until they are cleaned up."""
    max_size: int = 0
    """The maximum number of entries; 0 if there is none."""
    avg_cache_latency_ms: float = 0.0
    """The mean duration of a request to the cache, in milliseconds."""
    avg_opa_latency_ms: float = 0.0
    """The mean of the durations given to `record_opa_latency`, in milliseconds."""
    cache_latency_p50_us: float = 0.0
    """The median duration of a request to the cache, in microseconds."""
    cache_latency_p95_us: float = 0.0
    """The 95th percentile, in microseconds."""
    cache_latency_p99_us: float = 0.0
    """The 99th percentile, in microseconds."""

    def __post_init__(self) -> None:
        total = self.total_requests or self.hits + self.stale_hits + self.misses + self.lapsed
        object.__setattr__(self, "total_requests", total)

    @property
    def cache_latency_ms(self) -> float:
        """The same as `avg_cache_latency_ms`: SARK's name for it."""
        return self.avg_cache_latency_ms

    @property
    def opa_latency_ms(self) -> float:
        """The same as `avg_opa_latency_ms`: SARK's name for it."""
        return self.avg_opa_latency_ms

    @property
    def hit_rate(self) -> float:
        """Hits that are not stale, in percent of the lookups."""
        return self._percentage(self.hits)

    @property
    def effective_hit_rate(self) -> float:
        """Hits, stale ones included, in percent of the lookups."""
        return self._percentage(self.hits + self.stale_hits)

    @property
    def miss_rate(self) -> float:
        """100 minus `hit_rate`."""
        return 100.0 - self.hit_rate

    def _percentage(self, part: int) -> float:
        return 100 * part / self.total_requests if self.total_requests else 0.0

    def to_dict(self) -> dict[str, int | float]:
        """Returns all numbers and rates; rates rounded to 2 decimals, latencies to 6."""
        numbers: dict[str, int | float] = {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }
        numbers["hit_rate"] = round(self.hit_rate, 2)
        numbers["effective_hit_rate"] = round(self.effective_hit_rate, 2)
        numbers["miss_rate"] = round(self.miss_rate, 2)
        return numbers


def counters() -> dict[str, tuple[str, str]]:
    """Returns the unit and the description of each counter, by name."""
    return {
        each.name: (each.metadata["unit"], each.metadata["description"])
        for each in fields(CacheMetrics)
        if each.metadata
    }
