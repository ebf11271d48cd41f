"""`PolicyCacheProtocol`: the interface of every policy cache."""

from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from sark_cache._core.arguments import NOT_GIVEN
from sark_cache.decision import Decision
from sark_cache.metrics import LATENCY_BOUNDS_SECONDS, CacheMetrics, LatencyHistogram
from sark_cache.types import (
    BatchEntry,
    BatchRequest,
    Context,
    JSONObject,
    Loader,
    RevalidateCallback,
)


@runtime_checkable
class PolicyCacheProtocol(Protocol):
    """The one interface of all policy caches; `RustPolicyCache` says what each method does.

    What returns a coroutine here may be an `async def`, or a function that returns one.
    """

    backend: ClassVar[str]
    """What holds the decisions: "native", "redis", or "none" for a cache that never hits."""

    @property
    def enabled(self) -> bool:
        """Whether the cache serves and stores; settable.

        A decision that is set or loaded while it is off ends the one that is stored for its
        request: switched on again, the cache does not serve what is older.
        """
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
