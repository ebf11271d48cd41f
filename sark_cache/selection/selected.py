"""`SelectedPolicyCache`: one cache to hold, which asks for each user the one that is theirs."""

from bisect import bisect_left
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Final, NamedTuple

from sark_cache._core import arguments
from sark_cache._core.arguments import NOT_GIVEN
from sark_cache._core.coroutines import returns_awaitable
from sark_cache.backends.base import BasePolicyCache
from sark_cache.backends.redis import PolicyCache
from sark_cache.decision import Decision
from sark_cache.errors import InvalidationError
from sark_cache.metrics import LATENCY_BOUNDS_SECONDS, CacheMetrics, LatencyHistogram
from sark_cache.selection.registry import LinkedNullPolicyCache, ProcessCache, open_caches
from sark_cache.selection.selector import Selection, get_selection
from sark_cache.types import (
    BatchEntry,
    BatchRequest,
    Context,
    JSONObject,
    Loader,
    RevalidateCallback,
)

_CLOSED: Final = LinkedNullPolicyCache()
"""The cache that answers after `close`."""
_CLOSED.enabled = False
_FINE: Final = tuple((32 + part) * 2**power / 1e9 for power in range(2, 31) for part in range(32))
"""Bounds as fine as the buckets of a histogram: 32 to a power of two, from 128 ns to 68 s."""


class Stamps(NamedTuple):
    """A moment in the life of every cache of a process: each, with a stamp of its own."""

    of: Mapping[str, tuple[ProcessCache, Any]]


