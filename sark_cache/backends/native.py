"""`RustPolicyCache`: authorization decisions cached in this process, in Rust."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import ClassVar, Final, Literal

from sark_cache._core.compiled import PolicyStore
from sark_cache._core.coroutines import Deferred, returns_awaitable
from sark_cache._core.fault_log import FaultLog
from sark_cache.backends._shared.background_refresh import Refreshes, running_loop
from sark_cache.backends._shared.latency import whole_nanoseconds
from sark_cache.backends._shared.loading import refresh
from sark_cache.backends._shared.revalidation import Revalidation
from sark_cache.backends._shared.ttl import warn_of_unknown
from sark_cache.backends.base import BasePolicyCache
from sark_cache.metrics import LATENCY_BOUNDS_SECONDS, CacheMetrics, LatencyHistogram
from sark_cache.types import Context, RevalidateCallback


class RustPolicyCache(BasePolicyCache, PolicyStore):
    """Authorization decisions cached in this process.

    A hit takes about a microsecond and never leaves the calling thread; a decision that was
    revoked, or that was being evaluated when it was revoked, is never served. One cache may be
    used from any number of threads, tasks and event loops at once. After `os.fork()` parent and
    child each have their own copy, and revocations in one are unknown to the other.

    Every method acts when it is called, not when it is awaited: `get` looks up at the call, and
    `invalidate` has taken effect when it returns its awaitable, even if nobody awaits that.
    Frameworks take the methods for coroutine functions: `asyncio.iscoroutinefunction` says so, and
    `inspect.iscoroutinefunction` from CPython 3.12 on.

    Args:
        max_size: The most entries, at least 1.
        ttl_seconds: How long an entry lives unless `set` says otherwise, in seconds; fractions
            are allowed.
        enabled: If False, `get` returns None, `set` returns False and no metric moves. A decision
            that is set or loaded then still ends the one that is stored for its request.
        use_optimized_ttl: Whether a `sensitivity` shortens the time to live to the one that it has
            in `OPTIMIZED_TTL`.
        stale_while_revalidate: Whether hits near their end are refreshed in the background by
            the callback, if one is set.
        max_bytes: The most bytes, counting keys, values, 8 bytes a tag and 420 bytes an entry;
            None: any.
        eviction: What leaves a full cache first: `"lru"`, the least recently used, or
            `"tiny_lfu"`, the least frequently used of those that are not recent.

    Raises:
        RuntimeError: The compiled module is not available.
        TypeError, ValueError: An argument that cannot be used; the message names it.
    """

    backend: ClassVar[str] = "native"

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
        self._configure(max_size, ttl_seconds, enabled, use_optimized_ttl, max_bytes, eviction)
        self.stale_while_revalidate = stale_while_revalidate
        self._revalidation = Revalidation(None)
        self._faults: Final = FaultLog("native")
        self._refreshes: Final = Refreshes(self._faults.report)

    @property
    def metrics(self) -> CacheMetrics:
        """What the cache counted: a snapshot."""
        return CacheMetrics(**self._snapshot())

    def latency_histogram(
        self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS
    ) -> LatencyHistogram:
        """How long requests took: one in 64, the first one included, of `get` and `get_or_load`.

        Its mean is `avg_cache_latency_ms`. A request of a batch counts as its share of the batch;
        what a request waited for an evaluation does not count. Anything slower than 69 s counts as
        that. Costs some microseconds.

        Args:
            bounds: Seconds, rising.

        Raises:
            ValueError: Bounds that do not rise.
        """
        rising = tuple(bounds)
        below, seconds, count = self._request_distribution(whole_nanoseconds(rising))
        return LatencyHistogram(rising, tuple(below), seconds, count)

    def evaluation_histogram(
        self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS
    ) -> LatencyHistogram:
        """How long evaluations took, each that `record_opa_latency` was told.

        Its mean is `avg_opa_latency_ms`; otherwise as `latency_histogram`.
        """
        rising = tuple(bounds)
        below, seconds, count = self._evaluation_distribution(whole_nanoseconds(rising))
        return LatencyHistogram(rising, tuple(below), seconds, count)

    @property
    def revalidate_callback(self) -> RevalidateCallback | None:
        """What `set_revalidate_callback` set; settable."""
        return self._revalidation.callback

    @revalidate_callback.setter
    def revalidate_callback(self, callback: RevalidateCallback | None) -> None:
        # `SelectedPolicyCache` sets it at each request, and to read its signature costs 20 µs.
        if callback is not self._revalidation.callback:
            self._revalidation = Revalidation(callback)

    @returns_awaitable
    def close(self) -> Coroutine[object, None, None]:
        """Stops serving, drops all entries and ends what runs in the background."""
        closed = super().close()
        refreshes = self._refreshes.stop()
        return Deferred(lambda: _all_done(closed, refreshes)) if refreshes else closed

    async def health_check(self) -> bool:
        """Whether the cache can answer: in one process that is until it is closed."""
        return not self.closed

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(max_size={self.max_size}, ttl_seconds={self.ttl_seconds}, "
            f"enabled={self.enabled})"
        )

    def _refresh_ahead(
        self,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None,
        sensitivity: str,
        policy: str,
    ) -> bool:
        """Begins to refresh an entry near its end, unless that is under way; False: not wanted."""
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


async def _all_done(
    closed: Coroutine[object, None, None], refreshes: set[asyncio.Task[None]]
) -> None:
    await Refreshes.ended(refreshes)
    await closed
