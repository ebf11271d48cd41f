"""`PolicyCache`: authorization decisions in Redis or Valkey, shared by all processes."""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Any, ClassVar, Final, NamedTuple, Self, cast

from sark_cache import arguments
from sark_cache.counting import Counters
from sark_cache.errors import InvalidationError
from sark_cache.faults import FaultLog
from sark_cache.flights import FlightKey, new_flights
from sark_cache.keys import RequestKey, Scope, request_key
from sark_cache.latency import Latency
from sark_cache.loading import Evaluation, evaluate, evaluated
from sark_cache.plain import JSON, MAX_BYTES, NotJSONError, plain_mapping
from sark_cache.redis.entry import encode, written
from sark_cache.redis.link import Link, UnavailableError, told
from sark_cache.redis.links import Links
from sark_cache.redis.store import Found, Outcome, Over, Store, Write, subject
from sark_cache.refreshing import Refreshes
from sark_cache.types import (
    LATENCY_BOUNDS_SECONDS,
    BatchEntry,
    BatchRequest,
    CacheMetrics,
    Context,
    JSONObject,
    LatencyHistogram,
    Loader,
    RevalidateCallback,
)

DEFAULT_URL = "redis://localhost:6379/0"
REFRESHED_SENSITIVITIES = frozenset({"critical", "confidential"})
MAX_SHARED = MAX_BYTES - 4096


@dataclass(frozen=True, slots=True)
class Stamp:
    """A moment in the life of what a cache keeps in Redis, as far as this process knew of it."""

    log: str
    position: str | None
    """The log's newest record; None: nothing was heard of it yet."""


class _Request(NamedTuple):
    """A request whose context is plain JSON."""

    user_id: str
    action: str
    resource: str
    context: dict[str, JSON] | None
    key: RequestKey


