"""The types of the compiled module.

Every method acts when it is called. An asynchronous method returns an awaitable that Python treats
as a coroutine. Await it once, or pass it to `create_task`, `gather` or `wait_for`.

The types say that the awaitable yields `object`, not `Any`. With `Any`, mypy finds the overloads
of `asyncio.gather` ambiguous and loses the types of the results.
"""

from asyncio import Future
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from typing import Any, ClassVar, Literal, Self, TypeAlias, final

from typing_extensions import disjoint_base

from sark_cache.backends._shared.loading import Step
from sark_cache.types import (
    BatchEntry,
    BatchRequest,
    Context,
    JSONObject,
    Loader,
    RevalidateCallback,
)

__all__ = [
    "CONSTANTS",
    "AsyncCache",
    "Decision",
    "Lease",
    "Load",
    "PolicyStore",
    "Stamp",
    "__version__",
]

__version__: str
CONSTANTS: dict[str, str | float]
"""The limits and defaults of `sark_cache._core.limits`, as the compiled module has them."""

_JSON: TypeAlias = str | int | float | bool | list[Any] | dict[str, Any] | None
"""A returned value. Each call returns new objects of Python's own types."""
_AnyJSON: TypeAlias = _JSON | tuple[Any, ...] | Mapping[str, Any]
"""A value to store. Tuples are stored as lists, and mappings as dicts."""
_Key: TypeAlias = str | tuple[Any, ...]
"""A str, or a tuple of JSON values."""

@final
class Stamp:
    """A position in the invalidation log of one cache.

    Take one with `stamp()` before the evaluation of a decision, and pass it to
    `set(..., stamp=...)`. A decision that has been revoked since then is not stored.
    """

    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Decision(Mapping[str, Any]):
    """An immutable decision. `get_decision` returns the same object to every caller.

    A mapping with str keys. The values are str, int, float, bool and None. Lists become tuples, and
    dicts become `Decision`s. A decision is hashable, can be pickled, and equals the dict that it
    was made from. A field is decoded when it is read, which takes about 0.1 µs.

    >>> decision = await cache.get_decision("alice", "read", "doc:1")
    >>> if decision and decision.allow: ...

    Args:
        fields: A JSON object.

    Raises:
        TypeError: `fields` is not a mapping.
        ValueError: `fields` is not JSON, or is larger than 64 KiB.
    """

    # Pydantic reads these two. Their types are `Any`, because Pydantic may not be installed.
    __pydantic_serializer__: ClassVar[Any]
    @staticmethod
    def __get_pydantic_core_schema__(*_asked: object) -> Any: ...  # noqa: ANN401
    def __new__(cls, fields: Mapping[str, Any], /) -> Self: ...
    @property
    def allow(self) -> bool:
        """True if the field "allow" is `True`. Other values, such as 1, do not count."""
    @property
    def reason(self) -> Any:  # noqa: ANN401 - any JSON value
        """The field "reason", or None if there is no such field."""
    def to_dict(self) -> JSONObject:
        """Returns the decision as a new dict. The caller may change it and its lists and dicts."""
    def get(self, name: str, default: Any = None, /) -> Any:  # noqa: ANN401 - any JSON value
        """Returns the field with that name, or the default if there is no such field."""
    def __getitem__(self, name: str, /) -> Any: ...  # noqa: ANN401 - any JSON value
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...
    def __hash__(self) -> int: ...
    def __copy__(self) -> Self: ...
    def __deepcopy__(self, memo: object, /) -> Self: ...

