"""`SelectedPolicyCache`: a cache that forwards each request to the cache of its user."""

import asyncio
from bisect import bisect_left
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Final, NamedTuple

from sark_cache._core import arguments
from sark_cache._core.arguments import NOT_GIVEN
from sark_cache._core.coroutines import returns_awaitable
from sark_cache.backends._shared.load_many import Answer, all_ended, answers_of, complete, own_rows
from sark_cache.backends.base import BasePolicyCache
from sark_cache.backends.redis import PolicyCache
from sark_cache.decision import Decision
from sark_cache.errors import InvalidationError
from sark_cache.metrics import LATENCY_BOUNDS_SECONDS, CacheMetrics, LatencyHistogram
from sark_cache.selection.registry import LinkedNullPolicyCache, ProcessCache, open_caches
from sark_cache.selection.selector import Selection, get_selection
from sark_cache.types import (
    BatchEntry,
    BatchLoader,
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
"""Bounds as fine as the buckets of a histogram: 32 per power of two, from 128 ns to 68 s."""


class Stamps(NamedTuple):
    """The stamps of all caches of a process, taken at one moment."""

    of: Mapping[str, tuple[ProcessCache, Any]]
    """Each cache with its stamp, by backend."""


class SelectedPolicyCache(BasePolicyCache):
    """The policy cache of a service that chooses the backend of each user while it runs.

    A request goes to the cache that `create_policy_cache(user_id)` returns at that moment. A batch
    is divided among the caches of its users. The choice takes about a microsecond. A revocation
    reaches every cache of this process. The metrics are the sums of those of all caches.

    A revocation starts at the call. `get`, `get_decision` and `get_or_load` act at the call if
    the chosen cache does. All other methods act when their coroutine is awaited.

    Args:
        selection: The selection to use. None: that of the process, made from the environment.

    Raises:
        ImportError: pydantic-settings is not installed. The message says how to get it.
        SettingsError: A variable of the environment is wrong. The message names the variables.
    """

    backend: ClassVar[str] = "selected"

    def __init__(self, selection: Selection | None = None) -> None:
        self._selection: Final = selection or get_selection()
        self.revalidate_callback: RevalidateCallback | None = None
        self._enabled: bool | None = None
        self._closed = False

    def backends(self) -> list[ProcessCache]:
        """Returns the open caches of this process."""
        return open_caches()

    @property
    def enabled(self) -> bool:
        """True if all caches serve and store decisions. Setting it also affects later caches."""
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
        """Always 0: each backend has its own maximum."""
        return 0

    @property
    def closed(self) -> bool:
        """True after `close` was called."""
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
        """Returns the cached decision for a request, or None."""
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
        """Returns the cached decision for a request as an immutable `Decision`, or None."""
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
        """Stores a decision. Returns True if it was stored."""
        cache = self._for(user_id)
        request = (user_id, action, resource, decision, context, ttl_seconds, sensitivity)
        if not _knows(stamp, cache):
            return False
        names = arguments.read_tags(tags)
        return await cache.set(*request, tags=names, stamp=_of(stamp, cache), policy=policy)

    def stamp(self) -> Stamps:
        """Returns a stamp of this moment, to take before an evaluation, for `set(..., stamp=...)`.

        A decision with a stamp is not stored if it was revoked after that moment.
        """
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
        """Revokes one decision in every cache. Returns True if a cache had stored it."""
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
        """Returns the cached decision. On a miss, runs the loader and stores its decision."""
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

    async def get_or_load_many(
        self,
        requests: Iterable[BatchRequest],
        loader: BatchLoader,
        *,
        ttl_seconds: float | None = None,
        sensitivity: str | None = None,
        tags: Collection[str] = (),
        policy: str = "",
        max_batch: int = arguments.DEFAULT_MAX_BATCH,
    ) -> list[JSONObject]:
        """Returns a decision for each request. On misses, calls the loader for all of them.

        If the users have different caches, it is called for each cache.

        Raises:
            BatchLoadError: The loader raised, or returned no decision for some of the requests.
        """
        rows = own_rows(arguments.read_requests(requests))
        names = arguments.read_tags(tags)
        answers: list[Answer] = [{}] * len(rows)

        async def load(cache: ProcessCache, places: list[int]) -> None:
            found = await answers_of(
                cache.get_or_load_many(
                    [rows[place] for place in places],
                    loader,
                    ttl_seconds=ttl_seconds,
                    sensitivity=sensitivity,
                    tags=names,
                    policy=policy,
                    max_batch=max_batch,
                )
            )
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer

        # Without a row, the arguments are checked by any cache.
        parts: list[tuple[ProcessCache, list[int]]] = (
            self._rows_by_cache(rows) if rows else [(self._for(""), [])]
        )
        if len(parts) == 1:  # in the task of the caller
            await load(*parts[0])
        else:
            await all_ended([asyncio.create_task(load(*part)) for part in parts])
        return complete(answers)

    def _allowed(
        self,
        user_id: str,
        action: str,
        resources: list[Any],
        context: Context | None,
        policy: str,
    ) -> list[bool | None]:
        return self._for(user_id)._allowed(user_id, action, resources, context, policy)  # noqa: SLF001

    async def get_batch(
        self, requests: Iterable[BatchRequest], *, policy: str = ""
    ) -> list[JSONObject | None]:
        """Returns the cached decisions for many requests, in their order. None: a miss."""
        rows = arguments.read_requests(requests)
        decisions: list[JSONObject | None] = [None] * len(rows)
        parts = self._rows_by_cache(rows)
        # Caches that answer at the call come last. So they know of each revocation that came while
        # Redis was queried.
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
        """Stores many decisions. Returns the number of decisions stored."""
        rows = arguments.read_entries(entries)
        names = arguments.read_tags(tags)
        stored = 0
        parts = self._rows_by_cache(rows)
        # Caches that store at the call come first. After the wait for Redis, they could store a
        # decision that was revoked during this wait.
        parts.sort(key=_acts_at_call, reverse=True)
        for cache, places in parts:
            if _knows(stamp, cache):
                part = [rows[place] for place in places]
                of_cache = _of(stamp, cache)
                stored += await cache.set_batch(part, tags=names, stamp=of_cache, policy=policy)
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
        """Revokes all decisions that match every given field, in every cache.

        Returns:
            The number of entries removed.

        Raises:
            InvalidationError: Redis did not confirm the revocation, or this cache is closed.
        """
        return self._any().invalidate(user_id, action, resource, tags=tags, policy=policy)

    @returns_awaitable
    def invalidate_pattern(self, pattern: str) -> Coroutine[object, None, int]:
        """Revokes all decisions whose text matches a Redis glob, in every cache.

        Returns:
            The number of entries removed.

        Raises:
            InvalidationError: Redis did not confirm the revocation, or this cache is closed.
        """
        return self._any().invalidate_pattern(pattern)

    @returns_awaitable
    def clear(self) -> Coroutine[object, None, bool]:
        """Revokes all decisions in every cache. Returns True.

        Raises:
            InvalidationError: Redis did not confirm the revocation, or this cache is closed.
        """
        return self._any().clear()

    async def size(self) -> int:
        """Returns the number of entries in all caches that have not expired."""
        return sum([await cache.size() for cache in open_caches()])

    async def cleanup_expired(self) -> int:
        """Removes expired entries from all caches. Returns the number of entries removed."""
        return sum([await cache.cleanup_expired() for cache in open_caches()])

    def record_opa_latency(self, latency_ms: float) -> None:
        """Records the duration of one evaluation, in milliseconds."""
        (_CLOSED if self._closed else self._any()).record_opa_latency(latency_ms)

    @property
    def metrics(self) -> CacheMetrics:
        """A snapshot of the counters of all caches together."""
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
        """Sets every counter and histogram of every cache to zero."""
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
        """Closes this object. The caches of the process stay open: other callers share them.

        Their idle connections are closed. `close_policy_caches` closes them for good.
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
        """Returns any of the linked caches: each of them revokes in all.

        Raises:
            InvalidationError: This cache is closed.
        """
        if self._closed:
            message = (
                "this cache is closed and cannot revoke: create another one, or use another cache"
            )
            raise InvalidationError(message)
        return self._selection.any_cache()

    def _rows_by_cache(self, rows: Sequence[arguments.Row]) -> list[tuple[ProcessCache, list[int]]]:
        """Returns each cache with the indexes of the rows of its users."""
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
