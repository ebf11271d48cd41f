"""The types of the public interface: what every policy cache can do, and what it counts."""

from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import asdict, dataclass
from itertools import islice
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, TypeAlias, runtime_checkable

from sark_cache._core.arguments import MAX_TAGS, NOT_GIVEN
from sark_cache.decision import Decision

JSONObject: TypeAlias = dict[str, Any]
"""A JSON object: str keys; str, int, float, bool, None, list and dict values, 64 levels deep."""

Context: TypeAlias = Mapping[str, Any]
"""What a decision depends on besides user, action and resource: a JSON object."""

BatchRequest: TypeAlias = tuple[str, str, str] | tuple[str, str, str, Context | None]
"""`(user_id, action, resource, context)`; the context may be left out."""

BatchEntry: TypeAlias = (
    tuple[str, str, str, Mapping[str, Any]]
    | tuple[str, str, str, Mapping[str, Any], Context | None]
    | tuple[str, str, str, Mapping[str, Any], Context | None, float | None]
)
"""`(user_id, action, resource, decision, context, ttl_seconds)`; the last two may be left out."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a loader returns when it decides late how its decision is stored.

    Args:
        decision: The decision, as a loader could return it alone.
        ttl_seconds: How long it lives, in seconds; 0 stores nothing. None: as `get_or_load` was
            told, or as the cache says. A sensitivity can shorten it.
        tags: Names to revoke it by, besides those that `get_or_load` was given.
    """

    decision: Mapping[str, Any]
    ttl_seconds: float | None = None
    tags: Collection[str] = ()

    def __post_init__(self) -> None:
        # An iterator is read here: it would be empty when it is read again. What its tags are is
        # checked where they are stored.
        if isinstance(self.tags, Iterator):
            object.__setattr__(self, "tags", tuple(islice(self.tags, MAX_TAGS + 1)))


Loader: TypeAlias = Callable[[], Awaitable[Mapping[str, Any] | Loaded]]
"""Evaluates one request: an async function without arguments that returns the decision."""

RevalidateCallback: TypeAlias = Callable[
    [str, str, str, Context | None], Awaitable[Mapping[str, Any] | Loaded | None]
]
"""Evaluates one request again: `(user_id, action, resource, context) -> decision`.

None means that there is nothing new: the entry stays until its time to live is over.
"""


LATENCY_BOUNDS_SECONDS: tuple[float, ...] = tuple(2**power / 1e9 for power in range(8, 31))
"""The bounds that a `LatencyHistogram` has unless told otherwise: 256 ns to 1.07 s, each twice the
one before. They lie between the buckets that durations are recorded in, so that every duration is
counted on the right side."""


@dataclass(frozen=True, slots=True)
class LatencyHistogram:
    """How many durations were below each of some bounds, at one moment.

    Durations are recorded in buckets, 32 per power of two of nanoseconds. A bucket counts as below
    a bound when all of it is: a duration just below a bound that lies within a bucket counts as
    above it, by up to 3.2 % of the bound. None does for bounds that are nanoseconds times a power
    of two, as those of `LATENCY_BOUNDS_SECONDS` are.
    """

    bounds: tuple[float, ...]
    """Seconds, rising."""
    counts: tuple[int, ...]
    """For each bound, how many durations were below it: cumulative, so they never fall."""
    sum_seconds: float
    count: int
    """How many durations there were, however long."""