class PolicyCache:
    """Authorization decisions in Redis or Valkey, on one server, through Sentinel or on a cluster.

    The interface of `RustPolicyCache`, shared by every process that uses the same server: a
    revocation by one is in force for all. A hit is one round trip, 0.1 to 1 ms; what is written in
    Rust there is Python here, so this class works where the compiled module is missing.

    No request fails because of the server, and none waits for longer than `command_timeout`: what
    is not answered is a miss, and while nobody answers (a circuit breaker) nothing is asked. A
    revocation that cannot be confirmed is an `InvalidationError`.

    Made from a URL, a cache may be used from any event loop; it connects when it is first used.

    Args:
        redis_client: A URL (see `sark_cache.redis.urls`), or a client of `redis.asyncio` or
            `valkey.asyncio`, which is yours to close. None: `redis://localhost:6379/0`.
        ttl_seconds: How long an entry lives unless `set` says otherwise, in seconds; None: 300.
        enabled: If False, `get` returns None, `set` returns False and no metric moves.
        stale_while_revalidate: Whether hits near their end are refreshed in the background by
            the callback, if one is set.
        use_optimized_ttl: Whether a `sensitivity` chooses the time to live from `OPTIMIZED_TTL`.
        connect_timeout: The longest to wait for a connection, in seconds; of a client made here.
        command_timeout: The longest that a request waits for the server, in seconds.

    Raises:
        ImportError: Neither redis-py nor valkey-py is installed; the message says how to get it.
        TypeError, ValueError: An argument that cannot be used; the message names it.
    """

    backend: ClassVar[str] = "redis"
    KEY_PREFIX: ClassVar[str] = "policy:decision"
    DEFAULT_TTL_SECONDS: ClassVar[int] = 300
    DEFAULT_MAX_SIZE: ClassVar[int] = 10_000
    STALE_THRESHOLD_RATIO: ClassVar[float] = 0.3
    OPTIMIZED_TTL: ClassVar[Mapping[str, float]] = {
        "critical": 60,
        "confidential": 120,
        "internal": 180,
        "public": 300,
        "default": 120,
    }

    def __init__(
        self,
        redis_client: Any | None = None,  # noqa: ANN401 - a client of either library, or a URL
        ttl_seconds: float | None = None,
        enabled: bool = True,  # noqa: FBT001, FBT002 - the signature is SARK's
        stale_while_revalidate: bool = True,  # noqa: FBT001, FBT002
        use_optimized_ttl: bool = True,  # noqa: FBT001, FBT002
        *,
        connect_timeout: float = 0.05,
        command_timeout: float = 0.25,
    ) -> None:
        self.ttl_seconds = ttl_seconds
        self.enabled = enabled
        self.use_optimized_ttl = use_optimized_ttl
        self.stale_while_revalidate = stale_while_revalidate
        self.revalidate_callback: RevalidateCallback | None = None
        self._closed = False
        self._faults: Final = FaultLog(self.backend)
        self._links: Final = Links(
            DEFAULT_URL if redis_client is None else redis_client,
            arguments.read_timeout("connect_timeout", connect_timeout),
            arguments.read_timeout("command_timeout", command_timeout),
            self._faults.report,
        )
        self._store: Final = Store(self.KEY_PREFIX)
        self._flights: Final = new_flights()
        self._refreshes: Final = Refreshes(self._fault)
        self._refreshed: Final[set[str]] = set()
        self._asking: Final[Counter[FlightKey]] = Counter()
        self._counters: Final = Counters()
        self._requests, self._evaluations = Latency(), Latency()
        self._position: str | None = None
        self._size = 0

    @classmethod
    def from_url(
        cls,
        url: str,
        ttl_seconds: float | None = None,
        *,
        enabled: bool = True,
        stale_while_revalidate: bool = True,
        use_optimized_ttl: bool = True,
        connect_timeout: float = 0.05,
        command_timeout: float = 0.25,
    ) -> Self:
        """A cache on the server that a URL names: see `sark_cache.redis.urls` for what it may say.

        Raises:
            TypeError, ValueError: An argument that cannot be used; the message names it.
        """
        if not isinstance(url, str):
            arguments.refuse("url", "a str", url)
        return cls(
            url,
            ttl_seconds,
            enabled,
            stale_while_revalidate,
            use_optimized_ttl,
            connect_timeout=connect_timeout,
            command_timeout=command_timeout,
        )

    # Settings

    @property
    def enabled(self) -> bool:
        """Whether the cache serves and stores."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled = arguments.check_boolean("enabled", enabled)

    @property
    def use_optimized_ttl(self) -> bool:
        """Whether a given sensitivity decides how long an entry lives."""
        return self._use_optimized_ttl

    @use_optimized_ttl.setter
    def use_optimized_ttl(self, value: bool) -> None:
        self._use_optimized_ttl = arguments.check_boolean("use_optimized_ttl", value)

    @property
    def ttl_seconds(self) -> float:
        """How long an entry lives unless told otherwise, in seconds; settable."""
        return self._ttl_seconds

    @ttl_seconds.setter
    def ttl_seconds(self, ttl_seconds: float | None) -> None:
        self._ttl_seconds = arguments.read_default_ttl(ttl_seconds, self.DEFAULT_TTL_SECONDS)

    @property
    def max_size(self) -> int:
        """0: the server's `maxmemory` bounds it, and no number of entries."""
        return 0

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    # Requests

    async def get(
        self,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None = None,
        sensitivity: str | None = None,
    ) -> JSONObject | None:
        """The cached decision for a request, a new dict, or None. One round trip.

        Raises:
            TypeError: An argument of the wrong type; the message names it.
        """
        arguments.check_request(user_id, action, resource, context, sensitivity)
        if not self._serves:
            return None
        request, found = await self._look_up("get", user_id, action, resource, context)
        if request is None or found.entry is None:
            return None
        self._hit(request, found, sensitivity)
        return found.entry.decision

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
        stamp: Stamp | None = None,
    ) -> bool:
        """Stores a decision; True if it was stored. One round trip.

        A decision that cannot be stored (not JSON, too large, no time to live) drops the one that
        was stored before: it has superseded it. So does one that the server has no memory for.

        Args:
            user_id: Who asks.
            action: To do what.
            resource: To what.
            decision: A JSON object; with its key and tags at most 64 KiB.
            context: What else the decision depends on: a JSON object.
            ttl_seconds: How long it lives, in seconds; 0 stores nothing. None: by its
                sensitivity, else as the cache says. At most a hundred years.
            sensitivity: A name in `OPTIMIZED_TTL`; others count for nothing.
            tags: Names to revoke it by later.
            stamp: What `stamp()` returned before the decision was evaluated. If something that
                revokes it came in between, by any process, it is not stored: the server looks, in
                the same step. None: the moment of this call.

        Raises:
            TypeError: An argument of the wrong type; the message names it.
            ValueError: A negative or NaN `ttl_seconds`, or a stamp of another cache.
        """
        arguments.check_request(user_id, action, resource, context, sensitivity)
        arguments.check_decision(decision)
        self._check_stamp(stamp)
        names = arguments.read_tags(tags)
        ttl = self._ttl(arguments.read_ttl(ttl_seconds), sensitivity)
        if not self._serves:
            return False
        row = (user_id, action, resource, decision, context, ttl)
        return await self._put("set", [row], names, stamp) == 1

    async def get_or_load(
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
    ) -> JSONObject:
        """The cached decision or, if there is none, what `loader()` brings, which is then stored.

        One loader runs for all tasks of this process that ask meanwhile (with the compiled module
        in all threads and event loops, without it in one event loop), as with `RustPolicyCache`;
        other processes run their own. What is revoked meanwhile, by any process, is not stored:
        the server looks, in the step that stores. Who asks after a revocation does not join an
        evaluation that began before it. While the server does not answer, nobody can tell that,
        and each request evaluates for itself.

        Args:
            user_id: Who asks.
            action: To do what.
            resource: To what.
            loader: An async function without arguments that returns the decision, a JSON object,
                or a `Loaded` with one, its time to live and its tags.
            context: What else the decision depends on: a JSON object.
            ttl_seconds: How long it lives, in seconds; 0 shares it and stores nothing. None: by its
                sensitivity, else as the cache says.
            sensitivity: A name in `OPTIMIZED_TTL`; others count for nothing.
            tags: Names to revoke it by. Who names others runs a loader of their own.

        Raises:
            TypeError: An argument of the wrong type, or a loader that brings no decision.
            ValueError: A negative or NaN `ttl_seconds`.
            RuntimeError: A loader asks for its own key, or two for each other's.
        """
        arguments.check_request(user_id, action, resource, context, sensitivity)
        arguments.check_loader(loader)
        names = arguments.read_tags(tags)
        ttl = self._ttl(arguments.read_ttl(ttl_seconds), sensitivity)
        if not self._serves:
            return await evaluate(loader, cache=self)
        request, found = await self._look_up("get_or_load", user_id, action, resource, context)
        if request is not None and found.entry is not None:
            self._hit(request, found, sensitivity)
            return found.entry.decision
        if request is None or found.position is None:
            return await self._evaluate_alone(loader)
        return await self._load(request, found, loader, ttl, names)

    async def get_batch(self, requests: Iterable[BatchRequest]) -> list[JSONObject | None]:
        """The decisions for many requests, in their order. One round trip (to each primary).

        Raises:
            TypeError: Requests of the wrong shape; the message names the row.
        """
        rows = arguments.read_requests(requests)
        if not self._serves:
            return [None] * len(rows)
        self._counters.add("batch_operations")
        started = perf_counter()
        decisions: list[JSONObject | None] = [None] * len(rows)
        asked: dict[int, RequestKey] = {}
        for at, row in enumerate(rows):
            request = self._request("get_batch", *row)
            if request is not None:
                asked[at] = request.key
        if asked:
            found = await self._store.look_up_many(self._links.current(), list(asked.values()))
            for at, one in zip(asked, found, strict=True):
                if one.fault is not None:
                    self._fault("get_batch", one.fault)
                if one.entry is not None:
                    decisions[at] = one.entry.decision
        hits = sum(decision is not None for decision in decisions)
        self._counters.add("hits", hits)
        self._counters.add("misses", len(rows) - hits)
        for _ in rows:
            self._requests.record((perf_counter() - started) / len(rows))
        return decisions

    async def set_batch(
        self,
        entries: Iterable[BatchEntry],
        *,
        tags: Collection[str] = (),
        stamp: Stamp | None = None,
    ) -> int:
        """Stores many decisions; returns how many were stored. One round trip for 500 of them.

        `tags` and `stamp` are those of every entry, as in `set`.

        Raises:
            TypeError: Entries of the wrong shape; the message names the row.
            ValueError: As `set`.
        """
        rows = arguments.read_entries(entries)
        self._check_stamp(stamp)
        names = arguments.read_tags(tags)
        if not self._serves:
            return 0
        self._counters.add("batch_operations")
        timed = [(*row[:5], self._ttl(arguments.read_ttl(row[5]), None)) for row in rows]
        return await self._put("set_batch", timed, names, stamp)

    async def preload_cache(
        self,
        preload_data: Iterable[BatchEntry],
        *,
        tags: Collection[str] = (),
        stamp: Stamp | None = None,
    ) -> int:
        """Stores many decisions, as `set_batch` does; returns how many were stored."""
        return await self.set_batch(preload_data, tags=tags, stamp=stamp)

    def stamp(self) -> Stamp:
        """The stamp of now: take it before evaluating a decision that `set` is to store.

        No round trip: it says how much of the log this process knew. So a revocation by another
        process just before it may keep a decision from being stored that could have been; and one
        taken before this cache was first used, by a `get` or `health_check` say, keeps any.
        """
        return Stamp(self._store.log, self._position)

    # Revocations

    async def delete(
        self, user_id: str, action: str, resource: str, context: Context | None = None
    ) -> bool:
        """Revokes and removes one decision; True if it was there.

        Raises:
            TypeError: An argument of the wrong type; the message names it.
            InvalidationError: The server cannot confirm it.
        """
        arguments.check_request(user_id, action, resource, context, None)
        try:
            request = _read_request(self.KEY_PREFIX, user_id, action, resource, context)
        except NotJSONError as error:
            self._fault("delete", str(error))
            if error.__cause__ is not None:
                raise _unconfirmed("delete", str(error)) from error.__cause__
            return False  # nothing was ever stored under it
        key = request.key
        removed = await self._confirmed("delete", lambda link: self._store.remove(link, key))
        self._counters.add("invalidations", removed)
        return bool(removed)

    async def invalidate(
        self,
        user_id: str | None = None,
        action: str | None = None,
        resource: str | None = None,
        *,
        tags: Collection[str] = (),
    ) -> int:
        """Revokes every decision that matches all given fields; none given: all decisions.

        In force for all processes when it returns; what is being evaluated anywhere is not stored.
        Walks over all keys, on a cluster of every primary, about a second for a million, without
        blocking the server. Replicas that are connected have it, too, before it returns.

        Returns:
            How many entries died.

        Raises:
            TypeError: An argument of the wrong type; the message names it.
            InvalidationError: The server cannot confirm it, or slots of a cluster are moving.
        """
        arguments.check_optional("user_id", user_id)
        arguments.check_optional("action", action)
        arguments.check_optional("resource", resource)
        named = arguments.read_tags(tags)
        names = tuple(tag for tag in named if _is_utf8(tag))
        scope = Scope(user_id, action, resource)
        if not all(part is None or _is_utf8(part) for part in scope) or (named and not names):
            return 0  # nothing was ever stored under what is no UTF-8
        died = await self._confirmed(
            "invalidate", lambda link: self._store.invalidate(link, scope, names)
        )
        self._counters.add("invalidations", died)
        return died

    async def invalidate_pattern(self, pattern: str) -> int:
        """Revokes every decision whose key matches a Redis glob; returns how many died.

        Nothing that is being evaluated anywhere is stored, whether or not it matches.

        Raises:
            TypeError, ValueError: No str, one of more than 1,024 bytes, or no UTF-8.
            InvalidationError: As `invalidate`.
        """
        arguments.check_pattern(pattern)
        died = await self._confirmed(
            "invalidate_pattern", lambda link: self._store.invalidate_pattern(link, pattern)
        )
        self._counters.add("invalidations", died)
        return died

    async def clear(self) -> bool:
        """Revokes and removes all decisions. Always True.

        Raises:
            InvalidationError: As `invalidate`.
        """
        await self.invalidate()
        return True

    async def clear_all(self) -> bool:
        """The same as `clear`."""
        return await self.clear()

    # Upkeep

    async def size(self) -> int:
        """The number of live entries; walks over all keys. 0 if the server does not answer."""
        if self._closed:
            return 0
        try:
            self._size = await self._store.size(self._links.current())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not the caller's fault
            self._fault("size", told(error))
            return 0
        return self._size

    async def get_cache_size(self) -> int:
        """The same as `size`."""
        return await self.size()

    async def cleanup_expired(self) -> int:
        """0: the server removes expired entries by itself."""
        return 0

    async def health_check(self) -> bool:
        """Whether the server answers now."""
        if self._closed:
            return False
        link = self._links.current()
        if not await link.answers():
            return False
        if self._position is None:  # so that stamps are good from here on
            try:
                self._position = await self._store.position(link, link.deadline())
            except UnavailableError as error:
                self._fault("health_check", str(error))
                return False
        return True

    async def close(self) -> None:
        """Stops serving, ends what runs in the background, closes the connections made here."""
        self._closed = True
        refreshes = self._refreshes.stop()
        await self._refreshes.ended(refreshes)
        await self._links.close()

    async def __aenter__(self) -> Self:
        if self._closed:
            message = "this cache is closed; make another one"
            raise RuntimeError(message)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(ttl_seconds={self.ttl_seconds}, enabled={self.enabled})"

    def set_revalidate_callback(self, callback: RevalidateCallback) -> None:
        """Sets what evaluates a request anew when its entry nears its end.

        A hit with `sensitivity` "critical" or "confidential" in the last 30 % of its time to live
        (`STALE_THRESHOLD_RATIO`) is served and, once in this process, refreshed in the background:
        what `callback(user_id, action, resource, context)` returns, a decision or a `Loaded`, is
        stored for the time to live of that sensitivity, with the tags of what it replaces. An
        invalidation meanwhile ends it as it ends any load.
        """
        self.revalidate_callback = callback

    # Metrics

    def record_opa_latency(self, latency_ms: float) -> None:
        """Adds the duration of one evaluation, in milliseconds.

        Raises:
            TypeError, ValueError: No number, or a negative, infinite or NaN one.
        """
        self._evaluations.record(arguments.read_latency(latency_ms) / 1e3)

    @property
    def metrics(self) -> CacheMetrics:
        """What the cache counted: a snapshot. `size` is what `size()` last found."""
        return CacheMetrics(
            **self._counters.totals(),
            size=self._size,
            max_size=self.max_size,
            avg_cache_latency_ms=self._requests.mean_ms,
            avg_opa_latency_ms=self._evaluations.mean_ms,
            cache_latency_p50_us=self._requests.percentile(0.50) * 1e6,
            cache_latency_p95_us=self._requests.percentile(0.95) * 1e6,
            cache_latency_p99_us=self._requests.percentile(0.99) * 1e6,
        )

    def get_metrics(self) -> dict[str, int | float]:
        """What the cache counted, as a dict. No round trip."""
        return self.metrics.to_dict()

    def reset_metrics(self) -> None:
        """Sets every counter and histogram to zero."""
        self._counters.reset()
        self._requests.reset()
        self._evaluations.reset()

    def latency_histogram(
        self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS
    ) -> LatencyHistogram:
        """How long requests to the cache took; every one is measured."""
        return self._requests.histogram(bounds)

    def evaluation_histogram(
        self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS
    ) -> LatencyHistogram:
        """How long evaluations took, as `record_opa_latency` was told."""
        return self._evaluations.histogram(bounds)

    # How it is done

    @property
    def _serves(self) -> bool:
        return self._enabled and not self._closed

    def _fault(self, operation: str, reason: str) -> None:
        self._counters.add("errors")
        self._faults.report(operation, reason)

    def _ttl(self, explicit: float | None, sensitivity: str | None) -> float:
        if explicit is not None:
            return explicit
        if sensitivity is not None and self._use_optimized_ttl:
            ttl = self.OPTIMIZED_TTL.get(sensitivity)
            if ttl is not None:
                return arguments.read_default_ttl(ttl, self._ttl_seconds)
        return self._ttl_seconds

    def _check_stamp(self, stamp: object) -> None:
        if stamp is not None and not isinstance(stamp, Stamp):
            arguments.refuse("stamp", "what stamp() returned, or None", stamp)
        if stamp is not None and stamp.log != self._store.log:
            message = "stamp was taken from another cache"
            raise ValueError(message)

    def _request(
        self, operation: str, user_id: str, action: str, resource: str, context: Context | None
    ) -> _Request | None:
        try:
            return _read_request(self.KEY_PREFIX, user_id, action, resource, context)
        except NotJSONError as error:
            self._fault(operation, str(error))
            return None

    async def _look_up(
        self, operation: str, user_id: str, action: str, resource: str, context: Context | None
    ) -> tuple[_Request | None, Found]:
        """What is there for a request; counted if it is a miss."""
        started = perf_counter()
        request: _Request | None = None
        found = _NOTHING
        link = self._links.current()
        if link.is_cut:
            self._fault(operation, "the circuit is open")
        elif (request := self._request(operation, user_id, action, resource, context)) is not None:
            try:
                found = await self._store.look_up(link, request.key)
            except UnavailableError as error:
                self._fault(operation, str(error))
            if found.fault is not None:
                self._fault(operation, found.fault)
            self._position = found.position or self._position
        if found.entry is None:
            self._counters.add("misses")
        self._requests.record(perf_counter() - started)
        return request, found

    def _hit(self, request: _Request, found: Found, sensitivity: str | None) -> None:
        """Counts a hit, and begins to refresh what nears its end."""
        refreshed = (
            sensitivity in REFRESHED_SENSITIVITIES
            and self.stale_while_revalidate
            and self.revalidate_callback is not None
            and found.entry is not None
            and found.left_seconds < found.entry.ttl_seconds * self.STALE_THRESHOLD_RATIO
        )
        self._counters.add("stale_hits" if refreshed else "hits")
        if refreshed and request.key.text not in self._refreshed:
            self._refreshed.add(request.key.text)
            self._refreshes.begin(self._refresh(request, found, sensitivity))

    async def _refresh(self, request: _Request, found: Found, sensitivity: str | None) -> None:
        try:
            self._counters.add("revalidations")
            link, callback = self._links.current(), self.revalidate_callback
            position = found.position or await self._store.position(link, link.deadline())
            if callback is None or found.entry is None or position is None:
                return
            arguments_ = (request.user_id, request.action, request.resource, request.context)
            evaluation = Evaluation(self, lambda: callback(*arguments_), ahead=True)
            decision, ttl, tags = await evaluated(evaluation)
            tags = (*found.entry.tags, *arguments.read_tags(tags))
            ttl = self._ttl(arguments.read_ttl(ttl), sensitivity)
            await self._put_loaded(
                "refresh", request, decision, ttl, tags, found._replace(position=position)
            )
        finally:
            self._refreshed.discard(request.key.text)

    async def _load(
        self,
        request: _Request,
        found: Found,
        loader: Loader,
        ttl: float,
        tags: tuple[str, ...],
    ) -> JSONObject:
        """What the loader of this request brings, or of one like it that is under way."""
        brought: list[Mapping[str, Any]] = []

        async def lead() -> str | None:
            self._counters.add("loads")
            try:
                decision, late_ttl, late_tags = await evaluated(evaluation)
            except Exception:
                self._counters.add("load_errors")
                raise
            lives = ttl if late_ttl is None else arguments.read_ttl(late_ttl)
            names = (*tags, *arguments.read_tags(late_tags))
            brought.append(decision)
            return await self._put_loaded("get_or_load", request, decision, lives, names, found)

        flight = (request.key.text, request.key.context, found.position, *sorted(set(tags)))
        evaluation = Evaluation(self, loader, waiting=lambda: self._asking[flight] - 1)
        self._asking[flight] += 1
        try:
            shared = await self._flights.run(flight, lead)
        finally:
            self._asking[flight] -= 1
            if not self._asking[flight]:
                del self._asking[flight]
        if shared is None:
            # It cannot be copied, so everybody evaluates.
            return cast("JSONObject", brought[0]) if brought else await self._evaluate_alone(loader)
        if not brought:
            self._counters.add("coalesced")
        decision: JSONObject = json.loads(shared)
        return decision

    async def _evaluate_alone(self, loader: Loader) -> JSONObject:
        self._counters.add("loads")
        return await evaluate(loader, lambda: self._counters.add("load_errors"), self)

    async def _put_loaded(
        self,
        operation: str,
        request: _Request,
        decision: Mapping[str, Any],
        ttl: float | None,
        tags: tuple[str, ...],
        found: Found,
    ) -> str | None:
        """Stores what was evaluated, unless it was revoked or superseded meanwhile.

        The decision as text that others may be given; None if there can be none.
        """
        try:
            text = written(plain_mapping(decision))
            _check_tags(tags)
            write = _write(request, text, ttl or 0.0, tags)
        except NotJSONError as error:
            self._fault(operation, str(error))
            await self._drop(operation, request.key)
            return None
        if ttl and self._serves:
            over = Over.NOTHING if found.held is None else Over.WHAT_WAS_SEEN
            [outcome] = await self._store.put_fenced(
                self._links.current(), [write], found.position or "", over, found.held or ""
            )
            self._count_outcome(operation, outcome)
        # What flies has a key of its own, which must have room beside it.
        return text if len(write.text) < MAX_SHARED else None

    async def _put(
        self,
        operation: str,
        rows: Sequence[arguments.Row],
        tags: tuple[str, ...],
        stamp: Stamp | None,
    ) -> int:
        """Stores what callers bring; how many of them were stored."""
        writes: list[Write] = []
        for user_id, action, resource, decision, context, ttl in rows:
            request = self._request(operation, user_id, action, resource, context)
            if request is None:
                continue
            try:
                _check_tags(tags)
                text = written(plain_mapping(decision))
                write = _write(request, text, ttl, tags) if ttl else None
            except NotJSONError as error:
                self._fault(operation, str(error))
                write = None
            if write is None:
                await self._drop(operation, request.key)
            else:
                writes.append(write)
        if not writes:
            return 0
        link = self._links.current()
        if stamp is None:
            outcomes = await self._store.put(link, writes)
        else:
            outcomes = await self._store.put_fenced(link, writes, stamp.position or "")
            if stamp.position is None and self._position is None:
                await self.health_check()
        for write, outcome in zip(writes, outcomes, strict=True):
            self._count_outcome(operation, outcome)
            if isinstance(outcome, Exception) and "OOM" in told(outcome):
                await self._drop(operation, write.key)
        return sum(outcome is Outcome.STORED for outcome in outcomes)

    def _count_outcome(self, operation: str, outcome: Outcome | Exception) -> None:
        if isinstance(outcome, Exception):
            reason = str(outcome) if isinstance(outcome, UnavailableError) else told(outcome)
            self._fault(operation, reason)
        elif outcome is Outcome.OVERTAKEN:
            self._counters.add("invalidations")

    async def _drop(self, operation: str, key: RequestKey) -> None:
        """Removes what was superseded by something that is not stored."""
        link = self._links.current()
        if link.is_open(key.text):
            return
        try:
            await self._store.discard(link, key)
        except UnavailableError as error:
            self._fault(operation, str(error))

    async def _confirmed(self, operation: str, revoke: Callable[[Link], Awaitable[int]]) -> int:
        if self._closed:
            raise _unconfirmed(operation, "this cache is closed")
        try:
            return await revoke(self._links.current())
        except Exception as error:
            reason = str(error) if type(error).__module__.startswith("sark_cache") else told(error)
            self._fault(operation, reason)
            raise _unconfirmed(operation, reason) from error