class SelectedPolicyCache(BasePolicyCache):
    """The policy cache of a service whose backend is chosen user by user, while it runs.

    Requests go where `create_policy_cache(user_id)` says at that moment, batches in parts. That
    adds about a microsecond. Revocations reach every cache that this process uses; metrics are
    those of all of them together. What reads one decision returns the awaitable of the chosen
    cache. A revocation is on its way when it is called; all else acts when it is awaited.

    Args:
        selection: Whose choice to follow; None: the one that the environment settles.

    Raises:
        SettingsError: The environment holds wrong settings; the message names the variables.
    """

    backend: ClassVar[str] = "selected"

    def __init__(self, selection: Selection | None = None) -> None:
        self._selection: Final = selection or get_selection()
        self.revalidate_callback: RevalidateCallback | None = None
        self._enabled: bool | None = None
        self._closed = False

    def backends(self) -> list[ProcessCache]:
        """The caches that this process uses so far."""
        return open_caches()

    @property
    def enabled(self) -> bool:
        """True if all caches serve and store. Setting it applies to all, also to later ones."""
        if self._enabled is not None:
            return self._enabled
        return all(cache.enabled for cache in open_caches())

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled = arguments.check_boolean("enabled", enabled)
        for cache in open_caches():
            cache.enabled = enabled

    @property
    def max_size(self) -> int:
        """0: each backend has a bound of its own."""
        return 0

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

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
        cache = self._for(user_id)
        return cache.get(user_id, action, resource, context, sensitivity, policy=policy)

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
        cache = self._for(user_id)
        return cache.get_decision(user_id, action, resource, context, sensitivity, policy=policy)

    async def set(
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
        stamp: Stamps | None = None,
        policy: str = "",
    ) -> bool:
        """Stores a decision; True if it was stored."""
        cache = self._for(user_id)
        request = (user_id, action, resource, decision, context, ttl_seconds, sensitivity)
        if not _knows(stamp, cache):
            return False
        names = arguments.read_tags(tags)
        return await cache.set(*request, tags=names, stamp=_of(stamp, cache), policy=policy)

    def stamp(self) -> Stamps:
        """The moment before an evaluation, for `set(..., stamp=...)`."""
        return Stamps({cache.backend: (cache, cache.stamp()) for cache in open_caches()})

    @returns_awaitable
    def delete(
        self,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None = None,
        *,
        policy: str | None = None,
    ) -> Coroutine[object, None, bool]:
        """Revokes one decision in every cache; True if one of them had it."""
        return self._any().delete(user_id, action, resource, context, policy=policy)

    @returns_awaitable
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
        return self._for(user_id).get_or_load(
            user_id,
            action,
            resource,
            loader,
            context,
            ttl_seconds=ttl_seconds,
            sensitivity=sensitivity,
            tags=tags,
            policy=policy,
        )

    async def get_batch(
        self, requests: Iterable[BatchRequest], *, policy: str = ""
    ) -> list[JSONObject | None]:
        """The decisions for many requests, in their order."""
        rows = arguments.read_requests(requests)
        decisions: list[JSONObject | None] = [None] * len(rows)
        parts = self._rows_by_cache(rows)
        # What needs no waiting for comes last: it knows what was revoked while others were asked.
        parts.sort(key=_acts_at_call)
        for cache, places in parts:
            found = await cache.get_batch([rows[place] for place in places], policy=policy)
            for place, decision in zip(places, found, strict=True):
                decisions[place] = decision
        return decisions

    async def set_batch(
        self,
        entries: Iterable[BatchEntry],
        *,
        tags: Collection[str] = (),
        stamp: Stamps | None = None,
        policy: str = "",
    ) -> int:
        """Stores many decisions; returns how many were stored."""
        rows = arguments.read_entries(entries)
        names = arguments.read_tags(tags)
        stored = 0
        parts = self._rows_by_cache(rows)
        # What needs no waiting for comes first: later, it would store what was revoked until then.
        parts.sort(key=_acts_at_call, reverse=True)
        for cache, places in parts:
            if _knows(stamp, cache):
                part = [rows[place] for place in places]
                its = _of(stamp, cache)
                stored += await cache.set_batch(part, tags=names, stamp=its, policy=policy)
        return stored

    @returns_awaitable
    def invalidate(
        self,
        user_id: str | None = None,
        action: str | None = None,
        resource: str | None = None,
        *,
        tags: Collection[str] | None = NOT_GIVEN,
        policy: str | None = None,
    ) -> Coroutine[object, None, int]:
        """Revokes what matches all given fields in every cache; how many entries died.

        Raises:
            InvalidationError: Redis cannot confirm it.
        """
        return self._any().invalidate(user_id, action, resource, tags=tags, policy=policy)

    @returns_awaitable
    def invalidate_pattern(self, pattern: str) -> Coroutine[object, None, int]:
        """Revokes what matches a Redis glob over the text of the key, in every cache."""
        return self._any().invalidate_pattern(pattern)

    @returns_awaitable
    def clear(self) -> Coroutine[object, None, bool]:
        """Revokes everything in every cache."""
        return self._any().clear()

    async def size(self) -> int:
        """The number of live entries in all caches."""
        return sum([await cache.size() for cache in open_caches()])

    async def cleanup_expired(self) -> int:
        """Removes expired entries from all caches; how many."""
        return sum([await cache.cleanup_expired() for cache in open_caches()])

    def record_opa_latency(self, latency_ms: float) -> None:
        """Adds the duration of one evaluation, in milliseconds."""
        (_CLOSED if self._closed else self._any()).record_opa_latency(latency_ms)

    @property
    def metrics(self) -> CacheMetrics:
        """The metrics of all caches together: a snapshot."""
        parts = [cache.metrics for cache in open_caches()]
        requests = self.latency_histogram(_FINE)
        evaluations = self.evaluation_histogram(())
        counted = {
            field.name: sum(getattr(part, field.name) for part in parts)
            for field in fields(CacheMetrics)
            if field.type is int or field.type == "int"
        }
        return CacheMetrics(
            **counted,
            avg_cache_latency_ms=_mean_ms(requests),
            avg_opa_latency_ms=_mean_ms(evaluations),
            cache_latency_p50_us=_percentile_us(requests, 0.50),
            cache_latency_p95_us=_percentile_us(requests, 0.95),
            cache_latency_p99_us=_percentile_us(requests, 0.99),
        )

    def reset_metrics(self) -> None:
        """Sets every counter of every cache to zero."""
        for cache in open_caches():
            cache.reset_metrics()

    def latency_histogram(
        self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS
    ) -> LatencyHistogram:
        """Returns the durations of the measured requests to the caches."""
        rising = tuple(bounds)
        return _sum([cache.latency_histogram(rising) for cache in open_caches()], rising)

    def evaluation_histogram(
        self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS
    ) -> LatencyHistogram:
        """Returns the durations of evaluations, as given to `record_opa_latency`."""
        rising = tuple(bounds)
        return _sum([cache.evaluation_histogram(rising) for cache in open_caches()], rising)

    async def health_check(self) -> bool:
        """Returns True if every cache of this process can answer."""
        if self._closed:
            return False
        return all([await cache.health_check() for cache in open_caches()])

    async def close(self) -> None:
        """Ends this object alone: the caches of the process live on, for others who use them.

        What is idle in them is dropped. `close_policy_caches` ends them.
        """
        self._closed = True
        for cache in open_caches():
            await cache.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(cache.backend for cache in open_caches())})"

    def _for(self, user_id: str) -> ProcessCache:
        if self._closed:
            return _CLOSED
        cache = self._selection.cache_for(user_id)
        if self.revalidate_callback is not None:
            cache.set_revalidate_callback(self.revalidate_callback)
        if self._enabled is not None:
            cache.enabled = self._enabled
        return cache

    def _any(self) -> ProcessCache:
        """One of the linked caches, whichever: what it revokes, all revoke."""
        if self._closed:
            message = "this cache is closed, so nothing can be revoked through it; make another one"
            raise InvalidationError(message)
        return self._selection.any_cache()

    def _rows_by_cache(self, rows: Sequence[arguments.Row]) -> list[tuple[ProcessCache, list[int]]]:
        """The places of the rows that each cache answers for."""
        parts: dict[str, tuple[ProcessCache, list[int]]] = {}
        for place, row in enumerate(rows):
            cache = self._for(row[0])
            parts.setdefault(cache.backend, (cache, []))[1].append(place)
        return list(parts.values())


def _acts_at_call(part: tuple[ProcessCache, list[int]]) -> bool:
    return not isinstance(part[0], PolicyCache)


def _knows(stamp: Stamps | None, cache: ProcessCache) -> bool:
    """Returns True without a stamp, or if the stamp was taken while this cache was in use."""
    return stamp is None or stamp.of.get(cache.backend, (None, None))[0] is cache


def _of(stamp: Stamps | None, cache: ProcessCache) -> Any:  # noqa: ANN401 - every backend has its own
    return None if stamp is None else stamp.of[cache.backend][1]


def _sum(histograms: Sequence[LatencyHistogram], bounds: Sequence[float]) -> LatencyHistogram:
    return LatencyHistogram(
        bounds=tuple(bounds),
        counts=tuple(
            sum(histogram.counts[at] for histogram in histograms) for at in range(len(bounds))
        ),
        sum_seconds=sum(histogram.sum_seconds for histogram in histograms),
        count=sum(histogram.count for histogram in histograms),
    )


def _mean_ms(histogram: LatencyHistogram) -> float:
    return histogram.sum_seconds / histogram.count * 1e3 if histogram.count else 0.0


def _percentile_us(histogram: LatencyHistogram, fraction: float) -> float:
    if not histogram.count:
        return 0.0
    rank = max(1, round(fraction * histogram.count))
    at = min(bisect_left(histogram.counts, rank), len(histogram.bounds) - 1)
    return histogram.bounds[at] * 1e6