@dataclass(frozen=True, slots=True)
class CacheMetrics:
    """What a cache counted since it was made, or since `reset_metrics()`.

    A snapshot: it does not change afterwards. Percentages are 0 to 100; latencies are measured on
    one request in 64 (the first one included), percentiles to within 3.2 %.
    """

    hits: int = 0
    misses: int = 0
    stale_hits: int = 0
    """Hits in the last part of their time to live, served while they are refreshed."""
    revalidations: int = 0
    """Refreshes begun in the background."""
    batch_operations: int = 0
    total_requests: int = 0
    """Look-ups: hits, stale hits and misses, unless it is given."""
    evictions: int = 0
    """Entries dropped because the cache was full."""
    expirations: int = 0
    """Expired entries removed."""
    invalidations: int = 0
    """Entries revoked, and decisions refused because they were revoked while being evaluated."""
    loads: int = 0
    load_errors: int = 0
    coalesced: int = 0
    """Requests that missed and were answered by what another one loaded or stored."""
    overdue: int = 0
    """Requests that waited too long for another one's load, and evaluated for themselves."""
    errors: int = 0
    """Requests answered with a miss or not stored because of bad input or a fault, and refreshes
    that failed."""
    unconfirmed_revocations: int = 0
    """Revocations that nobody awaited and that could not be confirmed."""
    flushes: int = 0
    """Revocations that revoked everything, because more of them were remembered than there is room
    for."""
    size: int = 0
    """Entries held; those that expired count until they are cleaned up."""
    max_size: int = 0
    avg_cache_latency_ms: float = 0.0
    avg_opa_latency_ms: float = 0.0
    """The mean of what `record_opa_latency` was told, in milliseconds."""
    cache_latency_p50_us: float = 0.0
    cache_latency_p95_us: float = 0.0
    cache_latency_p99_us: float = 0.0

    def __post_init__(self) -> None:
        total = self.total_requests or self.hits + self.stale_hits + self.misses
        object.__setattr__(self, "total_requests", total)

    @property
    def cache_latency_ms(self) -> float:
        """`avg_cache_latency_ms`, under the name that SARK has for it."""
        return self.avg_cache_latency_ms

    @property
    def opa_latency_ms(self) -> float:
        """`avg_opa_latency_ms`, under the name that SARK has for it."""
        return self.avg_opa_latency_ms

    @property
    def hit_rate(self) -> float:
        """Fresh hits per hundred look-ups."""
        return self._percentage(self.hits)

    @property
    def effective_hit_rate(self) -> float:
        """Hits, fresh or stale, per hundred look-ups."""
        return self._percentage(self.hits + self.stale_hits)

    @property
    def miss_rate(self) -> float:
        """100 less the hit rate."""
        return 100.0 - self.hit_rate

    def _percentage(self, part: int) -> float:
        return 100 * part / self.total_requests if self.total_requests else 0.0

    def to_dict(self) -> dict[str, int | float]:
        """Everything, derived numbers included; floats rounded (rates 2, latencies 6 decimals)."""
        numbers: dict[str, int | float] = {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }
        numbers["hit_rate"] = round(self.hit_rate, 2)
        numbers["effective_hit_rate"] = round(self.effective_hit_rate, 2)
        numbers["miss_rate"] = round(self.miss_rate, 2)
        return numbers


