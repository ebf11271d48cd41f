"""`RustPolicyCache`: authorization decisions cached in this process, in Rust."""

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Sequence
from typing import Any, ClassVar, Final, Literal, TypeGuard, cast

from sark_cache._core import arguments
from sark_cache._core.compiled import Lease, PolicyStore
from sark_cache._core.coroutines import Deferred, returns_awaitable
from sark_cache._core.fault_log import FaultLog
from sark_cache.backends._shared.background_refresh import Refreshes, running_loop
from sark_cache.backends._shared.latency import whole_nanoseconds
from sark_cache.backends._shared.load_many import (
    Answer,
    BatchEvaluator,
    complete,
    lead_many,
    merged,
    own_rows,
)
from sark_cache.backends._shared.loading import refresh
from sark_cache.backends._shared.revalidation import Revalidation
from sark_cache.backends._shared.ttl import warn_of_unknown
from sark_cache.backends.base import BasePolicyCache
from sark_cache.metrics import LATENCY_BOUNDS_SECONDS, CacheMetrics, LatencyHistogram
from sark_cache.types import (
    BatchLoader,
    BatchRequest,
    Context,
    JSONObject,
    RevalidateCallback,
)


class RustPolicyCache(BasePolicyCache, PolicyStore):
    """Authorization decisions cached in this process.

    A hit takes about a microsecond and does not leave the calling thread. A revoked decision is
    never served, and one that was being evaluated when it was revoked is not stored. Any number of
    threads, tasks and event loops may use one cache at the same time. After `os.fork()` parent and
    child have separate copies, and a revocation in one does not affect the other.

    Every method acts when it is called, not when it is awaited. `get` looks up at the call.
    `invalidate` has taken effect when it returns its awaitable, even if no caller awaits it.
    Frameworks treat the methods as coroutine functions: `asyncio.iscoroutinefunction` returns True
    for them. From CPython 3.12 on, `inspect.iscoroutinefunction` does, too.

    Args:
        max_size: The maximum number of entries, at least 1.
        ttl_seconds: The time to live of entries for which `set` gives none, in seconds. Fractions
            are allowed. None: 300.
        enabled: If False, `get` returns None, `set` returns False, and no metric changes. A
            decision that is set or loaded while it is False removes the stored one of its request.
        use_optimized_ttl: If True, a `sensitivity` limits the time to live to its value in
            `OPTIMIZED_TTL`.
        stale_while_revalidate: If True, a hit on a stale entry refreshes it in the background with
            the callback, if one is set.
        max_bytes: The maximum size in bytes: keys, values, 8 bytes per tag and 520 bytes per
            entry. None: no limit.
        eviction: The entry that a full cache evicts first: `"lru"`, the least recently used, or
            `"tiny_lfu"`, the least frequently used entry that is not recent.

    Raises:
        RuntimeError: The compiled module is not available.
        TypeError, ValueError: An argument is wrong. The message names it.
    """

    backend: ClassVar[str] = "native"
    _lease: Lease | None = None
    """The lease without which nothing is served, set before `__init__`. None: it never ends."""

    def __init__(
        self,
        max_size: int | None = BasePolicyCache.DEFAULT_MAX_SIZE,
        ttl_seconds: float | None = BasePolicyCache.DEFAULT_TTL_SECONDS,
        enabled: bool = True,  # noqa: FBT001, FBT002 - the signature is SARK's
        use_optimized_ttl: bool = True,  # noqa: FBT001, FBT002
        *,
        stale_while_revalidate: bool = True,
        max_bytes: int | None = None,
        eviction: Literal["lru", "tiny_lfu"] = "lru",
    ) -> None:
        self._configure(
            *(max_size, ttl_seconds, enabled, use_optimized_ttl, max_bytes, eviction, self._lease)
        )
        self.stale_while_revalidate = stale_while_revalidate
        self._revalidation = Revalidation(None)
        self._faults: Final = FaultLog(self.backend)
        self._refreshes: Final = Refreshes(self._faults.report)

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
        """Returns a decision for each request. On misses, calls the loader once for all of them.

        Every decision is stored separately, and any other request for it waits for this load. A
        decision that another request is loading is waited for, and the loader is not asked for it.
        If a decision is revoked during the load, it is returned and not stored. A hit is returned
        even if it is revoked while the loader runs. Hits cost as much as those of `get_batch`, and
        start no refresh.

        Args:
            requests: `(user_id, action, resource, context)` for each request. The context is
                optional.
            loader: An async function that takes the requests that missed, in their order. It
                returns a list: for each request a decision, or a `Loaded` with the decision, its
                time to live and its tags, or an exception.
            ttl_seconds: The time to live in seconds, as in `get_or_load`.
            sensitivity: A name in `OPTIMIZED_TTL`, which limits the time to live.
            tags: Names by which all these decisions can be revoked.
            policy: The policy that the loader evaluates.
            max_batch: The maximum number of requests in one call of the loader. If more requests
                miss, it is called several times, at most 4 times at once.

        Returns:
            New dicts, in the order of the requests.

        Raises:
            TypeError: An argument has the wrong type. The message names it.
            ValueError: `ttl_seconds` is negative or NaN, or `max_batch` is less than 1.
            BatchLoadError: The loader raised, or returned no decision for some of the requests. It
                has the decisions of all other requests. These are stored.
        """
        rows: list[Any] = [*(requests if _is_list(requests) else arguments.read_requests(requests))]
        evaluator = BatchEvaluator(self, loader, max_batch)
        names = arguments.read_tags(tags)
        arguments.read_ttl(ttl_seconds)
        arguments.check_optional("sensitivity", sensitivity)
        found = await super().get_batch(rows, policy=policy)  # not one of a subclass
        if None not in found:
            return cast("list[JSONObject]", found)
        missed = [place for place, decision in enumerate(found) if decision is None]
        misses = own_rows(rows[place] for place in missed)
        answers: list[Answer] = []
        for window in evaluator.windows(range(len(missed))):
            part = [misses[place] for place in window]
            loaders = [evaluator.loader_of(row) for row in part]
            loads = self._begin_loads(part, loaders, ttl_seconds, sensitivity, names, policy)
            serves, failed = self.enabled and not self.closed, self._count_load_error
            answers += await lead_many(evaluator, part, loads, failed, serves=serves)
        return complete(merged(found, missed, answers))

    @property
    def metrics(self) -> CacheMetrics:
        """A snapshot of the counters. Takes some microseconds."""
        return CacheMetrics(**self._snapshot())

    def latency_histogram(
        self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS
    ) -> LatencyHistogram:
        """Returns the durations of those requests to the cache that were measured.

        The first `get` or `get_or_load` is measured, and then one in 64. Each request of a batch
        counts with its share of the batch. The wait for an evaluation does not count. Durations
        above 69 s count as 69 s. The mean is `avg_cache_latency_ms`. Takes some microseconds.

        Args:
            bounds: The bounds in seconds, in increasing order.

        Raises:
            ValueError: The bounds are not in increasing order.
        """
        rising = tuple(bounds)
        below, seconds, count = self._request_distribution(whole_nanoseconds(rising))
        return LatencyHistogram(rising, tuple(below), seconds, count)

    def evaluation_histogram(
        self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS
    ) -> LatencyHistogram:
        """Returns the durations of evaluations, as given to `record_opa_latency`.

        The mean is `avg_opa_latency_ms`. Arguments and errors are those of `latency_histogram`.
        """
        rising = tuple(bounds)
        below, seconds, count = self._evaluation_distribution(whole_nanoseconds(rising))
        return LatencyHistogram(rising, tuple(below), seconds, count)

    @property
    def revalidate_callback(self) -> RevalidateCallback | None:
        """The callback that refreshes stale entries. It can be set. None: nothing is refreshed."""
        return self._revalidation.callback

    @revalidate_callback.setter
    def revalidate_callback(self, callback: RevalidateCallback | None) -> None:
        # `SelectedPolicyCache` sets it at each request, and reading its signature costs 20 µs.
        if callback is not self._revalidation.callback:
            self._revalidation = Revalidation(callback)

    @returns_awaitable
    def close(self) -> Coroutine[object, None, None]:
        """Closes the cache: removes all entries and ends background refreshes."""
        closed = super().close()
        refreshes = self._refreshes.stop()
        return Deferred(lambda: _all_done(closed, refreshes)) if refreshes else closed

    async def health_check(self) -> bool:
        """Returns True until the cache is closed."""
        return not self.closed

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(max_size={self.max_size}, ttl_seconds={self.ttl_seconds}, "
            f"enabled={self.enabled})"
        )

    def _allowed(
        self,
        user_id: str,
        action: str,
        resources: list[Any],
        context: Context | None,
        policy: str,
    ) -> list[bool | None]:
        # Not that of `BasePolicyCache`, which knows nothing.
        return PolicyStore._allowed(self, user_id, action, resources, context, policy)  # noqa: SLF001

    def _refresh_ahead(
        self,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None,
        sensitivity: str,
        policy: str,
    ) -> bool:
        """Starts a refresh of a stale entry, unless its refresh is running.

        Returns False if no refresh may run: if there is no event loop or no callback for the
        policy, or if `stale_while_revalidate` is False.
        """
        if running_loop() is None or not self.stale_while_revalidate:
            return False
        callback = self._revalidation.under(policy)
        if callback is None:
            return False
        load = self._lead_refresh(callback, user_id, action, resource, context, sensitivity, policy)
        if load is not None:
            self._refreshes.begin(refresh(load))
        return True

    def _revokes_everything(self) -> None:
        self._faults.revokes_everything()

    def _unknown_sensitivity(self, sensitivity: str) -> None:
        warn_of_unknown(sensitivity, self.OPTIMIZED_TTL)

    def _report(self, operation: str, reason: str) -> None:
        self._faults.report(operation, reason)


def _is_list(requests: object) -> TypeGuard[list[Any]]:
    """Returns whether the requests are a list, whose rows the compiled module checks."""
    return type(requests) is list


async def _all_done(
    closed: Coroutine[object, None, None], refreshes: set[asyncio.Task[None]]
) -> None:
    await Refreshes.ended(refreshes)
    await closed
