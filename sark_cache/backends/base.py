"""`BasePolicyCache`: the part of the interface that is the same for every policy cache.

Methods that only call other methods of the interface are implemented here and nowhere else. This
module also has the constants of the contract: the table of sensitivities and the thresholds.

The rules that use the constants are in `sark_cache.backends._shared.ttl`. The compiled module has
its own rules for the native cache: `load/lifetime.rs` chooses a time to live, and `policy/ttl.rs`
reads the same constants.
"""

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
)
from contextlib import aclosing
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar, cast

from sark_cache._core import arguments, limits
from sark_cache._core.coroutines import returns_awaitable
from sark_cache.backends._shared.filtering import allowed_parts
from sark_cache.protocol import PolicyCacheProtocol
from sark_cache.types import BatchEntry, BatchLoader, Context, RevalidateCallback

T = TypeVar("T")


class BasePolicyCache:
    """The base of all policy caches. Subclasses implement the rest of `PolicyCacheProtocol`."""

    KEY_PREFIX: ClassVar[str] = limits.KEY_PREFIX
    """The beginning of the text that patterns match."""
    DEFAULT_TTL_SECONDS: ClassVar[int] = limits.DEFAULT_TTL_SECONDS
    DEFAULT_MAX_SIZE: ClassVar[int] = limits.DEFAULT_MAX_SIZE
    STALE_THRESHOLD_RATIO: ClassVar[float] = 0.3
    """The last part of the time to live, as a fraction. In it an entry is stale."""
    OPTIMIZED_TTL: ClassVar[Mapping[str, float]] = {
        "critical": 60,
        "confidential": 120,
        "internal": 180,
        "public": 300,
        "default": 120,
    }
    """The maximum time to live of each sensitivity, in seconds."""
    REFRESHED_SENSITIVITIES: ClassVar[frozenset[str]] = frozenset({"critical", "confidential"})
    """The sensitivities whose stale entries are refreshed in the background.

    `RustPolicyCache` reads this set when it is created.
    """

    @returns_awaitable
    def clear_all(self: PolicyCacheProtocol) -> Coroutine[object, None, bool]:
        """Calls `clear`."""
        return self.clear()

    @returns_awaitable
    def get_cache_size(self: PolicyCacheProtocol) -> Coroutine[object, None, int]:
        """Calls `size`."""
        return self.size()

    @returns_awaitable
    def preload_cache(
        self: PolicyCacheProtocol,
        preload_data: Iterable[BatchEntry],
        *,
        tags: Collection[str] = (),
        stamp: Any | None = None,  # noqa: ANN401 - every backend has its own
        policy: str = "",
    ) -> Coroutine[object, None, int]:
        """Stores many decisions, as `set_batch` does. Returns the number of decisions stored."""
        return self.set_batch(preload_data, tags=tags, stamp=stamp, policy=policy)

    async def filter_allowed(
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
    ) -> list[T]:
        """Returns the resources on which the user may perform the action, in their order.

        A resource is allowed if the `allow` of its decision is `True`. The decisions come from the
        cache, and those that are missing from the loader, as in `get_or_load_many`.

        Args:
            user_id: The user.
            action: The action.
            resources: The resources, or objects that have one. At most 4 × `max_batch` are read
                ahead.
            loader: An async function that evaluates many requests, as in `get_or_load_many`.
            context: Further facts that every decision depends on: a JSON object.
            key: Returns the resource of an object. None: the objects are the resources.
            ttl_seconds: The time to live in seconds, as in `get_or_load`.
            sensitivity: A name in `OPTIMIZED_TTL`, which limits the time to live.
            tags: Names by which all these decisions can be revoked.
            policy: The policy that the loader evaluates.
            max_batch: The maximum number of requests in one call of the loader.

        Raises:
            TypeError: An argument has the wrong type. The message names it.
            BatchLoadError: The loader raised, or returned no decision for some of the resources.
        """
        allowed: list[T] = []
        parts = allowed_parts(
            cast("PolicyCacheProtocol", self),
            self._allowed,
            user_id,
            action,
            resources,
            loader,
            context,
            key=key,
            max_batch=max_batch,
            ttl_seconds=ttl_seconds,
            sensitivity=sensitivity,
            tags=tags,
            policy=policy,
        )
        async for part in parts:
            allowed += part
        return allowed

    async def filter_allowed_stream(
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
        """Yields what `filter_allowed` returns. Takes the memory of 4 × `max_batch` resources.

        A decision is checked when its part is evaluated, so up to 4 × `max_batch` resources are
        yielded by decisions that were made before the first of them was yielded.
        """
        parts = allowed_parts(
            cast("PolicyCacheProtocol", self),
            self._allowed,
            user_id,
            action,
            resources,
            loader,
            context,
            key=key,
            max_batch=max_batch,
            ttl_seconds=ttl_seconds,
            sensitivity=sensitivity,
            tags=tags,
            policy=policy,
        )
        async with aclosing(parts):
            async for part in parts:
                for one in part:
                    yield one

    def _allowed(
        self,
        user_id: str,
        action: str,
        resources: list[Any],
        context: Context | None,
        policy: str,
    ) -> list[bool | None]:
        del user_id, action, context, policy
        return [None] * len(resources)  # `get_or_load_many` looks them up

    def set_revalidate_callback(self, callback: RevalidateCallback | None) -> None:
        """Sets the callback that refreshes stale entries. None: nothing is refreshed.

        An entry is stale in the last 30 % of its time to live (`STALE_THRESHOLD_RATIO`). A hit on a
        stale entry with `sensitivity` "critical" or "confidential" is served, and starts a refresh
        in the background. No request waits for a refresh. At most one refresh of an entry runs in
        this process.

        The callback is called with `(user_id, action, resource, context)`. It returns a decision, a
        `Loaded`, or None for "no change". The new decision gets the time to live and the tags of
        the entry that it replaces, within the limit of the sensitivity. If the decision is
        revoked during a refresh, the new decision is not stored, as after any load.

        A decision of a named policy is refreshed only if the callback takes the keyword `policy`.
        Then the callback gets the name of that policy, and the new decision is stored under it.

        If the callback raises, the error is counted in `errors` and logged, and the entry stays
        until it expires. If the callback's result cannot be stored, the entry is removed. After a
        failure, or after None, the entry is not refreshed for 0.125 to 0.25 seconds. Each further
        failure or None doubles this pause, up to a minute.
        """
        self.revalidate_callback = callback

    def get_metrics(self: PolicyCacheProtocol) -> dict[str, int | float]:
        """Returns the counters as a dict. Takes some microseconds, whatever the cache's size."""
        return self.metrics.to_dict()

    async def __aenter__(self) -> Self:
        if cast("PolicyCacheProtocol", self).closed:
            message = "this cache is closed; create another one"
            raise RuntimeError(message)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await cast("PolicyCacheProtocol", self).close()