@runtime_checkable
class PolicyCacheProtocol(Protocol):
    """The one interface of all policy caches; `RustPolicyCache` says what each method does.

    What returns a coroutine here may be an `async def`, or a function that returns one.
    """

    backend: ClassVar[str]
    """What holds the decisions: "native", "redis", or "none" for a cache that never hits."""

    @property
    def enabled(self) -> bool:
        """Whether the cache serves and stores; settable."""
        ...

    @enabled.setter
    def enabled(self, enabled: bool) -> None: ...

    @property
    def max_size(self) -> int:
        """The most entries; 0 where no number of them is the bound."""
        ...

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        ...

    @property
    def metrics(self) -> CacheMetrics:
        """What the cache counted."""
        ...

    def get(
        self,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None = None,
        sensitivity: str | None = None,
        *,
        policy: str = "",
    ) -> Coroutine[object, None, JSONObject | None]:
        """The cached decision for a request, or None."""
        ...

    def get_decision(
        self,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None = None,
        sensitivity: str | None = None,
        *,
        policy: str = "",
    ) -> Coroutine[object, None, Decision | None]:
        """The cached decision for a request as one that cannot be changed, or None."""
        ...

    def set(
        self,
        user_id: str,
        action: str,
        resource: str,
        decision: Mapping[str, Any],
        context: Context | None = None,
        ttl_seconds: float | None = None,
        sensitivity: str | None = None,
        *,
        tags: Collection[str] = (),
        stamp: Any | None = None,  # noqa: ANN401 - every backend has its own
        policy: str = "",
    ) -> Coroutine[object, None, bool]:
        """Stores a decision; True if it was stored."""
        ...

    def stamp(self) -> Any:  # noqa: ANN401 - every backend has its own
        """The moment before an evaluation, for `set(..., stamp=...)`."""
        ...

    def delete(
        self,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None = None,
        *,
        policy: str | None = None,
    ) -> Coroutine[object, None, bool]:
        """Revokes one decision; True if it was there."""
        ...

    def get_or_load(
        self,
        user_id: str,
        action: str,
        resource: str,
        loader: Loader,
        context: Context | None = None,
        *,
        ttl_seconds: float | None = None,
        sensitivity: str | None = None,
        tags: Collection[str] = (),
        policy: str = "",
    ) -> Coroutine[object, None, JSONObject]:
        """The cached decision, or what the loader brings, which is then stored."""
        ...

    def get_batch(
        self, requests: Iterable[BatchRequest], *, policy: str = ""
    ) -> Coroutine[object, None, list[JSONObject | None]]:
        """The decisions for many requests, in their order."""
        ...

    def set_batch(
        self,
        entries: Iterable[BatchEntry],
        *,
        tags: Collection[str] = (),
        stamp: Any | None = None,  # noqa: ANN401 - as in set
        policy: str = "",
    ) -> Coroutine[object, None, int]:
        """Stores many decisions; returns how many were stored."""
        ...

    def invalidate(
        self,
        user_id: str | None = None,
        action: str | None = None,
        resource: str | None = None,
        *,
        tags: Collection[str] | None = NOT_GIVEN,
        policy: str | None = None,
    ) -> Coroutine[object, None, int]:
        """Revokes what matches all given fields; returns how many entries died."""
        ...

    def invalidate_pattern(self, pattern: str) -> Coroutine[object, None, int]:
        """Revokes what matches a Redis glob over the text form of the key."""
        ...

    def clear(self) -> Coroutine[object, None, bool]:
        """Revokes everything."""
        ...

    def clear_all(self) -> Coroutine[object, None, bool]:
        """The same as `clear`."""
        ...

    def size(self) -> Coroutine[object, None, int]:
        """The number of live entries."""
        ...

    def get_cache_size(self) -> Coroutine[object, None, int]:
        """The same as `size`."""
        ...

    def cleanup_expired(self) -> Coroutine[object, None, int]:
        """Removes expired entries; returns how many."""
        ...

    def preload_cache(
        self,
        preload_data: Iterable[BatchEntry],
        *,
        tags: Collection[str] = (),
        stamp: Any | None = None,  # noqa: ANN401 - as in set
        policy: str = "",
    ) -> Coroutine[object, None, int]:
        """Stores many decisions before the first request; returns how many were stored."""
        ...

    def set_revalidate_callback(self, callback: RevalidateCallback) -> None:
        """Sets what evaluates anew when an entry nears its end."""
        ...

    def record_opa_latency(self, latency_ms: float) -> None:
        """Adds the duration of one evaluation, in milliseconds."""
        ...

    def get_metrics(self) -> dict[str, int | float]:
        """What the cache counted, as a dict."""
        ...

    def latency_histogram(
        self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS
    ) -> LatencyHistogram:
        """How long requests to the cache took; those that were measured."""
        ...

    def evaluation_histogram(
        self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS
    ) -> LatencyHistogram:
        """How long evaluations took, as `record_opa_latency` was told."""
        ...

    def reset_metrics(self) -> None:
        """Sets every counter and histogram to zero."""
        ...

    def health_check(self) -> Coroutine[object, None, bool]:
        """Whether the cache can answer."""
        ...

    def close(self) -> Coroutine[object, None, None]:
        """Ends the cache."""
        ...

    async def __aenter__(self) -> Self:
        """The cache, which is closed at the end of the block."""
        ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
