"""The types of the compiled module.

Every method acts when it is called and returns an awaitable that Python takes for a coroutine:
`await` it once, or give it to `create_task`, `gather`, `wait_for`.

It yields `object`, not `Any`: with an `Any` in it mypy would find the overloads of `asyncio.gather`
ambiguous, and forget the types of what they return.
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

__all__ = ["CONSTANTS", "AsyncCache", "Decision", "Load", "PolicyStore", "Stamp", "__version__"]

__version__: str
CONSTANTS: dict[str, str | float]
"""The limits and defaults of `sark_cache._core.limits`, as the compiled module has them."""

_JSON: TypeAlias = str | int | float | bool | list[Any] | dict[str, Any] | None
"""A value that is returned: new objects of Python's own types each time."""
_AnyJSON: TypeAlias = _JSON | tuple[Any, ...] | Mapping[str, Any]
"""A value that is stored: tuples count as lists, mappings as dicts."""
_Key: TypeAlias = str | tuple[Any, ...]
"""A str, or a tuple of JSON values."""

@final
class Stamp:
    """A moment in the life of one cache: `stamp()` before evaluating, `set(stamp=...)` after."""

    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Decision(Mapping[str, Any]):
    """A decision that cannot be changed: what `get_decision` returns, the same for every caller.

    A mapping with str keys: str, int, float, bool and None as they are, lists as tuples, dicts as
    `Decision`s. It is hashable, can be pickled, and equals the dict it was made of. A field is
    decoded when it is read, in about 0.1 µs.

    >>> decision = await cache.get_decision("alice", "read", "doc:1")
    >>> if decision and decision.allow: ...

    Args:
        fields: A JSON object.

    Raises:
        TypeError: `fields` is not a mapping.
        ValueError: It is not JSON, or larger than 64 KiB.
    """

    # Pydantic's, whose types are not there for everybody.
    __pydantic_serializer__: ClassVar[Any]
    @staticmethod
    def __get_pydantic_core_schema__(*_asked: object) -> Any: ...  # noqa: ANN401
    def __new__(cls, fields: Mapping[str, Any], /) -> Self: ...
    @property
    def allow(self) -> bool:
        """True if the field "allow" is `True`; another truthy value does not count."""
    @property
    def reason(self) -> Any:  # noqa: ANN401 - any JSON value
        """The field "reason"; None if there is none."""
    def to_dict(self) -> JSONObject:
        """The decision as a new dict, with lists and dicts of its own, to be changed at will."""
    def get(self, name: str, default: Any = None, /) -> Any:  # noqa: ANN401 - any JSON value
        """The field of that name, or the default."""
    def __getitem__(self, name: str, /) -> Any: ...  # noqa: ANN401 - any JSON value
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...
    def __hash__(self) -> int: ...
    def __copy__(self) -> Self: ...
    def __deepcopy__(self, memo: object, /) -> Self: ...