@final
class AsyncCache:
    """An asynchronous cache of JSON values in this process's memory.

    Unlike a policy cache, it raises an error for each value that it cannot use. A key that is
    neither a str nor a tuple raises a TypeError. A key with a part that is not JSON raises a
    ValueError.

    Args:
        max_size: The maximum number of entries, at least 1. None: 10,000.
        ttl_seconds: The time to live of entries for which `set` gives none, in seconds. None: 300.
        max_bytes: The maximum size in bytes: keys, values and 520 bytes per entry. None: no limit.
        eviction: The entry that a full cache evicts first: `"lru"`, the least recently used, or
            `"tiny_lfu"`, the least frequently used entry that is not recent.

    Raises:
        TypeError, ValueError: An argument is wrong. The message names it.
    """

    def __new__(
        cls,
        max_size: int | None = 10000,
        ttl_seconds: float | None = 300.0,
        *,
        max_bytes: int | None = None,
        eviction: Literal["lru", "tiny_lfu"] = "lru",
    ) -> Self: ...
    def get(self, key: _Key) -> Coroutine[object, None, _JSON]:
        """Returns the value under `key` as a new object, or None. Takes about a microsecond."""
    def set(
        self, key: _Key, value: _AnyJSON, ttl_seconds: float | None = None
    ) -> Coroutine[object, None, None]:
        """Stores a snapshot of `value` under `key`. Takes some microseconds.

        Args:
            key: The key.
            value: A JSON value. Tuples are returned as lists.
            ttl_seconds: The time to live in seconds. 0: the value is not stored. None: the default
                of the cache.

        Raises:
            ValueError: The value is not JSON, or is larger than 64 KiB with its key; or
                `ttl_seconds` is negative or NaN.
        """
    def get_or_load(
        self, key: _Key, loader: Callable[[], Awaitable[_AnyJSON]], ttl_seconds: float | None = None
    ) -> Coroutine[object, None, _JSON]:
        """Returns the value under `key`. On a miss, runs the loader and stores its value.

        One loader runs for all requests for a key, in any task, thread and event loop. If it
        raises, every waiter gets the same exception, and nothing is stored. See
        `RustPolicyCache.get_or_load`.

        Raises:
            ValueError: The loader's value is not JSON, or is larger than 64 KiB with its key.
            RuntimeError: A loader loads its own key, two loaders load each other's keys, or too
                many evaluations of one key have not ended.
        """
    def _take_overdue(self) -> int: ...
    def delete(self, key: _Key) -> Coroutine[object, None, bool]:
        """Removes the entry under `key`. Returns True if there was one."""
    def clear(self) -> Coroutine[object, None, int]:
        """Removes all entries. Returns the number of entries removed."""
    def size(self) -> Coroutine[object, None, int]:
        """Returns the number of entries that have not expired.

        Visits every entry. If there are many, another thread visits them, not the event loop's.
        """
    def cleanup_expired(self) -> Coroutine[object, None, int]:
        """Removes expired entries. Returns the number of entries removed. Visits every entry."""

@final
class Load:
    """One request that missed and has no answer yet. `loading.py` drives it."""

    @property
    def loader(self) -> Callable[[], Awaitable[Any]]:
        """The loader of the request."""
    @property
    def cache(self) -> object:
        """The cache of the request."""
    @property
    def ahead(self) -> bool:
        """True if the request refreshes an entry in the background."""
    @property
    def idle(self) -> bool:
        """True if another request loads the decision, or if the cache is disabled or closed."""
    def waiting(self) -> int:
        """Returns the number of requests that wait for the loader of this request."""
    @property
    def flight(self) -> int:
        """The number of the load that this request leads."""
    def next_step(self, within: tuple[int, ...]) -> Step | Future[None]:
        """Returns the next step, or a future. Await the future, then call this again.

        Args:
            within: A tuple with the number of the load whose loader makes this request or created
                its task. Empty outside of loaders.

        Raises:
            RuntimeError: The request would wait for a load that waits for it, or too many
                evaluations of its key have not ended.
        """
    def answer(self) -> Any:  # noqa: ANN401 - any JSON value
        """Returns the result of another request's load as a new object, or raises its exception."""
    def finish(self, value: object, ttl_seconds: float | None, tags: Collection[str] | None) -> Any:  # noqa: ANN401 - any JSON value
        """Stores the loader's result, delivers it to the waiters, and returns it."""
    def fail(self, error: Exception) -> None:
        """Counts the loader's exception, and delivers it to the waiters."""
    def keep(self) -> None:
        """Keeps the entry until it expires, because the refresh returned no new decision."""
    def supersede(self) -> None:
        """Removes the entry: a newer decision was evaluated while the cache was disabled."""
    def leave(self) -> None:
        """Leaves the load. If this request is its leader, the first waiter becomes the leader."""