_NOTHING = Found()


def _read_request(
    prefix: str, user_id: str, action: str, resource: str, context: Context | None
) -> _Request:
    copied = plain_mapping(context) if context is not None else None
    try:
        key = request_key(prefix, user_id, action, resource, copied)
        key.text.encode()
    except UnicodeEncodeError:
        message = "a string with a lone surrogate, which UTF-8 cannot hold"
        raise NotJSONError(message) from None
    return _Request(user_id, action, resource, copied, key)


def _write(request: _Request, decision: str, ttl: float, tags: tuple[str, ...]) -> Write:
    tags = tuple(dict.fromkeys(tags))
    key = request.key
    return Write(
        key,
        encode(key, decision, ttl, tags),
        max(1, int(ttl * 1e3)),
        subject(key, request.user_id, request.action, request.resource, tags),
    )


def _check_tags(tags: tuple[str, ...]) -> None:
    if not all(map(_is_utf8, tags)):
        message = "a tag with a lone surrogate, which UTF-8 cannot hold"
        raise NotJSONError(message)


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unconfirmed(operation: str, reason: str) -> InvalidationError:
    return InvalidationError(
        f"{operation} could not be confirmed by the redis cache: {reason}. What was to be revoked "
        "may still be served; try again, or set enabled = False until it succeeds"
    )