@final
class AsyncCache:
    """An asynchronous cache of JSON values in this process's memory.

    Unlike the policy caches it raises what is wrong: a key that is neither a str nor a tuple is a
    TypeError, one with a part that is not JSON a ValueError.

    Args:
        max_size: The most entries, at least 1; None: 10,000.
        ttl_seconds: How long an entry lives unless `set` says otherwise, in seconds; None: 300.
        max_bytes: The most bytes, counting keys, values and 420 bytes an entry; None: any.
        eviction: What leaves a full cache first.

    Raises:
        TypeError, ValueError: An argument that cannot be used; the message names it.
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
        """The value under `key`, a new object; None if there is none. About a microsecond."""
    def set(
        self, key: _Key, value: _AnyJSON, ttl_seconds: float | None = None
    ) -> Coroutine[object, None, None]:
        """Stores a snapshot of `value`; some microseconds.

        Args:
            key: Under which key.
            value: A JSON value. Tuples come back as lists.
            ttl_seconds: How long it lives, in seconds; 0 stores nothing. None: as the cache says.

        Raises:
            ValueError: A value that is not JSON or, with its key, over 64 KiB; or a negative or NaN
                `ttl_seconds`.
        """
    def get_or_load(
        self, key: _Key, loader: Callable[[], Awaitable[_AnyJSON]], ttl_seconds: float | None = None
    ) -> Coroutine[object, None, _JSON]:
        """The value under `key`, or what `loader()` brings, which is then stored.

        One loader runs for all requests for a key, in any task, thread and event loop. If it
        raises, every waiter gets the same exception, and nothing is stored. See
        `RustPolicyCache.get_or_load`.

        Raises:
            ValueError: The loader brought something that is not JSON or, with its key, over 64 KiB.
            RuntimeError: A loader loads its own key.
        """
    def _take_overdue(self) -> int: ...
    def delete(self, key: _Key) -> Coroutine[object, None, bool]:
        """Removes the entry under `key`; True if it was there."""
    def clear(self) -> Coroutine[object, None, int]:
        """Removes all entries; returns how many there were."""
    def size(self) -> Coroutine[object, None, int]:
        """The number of live entries. Visits them all, off the event loop if they are many."""
    def cleanup_expired(self) -> Coroutine[object, None, int]:
        """Removes the expired entries; returns how many there were. Visits all."""

@final
class Load:
    """One request that missed, until it is answered; driven by `loading.py`."""

    @property
    def loader(self) -> Callable[[], Awaitable[Any]]:
        """The loader of the request."""
    @property
    def cache(self) -> object:
        """The cache that it loads for."""
    @property
    def ahead(self) -> bool:
        """True if it refreshes an entry in the background."""
    def waiting(self) -> int:
        """Returns the number of requests that wait for this one's loader."""
    @property
    def flight(self) -> int:
        """The number of the load that this request leads."""
    def next_step(self, within: tuple[int, ...]) -> Step | Future[None]:
        """Returns the next step, or a future to await before asking again.

        Args:
            within: The load whose loader makes this request, or made the task of this request;
                empty outside of loaders.

        Raises:
            RuntimeError: The request would wait for a load that waits for it, or too many
                evaluations of its key have not ended.
        """
    def answer(self) -> Any:  # noqa: ANN401 - any JSON value
        """Returns the outcome of another request's load: a new object; raises its exception."""
    def finish(self, value: object, ttl_seconds: float | None, tags: Collection[str] | None) -> Any:  # noqa: ANN401 - any JSON value
        """Stores the loader's result, delivers it to the waiters, and returns it."""
    def fail(self, error: Exception) -> None:
        """Counts the loader's exception, and delivers it to the waiters."""
    def keep(self) -> None:
        """Leaves the entry until it expires: a refresh brought nothing new."""
    def supersede(self) -> None:
        """Removes the entry: a newer decision was evaluated while the cache was disabled."""
    def leave(self) -> None:
        """Leaves the load: a leader hands over, and a waiter affects no other request."""

