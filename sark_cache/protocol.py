"""`PolicyCacheProtocol`: the interface of every policy cache."""

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

from sark_cache._core import arguments
from sark_cache._core.arguments import NOT_GIVEN
from sark_cache.decision import Decision
from sark_cache.metrics import LATENCY_BOUNDS_SECONDS, CacheMetrics, LatencyHistogram
from sark_cache.types import (
    BatchEntry,
    BatchLoader,
    BatchRequest,
    Context,
    JSONObject,
    Loader,
    RevalidateCallback,
)

T = TypeVar("T")


@runtime_checkable
class PolicyCacheProtocol(Protocol):
    """The interface of all policy caches; `RustPolicyCache` documents each method in full.

    A method that returns a coroutine may be an `async def`, or a function that returns one.
    """

    backend: ClassVar[str]
    """The name of the backend: "native", "tiered" or "redis".

    "none" is a cache that never hits, and "selected" is a `SelectedPolicyCache`.
    """

    @property
    def enabled(self) -> bool:
        """True if the cache serves and stores decisions. It can be set.

        A decision that is set or loaded while the value is False removes the stored decision of
        its request. So the cache never serves the older decision after it is enabled again.
        """
        ...

    @enabled.setter
    def enabled(self, enabled: bool) -> None: ...

    @property
    def max_size(self) -> int:
        """The maximum number of entries; 0 if their number has no limit."""
        ...

    @property
    def closed(self) -> bool:
        """True after `close` was called."""
        ...

    @property
    def metrics(self) -> CacheMetrics:
        """A snapshot of the counters."""
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
        """Returns the cached decision for a request as a new dict, or None."""
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
        """Returns the cached decision for a request as an immutable `Decision`, or None."""
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
        """Stores a decision. Returns True if it was stored."""
        ...

    def stamp(self) -> Any:  # noqa: ANN401 - every backend has its own
        """Returns a stamp of this moment, to take before an evaluation, for `set(..., stamp=...)`.

        A decision with a stamp is not stored if it was revoked after that moment.
        """
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
        """Revokes the decision for a request. Returns True if one was cached."""
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
        """Returns the cached decision. On a miss, runs the loader and stores its decision."""
        ...

    def get_or_load_many(
        self,
        requests: Iterable[BatchRequest],
        loader: BatchLoader,
        *,
        ttl_seconds: float | None = None,
        sensitivity: str | None = None,
        tags: Collection[str] = (),
        policy: str = "",
        max_batch: int = arguments.DEFAULT_MAX_BATCH,
    ) -> Coroutine[object, None, list[JSONObject]]:
        """Returns a decision for each request. On misses, calls the loader for all of them.

        Raises:
            BatchLoadError: The loader raised, or returned no decision for some of the requests.
        """
        ...

    def filter_allowed(
        self,
        user_id: str,
        action: str,
        resources: Iterable[T] | AsyncIterable[T],
        loader: BatchLoader,
        context: Context | None = None,
        *,
        key: Callable[[T], str] | None = None,
        ttl_seconds: float | None = None,
        sensitivity: str | None = None,
        tags: Collection[str] = (),
        policy: str = "",
        max_batch: int = arguments.DEFAULT_MAX_BATCH,
    ) -> Coroutine[object, None, list[T]]:
        """Returns the resources on which the user may perform the action, in their order."""
        ...

    def filter_allowed_stream(
        self,
        user_id: str,
        action: str,
        resources: Iterable[T] | AsyncIterable[T],
        loader: BatchLoader,
        context: Context | None = None,
        *,
        key: Callable[[T], str] | None = None,
        ttl_seconds: float | None = None,
        sensitivity: str | None = None,
        tags: Collection[str] = (),
        policy: str = "",
        max_batch: int = arguments.DEFAULT_MAX_BATCH,
    ) -> AsyncGenerator[T, None]:
        """Yields what `filter_allowed` returns. Takes the memory of a part of the resources."""
        ...

    def get_batch(
        self, requests: Iterable[BatchRequest], *, policy: str = ""
    ) -> Coroutine[object, None, list[JSONObject | None]]:
        """Returns the cached decisions for many requests, in their order. None: a miss."""
        ...

    def set_batch(
        self,
        entries: Iterable[BatchEntry],
        *,
        tags: Collection[str] = (),
        stamp: Any | None = None,  # noqa: ANN401 - as in set
        policy: str = "",
    ) -> Coroutine[object, None, int]:
        """Stores many decisions. Returns the number of decisions stored."""
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
        """Revokes all decisions that match every given field. Without fields, all decisions.

        Returns:
            The number of entries removed.
        """
        ...

    def invalidate_pattern(self, pattern: str) -> Coroutine[object, None, int]:
        """Revokes all decisions whose text key matches a Redis glob.

        Returns:
            The number of entries removed.
        """
        ...

    def clear(self) -> Coroutine[object, None, bool]:
        """Revokes all decisions. Returns True."""
        ...

    def clear_all(self) -> Coroutine[object, None, bool]:
        """Calls `clear`."""
        ...

    def size(self) -> Coroutine[object, None, int]:
        """Returns the number of entries that have not expired."""
        ...

    def get_cache_size(self) -> Coroutine[object, None, int]:
        """Calls `size`."""
        ...

    def cleanup_expired(self) -> Coroutine[object, None, int]:
        """Removes expired entries. Returns the number of entries removed."""
        ...

    def preload_cache(
        self,
        preload_data: Iterable[BatchEntry],
        *,
        tags: Collection[str] = (),
        stamp: Any | None = None,  # noqa: ANN401 - as in set
        policy: str = "",
    ) -> Coroutine[object, None, int]:
        """Stores many decisions, as `set_batch` does. Returns the number of decisions stored."""
        ...

    def set_revalidate_callback(self, callback: RevalidateCallback) -> None:
        """Sets the callback that refreshes stale entries."""
        ...

    def record_opa_latency(self, latency_ms: float) -> None:
        """Records the duration of one evaluation, in milliseconds."""
        ...

    def get_metrics(self) -> dict[str, int | float]:
        """Returns the counters as a dict."""
        ...

    def latency_histogram(
        self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS
    ) -> LatencyHistogram:
        """Returns the durations of those requests to the cache that were measured."""
        ...

    def evaluation_histogram(
        self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS
    ) -> LatencyHistogram:
        """Returns the durations of evaluations, as given to `record_opa_latency`."""
        ...

    def reset_metrics(self) -> None:
        """Sets every counter and histogram to zero."""
        ...

    def health_check(self) -> Coroutine[object, None, bool]:
        """Returns True if the cache can answer."""
        ...

    def close(self) -> Coroutine[object, None, None]:
        """Closes the cache. Calling it again does nothing."""
        ...

    async def __aenter__(self) -> Self:
        """Returns the cache. It is closed at the end of the block."""
        ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