@final
class Lease:
    """The right to serve cached decisions, until a moment. Its owner extends it again and again.

    Several caches may have the same lease. In a forked child it ends before any other code runs,
    because the child does not have the thread that extends it.
    """

    def __init__(self) -> None:
        """Creates a lease under which nothing is served until `extend` is called."""

    def now(self) -> int:
        """Returns the time of the lease's clock in nanoseconds.

        Read it before the request that confirms the lease is sent. The clock counts the time for
        which the machine sleeps.
        """

    def extend(self, sent: int, seconds: float) -> None:
        """Extends the lease to `sent` plus `seconds`. It never becomes shorter.

        Args:
            sent: The result of `now()` before the confirming request was sent.
            seconds: The length of the lease, 0 or more.
        """

    def end(self) -> None:
        """Ends the lease now."""

    def remaining(self) -> float:
        """Returns the time in seconds for which decisions may still be served. 0.0: no lease."""

@disjoint_base
class PolicyStore:
    """The compiled base of `RustPolicyCache`. Use that class instead."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...  # noqa: ANN401 - the subclass says
    def _configure(
        self,
        max_size: int | None,
        ttl_seconds: float | None,
        enabled: bool,
        use_optimized_ttl: bool,
        max_bytes: int | None,
        eviction: Literal["lru", "tiny_lfu"] | None,
        lease: Lease | None,
    ) -> None: ...
    def _note_foreign(
        self,
        user_id: str | None,
        action: str | None,
        resource: str | None,
        policy: str | None,
        tags: list[str],
    ) -> None: ...
    def _note_foreign_key(self, text: str) -> None: ...
    def _note_foreign_pattern(self, pattern: str) -> None: ...
    def _flush(self) -> None: ...
    def _begin_to_follow(self) -> None: ...
    enabled: bool
    """True if the cache serves and stores decisions. It can be set."""
    use_optimized_ttl: bool
    """True if a sensitivity limits the time to live of an entry. It can be set."""
    @property
    def ttl_seconds(self) -> float:
        """The default time to live of an entry, in seconds. It can be set."""
    @ttl_seconds.setter
    def ttl_seconds(self, ttl_seconds: float) -> None: ...
    @property
    def max_size(self) -> int:
        """The maximum number of entries."""
    @property
    def closed(self) -> bool:
        """True after `close` was called."""
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
        """Returns the cached decision for a request as a new dict, or None.

        The lookup happens at the call, and the awaitable is ready at once. A request with a context
        that is not JSON is a miss, and is counted in `errors` and logged.

        Raises:
            TypeError: An argument has the wrong type. The message names it.
        """
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
        """Returns the cached decision for a request as an immutable `Decision`, or None.

        This is the fastest hit, because it builds no dict. The first hit creates the `Decision`,
        and the entry keeps it. All callers get the same object. Otherwise it is like `get`.

        Raises:
            TypeError: An argument has the wrong type. The message names it.
        """
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
        stamp: Stamp | None = None,
        policy: str = "",
    ) -> Coroutine[object, None, bool]:
        """Stores a snapshot of a decision. Returns True if it was stored.

        A decision supersedes the stored one of its request even if it cannot be stored itself: if
        it is not JSON, is too large, has too many tags, or has a time to live of 0. Then the stored
        one is removed. A running `get_or_load` does not overwrite the decision with its result.

        Args:
            user_id: The user who makes the request.
            action: The action.
            resource: The resource.
            decision: A JSON object, at most 64 KiB with its key. Tuples are returned as lists.
            context: Further facts that the decision depends on: a JSON object.
            ttl_seconds: The time to live in seconds. 0: the decision is not stored. None: the
                default of the cache. More than a hundred years counts as a hundred years.
            sensitivity: A name in `OPTIMIZED_TTL`, which limits the time to live. An unknown name
                changes nothing, and a warning is logged once.
            tags: Names by which the decision can be revoked. At most 64, each of at most 256 bytes.
            stamp: The result of `stamp()` before the evaluation. If the decision has been revoked
                since then, it is not stored. None: the decision counts as evaluated at this call.
            policy: The policy that made the decision. Requests under another policy do not get it.

        Raises:
            TypeError: An argument has the wrong type. The message names it.
            ValueError: `ttl_seconds` is negative or NaN, or the stamp is of another cache.
        """
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
        """Returns the cached decision. On a miss, runs the loader and stores its decision.

        One loader runs for all requests for the same decision, in any task, thread and event loop.
        It runs in the task of the first request, the leader. If that task is cancelled, the request
        that has waited longest becomes the leader and runs its own loader. If the loader raises,
        every waiter gets the same exception, nothing is stored, and the next request evaluates
        again.

        If the decision is revoked during the load, it is not stored. Requests from before the
        revocation get it. Requests from after the revocation start another load.

        To limit the time of a request, use `asyncio.timeout`. A waiter that times out affects no
        other request.

        The lookup happens at the call, and a hit is ready at once. A hit costs as much as a hit of
        `get`, plus the time to read the tags and the sensitivity. A miss joins the load when it is
        first awaited. Do not change the context before the request is answered, because the loader
        may be called until then.

        Args:
            user_id: The user who makes the request.
            action: The action.
            resource: The resource.
            loader: An async function without arguments. It returns the decision, a JSON object, or
                a `Loaded` with the decision, its time to live and its tags. Neither the loader nor
                a task that it creates may load the loader's own key. Two loaders must not load each
                other's keys, not even through two caches.
            context: Further facts that the decision depends on: a JSON object.
            ttl_seconds: The time to live in seconds. 0: the decision is shared and not stored.
                None: the default of the cache. A time in a `Loaded` takes precedence.
            sensitivity: A name in `OPTIMIZED_TTL`, which limits the time to live, also that of a
                `Loaded`. An unknown name changes nothing, and a warning is logged once.
            tags: Names by which the decision can be revoked. All requests for one decision should
                give the same tags.
            policy: The policy that the loader evaluates. Requests under different policies share no
                load and no decision.

        Returns:
            A new dict. If the decision cannot be stored, the leader gets it unchanged, the fault is
            counted in `errors` and logged, and each waiter runs its own loader. Each request also
            runs its own loader if the cache is disabled or closed, or if the context is not JSON.

        Raises:
            TypeError: An argument has the wrong type, or the loader returns no decision.
            ValueError: `ttl_seconds` is negative or NaN.
            RuntimeError: A loader loads its own key, two loaders load each other's keys, or too
                many evaluations of the decision have not ended.
            Exception: The exception that the loader raises.
        """
    def _allowed(
        self,
        user_id: str,
        action: str,
        resources: list[Any],
        context: Context | None,
        policy: str,
    ) -> list[bool | None]: ...
    def _begin_loads(
        self,
        requests: list[Any],
        loaders: list[Loader],
        ttl_seconds: float | None,
        sensitivity: str | None,
        tags: Collection[str],
        policy: str,
    ) -> list[Load | None]: ...
    def _count_load_error(self) -> None: ...
    def _lead_refresh(
        self,
        callback: RevalidateCallback,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None,
        sensitivity: str,
        policy: str,
    ) -> Load | None: ...
    def stamp(self) -> Stamp:
        """Returns a stamp. Take it before the evaluation of a decision, and pass it to `set`."""
    def delete(
        self,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None = None,
        *,
        policy: str | None = None,
    ) -> Coroutine[object, None, bool]:
        """Revokes the decision for a request. Returns True if one was cached.

        Takes effect at the call. Returns False if the context is not JSON, because no decision can
        be stored with it. Without a policy it takes one lookup for each policy under which a
        decision was stored. From 256 policies on, it visits every entry.

        Args:
            user_id: The user who makes the request.
            action: The action.
            resource: The resource.
            context: The context with which the decision was stored: a JSON object.
            policy: The policy that made the decision. None: all policies.

        Raises:
            TypeError: An argument has the wrong type. The message names it.
            InvalidationError: A method of the context raised an error, so the key is unknown.
        """
    def get_batch(
        self, requests: Iterable[BatchRequest], *, policy: str = ""
    ) -> Coroutine[object, None, list[JSONObject | None]]:
        """Returns the cached decisions for many requests, in their order. None: a miss.

        Each request costs less than a `get`.

        Args:
            requests: `(user_id, action, resource)` or `(user_id, action, resource, context)`.
            policy: The policy of all requests.

        Raises:
            TypeError: A request has the wrong shape, or a part of the wrong type. The message names
                it.
        """
    def set_batch(
        self,
        entries: Iterable[BatchEntry],
        *,
        tags: Collection[str] = (),
        stamp: Stamp | None = None,
        policy: str = "",
    ) -> Coroutine[object, None, int]:
        """Stores many decisions. Returns the number of decisions stored.

        Stores them at the call, on the calling thread. Each takes 2–3 µs.

        Args:
            entries: `(user_id, action, resource, decision, context, ttl_seconds)`. The last two are
                optional.
            tags: The tags of all decisions, as in `set`.
            stamp: The stamp of all decisions, as in `set`.
            policy: The policy of all decisions, as in `set`.

        Raises:
            TypeError: An entry has the wrong shape, or a part of the wrong type. The entries before
                it are stored.
            ValueError: The stamp is of another cache; or a time to live is negative or NaN, and
                then the entries before it are stored.
        """
    def invalidate(
        self,
        user_id: str | None = None,
        action: str | None = None,
        resource: str | None = None,
        *,
        tags: Collection[str] | None = (),
        policy: str | None = None,
    ) -> Coroutine[object, None, int]:
        """Revokes all decisions that match every given field. Without fields, all decisions.

        A call without fields logs a warning. To revoke all decisions, use `clear`.

        Takes effect at the call, in constant time. To count the removed entries exactly, it then
        visits every entry. If there are many, another thread visits them, not the event loop's.

        Args:
            user_id: Only decisions for this user.
            action: Only decisions for this action.
            resource: Only decisions for this resource.
            tags: Only decisions with at least one of these tags. None: the same as not given.
            policy: Only decisions of this policy. `""`: only decisions that were stored without a
                policy. None: all policies.

        Returns:
            The number of entries removed.

        Raises:
            TypeError: An argument has the wrong type. The message names it.
            ValueError: `tags` is empty, or has more than 10,000 tags.
        """
    def invalidate_pattern(self, pattern: str) -> Coroutine[object, None, int]:
        r"""Revokes all decisions whose text key matches a Redis glob.

        A text key is `policy:decision:{user}:{action}:{resource}:{context}`. It does not contain
        the policy. The context is `none`, or the first 32 hexadecimal digits of the SHA-256 over
        its canonical bytes.

        The other parts have three spellings. A pattern matches a decision if it matches one of
        them:

        - percent-encoded: `% : * ? [ ] { } \` and control characters are encoded
        - raw
        - as in SARK: raw, but with `_` for each `:` and `/` of the resource

        Returns:
            The number of entries removed.

        Raises:
            TypeError: The pattern is not a `str`.
            ValueError: The pattern has more than 1,024 bytes, or is not UTF-8.
        """
    def clear(self) -> Coroutine[object, None, bool]:
        """Revokes all decisions. Returns True."""
    def size(self) -> Coroutine[object, None, int]:
        """Returns the number of entries that have not expired.

        Visits every entry. If there are many, another thread visits them, not the event loop's.
        """
    def cleanup_expired(self) -> Coroutine[object, None, int]:
        """Removes expired entries. Returns the number of entries removed. Visits every entry."""
    def close(self) -> Coroutine[object, None, None]:
        """Stops serving and removes all entries."""
    def record_opa_latency(self, latency_ms: float) -> None:
        """Records the duration of one evaluation, in milliseconds.

        Raises:
            ValueError: The duration is negative, infinite or NaN.
        """
    def reset_metrics(self) -> None:
        """Sets every counter and histogram to zero."""
    def _request_distribution(self, bounds: list[int]) -> tuple[list[int], float, int]: ...
    def _evaluation_distribution(self, bounds: list[int]) -> tuple[list[int], float, int]: ...
    def _snapshot(self) -> dict[str, Any]: ...