@disjoint_base
class PolicyStore:
    """The compiled part of `RustPolicyCache`; use that one."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...  # noqa: ANN401 - the subclass says
    def _configure(
        self,
        max_size: int | None,
        ttl_seconds: float | None,
        enabled: bool,
        use_optimized_ttl: bool,
        max_bytes: int | None,
        eviction: Literal["lru", "tiny_lfu"] | None,
    ) -> None: ...
    enabled: bool
    """True if the cache serves and stores."""
    use_optimized_ttl: bool
    """True if a sensitivity shortens the time to live."""
    @property
    def ttl_seconds(self) -> float:
        """The default time to live of an entry, in seconds; settable."""
    @ttl_seconds.setter
    def ttl_seconds(self, ttl_seconds: float) -> None: ...
    @property
    def max_size(self) -> int:
        """The most entries."""
    @property
    def closed(self) -> bool:
        """True after `close`."""
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
        """The cached decision for a request, a new dict, or None.

        Decided when called; ready at once. A context that is not JSON is a miss, counted in
        `errors` and logged.

        Raises:
            TypeError: An argument of the wrong type; the message names it.
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
        """The cached decision for a request, one that all callers share, or None.

        As `get`, with nothing rebuilt: the fastest hit. The first one makes the `Decision`, which
        stays with the entry.

        Raises:
            TypeError: An argument of the wrong type; the message names it.
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
        """Stores a snapshot of a decision; True if it was stored.

        A decision that cannot be stored (not JSON, too large, too many tags, no time to live) drops
        the one that was stored before: it has superseded it. The result of
        a `get_or_load` that is running does not overwrite it.

        Args:
            user_id: Who asks.
            action: To do what.
            resource: To what.
            decision: A JSON object; with its key at most 64 KiB. Tuples come back as lists.
            context: What else the decision depends on: a JSON object.
            ttl_seconds: How long it lives, in seconds; 0 stores nothing. None: as the cache says.
                At most a hundred years.
            sensitivity: A name in `OPTIMIZED_TTL`: it lives no longer than that says. Any other
                name changes nothing and is warned of once.
            tags: Names to revoke it by later, at most 64 of at most 256 bytes.
            stamp: What `stamp()` returned before the decision was evaluated. If something that
                revokes it came in between, it is not stored. None: the moment of this call.
            policy: The policy that decided. Requests under another one do not see the decision.

        Raises:
            TypeError: An argument of the wrong type; the message names it.
            ValueError: A negative or NaN `ttl_seconds`, or a stamp of another cache.
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
        """The cached decision or, if there is none, what `loader()` brings, which is then stored.

        One loader runs for all requests for the same decision, in any task, thread and event loop.
        It runs in the task of the first request, the leader. If that task is cancelled, the request
        that waited longest goes on with its own loader. If the loader raises, every waiter gets the
        same exception, nothing is stored, and the next request evaluates again. After an
        invalidation during the load, requests from before it get the decision, requests from after
        it start another load, and no revoked decision is stored. To limit the time, use
        `asyncio.timeout`: a waiter that gives up affects no other request.

        A hit is decided at the call, and ready at once. It costs little more than a hit of `get`;
        reading tags and a sensitivity takes time on a hit, too. A miss joins the load when it is
        first awaited. Do not change the context
        until it is answered: the loader may be called at any time until then.

        Args:
            user_id: Who asks.
            action: To do what.
            resource: To what.
            loader: An async function without arguments that returns the decision, a JSON object,
                or a `Loaded` with one, its time to live and its tags. Neither it nor a task that
                it makes may ask for its own key, nor two loaders of one cache for each other's.
            context: What else the decision depends on: a JSON object.
            ttl_seconds: How long it lives, in seconds; 0 shares it and stores nothing. None: the
                cache's. A time in a `Loaded` takes precedence.
            sensitivity: A name in `OPTIMIZED_TTL`: the time to live is at most its time, also
                that of a `Loaded`. Another name changes nothing and is warned of once.
            tags: Names to revoke it by. All requests for one decision should give the same.
            policy: The policy that the loader evaluates. Loads under different policies share
                nothing.

        Returns:
            A new dict. A decision that cannot be stored is returned as it is, counted in `errors`
            and logged; then everybody who waited evaluates. So does everybody while the cache is
            off or closed, or with a context that is not JSON.

        Raises:
            TypeError: An argument of the wrong type, or a loader that brings no decision.
            ValueError: A negative or NaN `ttl_seconds`.
            RuntimeError: A loader loads its own key, or two loaders load each other's keys.
        """
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
        """The stamp of now: take it before evaluating a decision that `set` is to store."""
    def delete(
        self,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None = None,
        *,
        policy: str | None = None,
    ) -> Coroutine[object, None, bool]:
        """Revokes and removes the decision for a request; True if it was there.

        Takes effect when called. A context that is not JSON was never stored with: False. Under all
        policies it costs one look-up for each policy that something was stored under; from 256
        policies on it visits every entry.

        Args:
            user_id: Who asks.
            action: To do what.
            resource: To what.
            context: What it was stored with: a JSON object.
            policy: The policy that decided. None: whatever the policy.

        Raises:
            TypeError: An argument of the wrong type; the message names it.
            InvalidationError: The context's own code raised, so its key is unknown.
        """
    def get_batch(
        self, requests: Iterable[BatchRequest], *, policy: str = ""
    ) -> Coroutine[object, None, list[JSONObject | None]]:
        """The decisions for many requests, in their order; each costs less than a `get`.

        Args:
            requests: `(user_id, action, resource)` or `(user_id, action, resource, context)`.
            policy: The policy that decided, the same for all of them.

        Raises:
            TypeError: A request of another shape, or with a part of the wrong type.
        """
    def set_batch(
        self,
        entries: Iterable[BatchEntry],
        *,
        tags: Collection[str] = (),
        stamp: Stamp | None = None,
        policy: str = "",
    ) -> Coroutine[object, None, int]:
        """Stores many decisions; returns how many were stored.

        All of them are stored at the call, on the calling thread, 2–3 µs each.

        Args:
            entries: `(user_id, action, resource, decision, context, ttl_seconds)`; the last two
                may be left out.
            tags: Names to revoke them by later, all of them.
            stamp: As in `set`, of all of them.
            policy: The policy that decided, the same for all of them.

        Raises:
            TypeError: An entry of another shape, or with a part of the wrong type; those before it
                are stored.
            ValueError: A negative or NaN `ttl_seconds`, likewise; or a stamp of another cache.
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
        """Revokes every decision that matches all given fields; none given: all decisions.

        None given is logged as a warning: where all are meant, `clear` says so.

        Takes effect when called, in constant time. The count is exact and comes from a visit to
        every entry, off the event loop if they are many.

        Args:
            user_id: Those of this user.
            action: Those of this action.
            resource: Those of this resource.
            tags: Those that have one of these tags. None is as if none were given.
            policy: Those that this policy decided; `""` are those of requests that name none. None:
                whatever the policy.

        Returns:
            How many entries died.

        Raises:
            TypeError: An argument of the wrong type; the message names it.
            ValueError: Empty `tags`, or more than 10,000.
        """
    def invalidate_pattern(self, pattern: str) -> Coroutine[object, None, int]:
        r"""Revokes every decision with a text key that matches a Redis glob; returns how many died.

        A text key is `policy:decision:{user}:{action}:{resource}:{context}`, whatever the policy;
        the context is `none` or the first 32 hexadecimal digits of the SHA-256 over its canonical
        bytes. The other parts have three spellings, and a pattern that matches one of them matches:
        percent-encoded for `% : * ? [ ] { } \` and control characters; raw; and SARK's, which is
        raw with `_` for each `:` and `/` of the resource.

        Raises:
            ValueError: A pattern of more than 1,024 bytes.
        """
    def clear(self) -> Coroutine[object, None, bool]:
        """Revokes and removes all decisions. Always True."""
    def size(self) -> Coroutine[object, None, int]:
        """The number of live entries. Visits them all, off the event loop if they are many."""
    def cleanup_expired(self) -> Coroutine[object, None, int]:
        """Removes the expired entries; returns how many there were. Visits all."""
    def close(self) -> Coroutine[object, None, None]:
        """Stops serving and drops all entries."""
    def record_opa_latency(self, latency_ms: float) -> None:
        """Adds the duration of one evaluation, in milliseconds.

        Raises:
            ValueError: A negative, infinite or NaN duration.
        """
    def reset_metrics(self) -> None:
        """Sets every counter and histogram to zero."""
    def _request_distribution(self, bounds: list[int]) -> tuple[list[int], float, int]: ...
    def _evaluation_distribution(self, bounds: list[int]) -> tuple[list[int], float, int]: ...
    def _snapshot(self) -> dict[str, Any]: ...
