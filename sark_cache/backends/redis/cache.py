"""`PolicyCache`: authorization decisions in Redis or Valkey, shared by all processes."""

import time
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from math import ceil, floor
from time import perf_counter
from typing import Any, ClassVar, Final, Self

from sark_cache._core import arguments
from sark_cache._core.arguments import NOT_GIVEN
from sark_cache._core.coroutines import Deferred, returns_awaitable
from sark_cache._core.json import NotJSONError
from sark_cache._core.keys import RequestKey, Scope
from sark_cache.backends._shared.defaults import settings_in_force, url_in_environment
from sark_cache.backends._shared.loading import evaluate
from sark_cache.backends._shared.recorder import MetricsRecorder, RecordedMetrics
from sark_cache.backends._shared.revalidation import Revalidation
from sark_cache.backends._shared.revocations import Revocations
from sark_cache.backends._shared.ttl import time_to_live
from sark_cache.backends.base import BasePolicyCache
from sark_cache.backends.redis import scripts
from sark_cache.backends.redis.connection import GuardedConnection, UnavailableError, describe
from sark_cache.backends.redis.connections import ConnectionPerLoop
from sark_cache.backends.redis.loads import Lifetime, LoadRunner
from sark_cache.backends.redis.request import Request, can_be_fields, can_be_tag
from sark_cache.backends.redis.store import DecisionStore, LookupResult, boot_time
from sark_cache.backends.redis.writer import DecisionWriter
from sark_cache.decision import Decision
from sark_cache.errors import InvalidationError
from sark_cache.metrics import CacheMetrics
from sark_cache.types import (
    BatchEntry,
    BatchRequest,
    Context,
    JSONObject,
    Loader,
    RevalidateCallback,
)

DEFAULT_URL = "redis://localhost:6379/0"
CONNECT_SECONDS = 0.05
COMMAND_SECONDS = 0.25
CLOSE_SECONDS = 1.0
"""How long a cache that is closed waits for the revocations that are under way."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """A moment in the life of what a cache keeps in Redis, as far as this process knew of it."""

    log: str
    position: str | None
    """The log's newest record; None: nothing was heard of it yet."""
    taken_at: float = field(default_factory=boot_time)
    """When it was taken, in seconds of no known beginning."""
    taken_at_time: float = field(default_factory=time.time)
    """The same by the clock of this process."""

    def fence(self) -> str:
        """Returns what a write may not overtake: the position, or how old the stamp is."""
        if self.position is not None:
            return self.position
        age = ceil(1e3 * (boot_time() - self.taken_at)) + scripts.AGE_MARGIN_MS
        time_ms = floor(1e3 * self.taken_at_time) - scripts.AGE_MARGIN_MS
        return f"{max(0, age)}:{max(0, time_ms)}"


class PolicyCache(RecordedMetrics, BasePolicyCache):
    """Authorization decisions in Redis or Valkey, on one server, through Sentinel or on a cluster.

    The interface of `RustPolicyCache`, shared by every process that uses the same server: a
    revocation by one is in force for all. A hit is one round trip, 0.1 to 1 ms; what is written in
    Rust there is Python here, so this class works where the compiled module is missing.

    No request fails because of the server, and none waits for longer than `command_timeout`: what
    is not answered is a miss, and while nobody answers (a circuit breaker) nothing is asked. A
    revocation that cannot be confirmed is an `InvalidationError`.

    Made from a URL, a cache may be used from any event loop; it connects when it is first used.

    Args:
        redis_client: A URL (see `from_url`), or a client of `redis.asyncio` or
            `valkey.asyncio`, which is yours to close. None: the server, namespace, time to live and
            time-outs of the settings in force, unless given; `redis://localhost:6379/0` if they
            name no server.
        ttl_seconds: How long an entry lives unless `set` says otherwise, in seconds; None: 300.
        enabled: If False, `get` returns None, `set` returns False and no metric moves. A decision
            that is set or loaded then still ends the one that is stored for its request.
        stale_while_revalidate: Whether hits near their end are refreshed in the background by
            the callback, if one is set.
        use_optimized_ttl: Whether a `sensitivity` shortens the time to live, to `OPTIMIZED_TTL`.
        connect_timeout: The longest to wait for a connection, in seconds; of a client made here.
            None: 0.05.
        command_timeout: The longest that a request waits for the server, in seconds. None: 0.25.
        namespace: Stands before every key, so that services that share a server share no decision
            and no revocation: at most 64 letters, digits and characters of `._:/-`.
        replicas: The number of replicas that have to confirm a revocation at least, on a cluster
            of each primary. None: those that the primary counts; where the server does not let
            them be counted, none, which is logged once.

    Raises:
        ImportError: Neither redis-py nor valkey-py is installed; the message says how to get it.
        TypeError, ValueError: An argument that cannot be used; the message names it.
    """

    backend: ClassVar[str] = "redis"

    def __init__(
        self,
        redis_client: Any | None = None,  # noqa: ANN401 - a client of either library, or a URL
        ttl_seconds: float | None = None,
        enabled: bool = True,  # noqa: FBT001, FBT002 - the signature is SARK's
        stale_while_revalidate: bool = True,  # noqa: FBT001, FBT002
        use_optimized_ttl: bool = True,  # noqa: FBT001, FBT002
        *,
        connect_timeout: float | None = None,
        command_timeout: float | None = None,
        namespace: str = "",
        replicas: int | None = None,
    ) -> None:
        settings = settings_in_force() if redis_client is None else None
        if settings is not None:
            url = settings.redis_url
            redis_client = None if url is None else url.get_secret_value()
            ttl_seconds = settings.cache_ttl if ttl_seconds is None else ttl_seconds
            connect_timeout = _first_given(connect_timeout, settings.redis_connect_timeout)
            command_timeout = _first_given(command_timeout, settings.redis_command_timeout)
            namespace = namespace or settings.namespace
        elif redis_client is None:
            redis_client = url_in_environment()
        self.ttl_seconds = ttl_seconds
        self.enabled = enabled
        self.use_optimized_ttl = use_optimized_ttl
        self.stale_while_revalidate = stale_while_revalidate
        self.revalidate_callback: RevalidateCallback | None = None
        self._closed = False
        self._ended = False
        self._recorder = MetricsRecorder(self.backend)
        self._store: Final = DecisionStore(arguments.read_namespace(namespace))
        self._connections: Final = ConnectionPerLoop(
            DEFAULT_URL if redis_client is None else redis_client,
            arguments.read_timeout(
                "connect_timeout", _first_given(connect_timeout, CONNECT_SECONDS)
            ),
            arguments.read_timeout(
                "command_timeout", _first_given(command_timeout, COMMAND_SECONDS)
            ),
            self._recorder.report,
            log=self._store.log,
            replicas=arguments.read_replicas(replicas),
        )
        self._writer: Final = DecisionWriter(
            self._store,
            self._connections,
            self._recorder,
            lambda: self._serves,
            lambda: self._closed,
        )
        self._load_runner: Final = LoadRunner(self, self._writer, self._recorder)
        self._revocations: Final = Revocations(
            self._on_unawaited_failure, self._connections.loop_for_threads
        )
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
        connect_timeout: float | None = None,
        command_timeout: float | None = None,
        namespace: str = "",
        replicas: int | None = None,
    ) -> Self:
        """Returns a cache on the server that a URL names.

        The URL may be of one server (`redis://`, `rediss://`, `unix://`), of Sentinels
        (`redis+sentinel://`) or of a cluster (`redis+cluster://`), and takes the options that
        `redis.asyncio.from_url` takes. The page on servers shows each form.

        Raises:
            TypeError, ValueError: An argument that cannot be used; the message names it.
        """
        arguments.check_text("url", url)
        return cls(
            url,
            ttl_seconds,
            enabled,
            stale_while_revalidate,
            use_optimized_ttl,
            connect_timeout=connect_timeout,
            command_timeout=command_timeout,
            namespace=namespace,
            replicas=replicas,
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
        """Whether a given sensitivity shortens how long an entry lives."""
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
    def redis(self) -> Any:  # noqa: ANN401 - a client of either library
        """The client that the running event loop uses, as in SARK.

        What it writes is no decision of this cache's.

        Raises:
            RuntimeError: No event loop runs.
            UnavailableError: The cache is closed, or was given a client of another event loop.
        """
        return self._connections.current().client

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
        *,
        policy: str = "",
    ) -> JSONObject | None:
        """The cached decision for a request, a new dict, or None. One round trip.

        Raises:
            TypeError: An argument of the wrong type; the message names it.
        """
        arguments.check_request(user_id, action, resource, context, sensitivity)
        arguments.read_policy(policy)
        if not self._serves:
            return None
        request, found = await self._look_up("get", policy, user_id, action, resource, context)
        if request is None or found.entry is None:
            return None
        self._count_hit(request, found, sensitivity)
        return found.entry.decision

    async def get_decision(
        self,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None = None,
        sensitivity: str | None = None,
        *,
        policy: str = "",
    ) -> Decision | None:
        """The cached decision for a request as one that cannot be changed, or None.

        One round trip, as `get`; here it saves nothing, since each reply is read anew.

        Raises:
            TypeError: An argument of the wrong type; the message names it.
        """
        decision = await self.get(user_id, action, resource, context, sensitivity, policy=policy)
        try:
            return None if decision is None else Decision(decision)
        except ValueError as error:
            # Another writer's, that JSON in Python takes and this package does not.
            self._recorder.fault("get_decision", describe(error))
            return None

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
        policy: str = "",
    ) -> bool:
        """Stores a decision; True if it was stored. One round trip with a stamp, two without.

        A decision that cannot be stored (not JSON, too large, no time to live) drops the one that
        was stored before: it has superseded it. So does one that the server has no memory for.

        Args:
            user_id: Who asks.
            action: To do what.
            resource: To what.
            decision: A JSON object; with its key and tags at most 64 KiB.
            context: What else the decision depends on: a JSON object.
            ttl_seconds: How long it lives, in seconds; 0 stores nothing. None: as the cache says.
                At most a hundred years.
            sensitivity: A name in `OPTIMIZED_TTL`, whose time it lives at most. Another name is
                warned of once, and changes nothing.
            tags: Names to revoke it by later.
            stamp: What `stamp()` returned before the decision was evaluated. If something that
                revokes it came in between, by any process, it is not stored: the server looks, in
                the same step. None: the moment of this call.
            policy: The name of the policy that decided. Policies share no decision.

        Raises:
            TypeError: An argument of the wrong type; the message names it.
            ValueError: A negative or NaN `ttl_seconds`, or a stamp of another cache.
        """
        arguments.check_request(user_id, action, resource, context, sensitivity)
        arguments.check_decision(decision)
        self._check_stamp(stamp)
        names = arguments.read_tags(tags)
        ttl = self._ttl(arguments.read_ttl(ttl_seconds), sensitivity)
        arguments.read_policy(policy)
        if not self._serves:
            self._writer.supersede(policy, [(user_id, action, resource, context)])
            return False
        row = (user_id, action, resource, decision, context, ttl)
        return await self._write_many("set", policy, [row], names, stamp) == 1

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
        policy: str = "",
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
            ttl_seconds: How long it lives, in seconds; 0 shares it and stores nothing. None: as the
                cache says.
            sensitivity: A name in `OPTIMIZED_TTL`, as in `set`.
            tags: Names to revoke it by. Who names others runs a loader of their own.
            policy: The name of the policy that the loader asks. Policies share no decision.

        Raises:
            TypeError: An argument of the wrong type, or a loader that brings no decision.
            ValueError: A negative or NaN `ttl_seconds`.
            RuntimeError: A loader asks for its own key, or two for each other's.
        """
        arguments.check_request(user_id, action, resource, context, sensitivity)
        arguments.check_loader(loader)
        names = arguments.read_tags(tags)
        lifetime = self._lifetime(arguments.read_ttl(ttl_seconds), sensitivity)
        arguments.read_policy(policy)
        if not self._serves:
            asked = [(user_id, action, resource, context)]
            return await evaluate(
                loader,
                cache=self,
                superseding=lambda: self._writer.supersede(policy, asked),
            )
        request, found = await self._look_up(
            "get_or_load", policy, user_id, action, resource, context
        )
        if request is not None and found.entry is not None:
            self._count_hit(request, found, sensitivity)
            return found.entry.decision
        if request is None or found.position is None:
            return await self._load_runner.load_alone(loader)
        return await self._load_runner.load_shared(request, found, loader, lifetime, names)

    async def get_batch(
        self, requests: Iterable[BatchRequest], *, policy: str = ""
    ) -> list[JSONObject | None]:
        """The decisions for many requests, in their order. One round trip for 500 of them.

        On a cluster one to each primary, at the same time.

        Raises:
            TypeError: Requests of the wrong shape; the message names the row.
        """
        rows = arguments.read_requests(requests)
        arguments.read_policy(policy)
        if not self._serves:
            return [None] * len(rows)
        self._recorder.count("batch_operations")
        started = perf_counter()
        decisions: list[JSONObject | None] = [None] * len(rows)
        asked: dict[int, RequestKey] = {}
        for at, row in enumerate(rows):
            request = self._writer.request("get_batch", policy, *row)
            if request is not None:
                asked[at] = request.key
        if asked:
            refused = {key for key in asked.values() if self._is_superseded(key)}
            found = await self._store.look_up_many(
                self._connections.current(), list(asked.values())
            )
            for (at, key), one in zip(asked.items(), found, strict=True):
                if one.fault is not None:
                    self._recorder.fault("get_batch", one.fault)
                is_refused = key in refused or self._is_superseded(key)
                if one.entry is not None and not is_refused:
                    decisions[at] = one.entry.decision
        hits = sum(decision is not None for decision in decisions)
        self._recorder.count("hits", hits)
        self._recorder.count("misses", len(rows) - hits)
        for _ in rows:
            self._recorder.requests.record((perf_counter() - started) / len(rows))
        return decisions

    async def set_batch(
        self,
        entries: Iterable[BatchEntry],
        *,
        tags: Collection[str] = (),
        stamp: Stamp | None = None,
        policy: str = "",
    ) -> int:
        """Stores many decisions; returns how many were stored. One round trip for 100 of them.

        Without a stamp one more, before them. Many take as long as the server takes; where it does
        not answer, the rest is not tried.

        `tags`, `stamp` and `policy` are those of every entry, as in `set`.

        Raises:
            TypeError: Entries of the wrong shape; the message names the row.
            ValueError: As `set`.
        """
        rows = arguments.read_entries(entries)
        self._check_stamp(stamp)
        names = arguments.read_tags(tags)
        arguments.read_policy(policy)
        if not self._serves:
            self._writer.supersede(policy, [(*row[:3], row[4]) for row in rows])
            return 0
        self._recorder.count("batch_operations")
        timed = [(*row[:5], self._ttl(arguments.read_ttl(row[5]), None)) for row in rows]
        return await self._write_many("set_batch", policy, timed, names, stamp)

    def stamp(self) -> Stamp:
        """Returns the stamp of now: take it before evaluating a decision that `set` is to store.

        No round trip: the stamp holds the position in the log that this process knew. So a
        revocation by another process shortly before it can keep a decision from being stored that
        could have been. A stamp taken before this cache was first used, by a `get` or a
        `health_check` for example, goes by its age: a revocation in the five seconds before it
        counts, too.
        """
        return Stamp(self._store.log, self._store.news.latest)

    # Revocations

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
        """Revokes and removes the decisions for one request; True if there was one.

        With a policy two round trips. Without one the request is revoked under every policy, which
        walks over all keys, as `invalidate` does: name the policy where it is known (`""` for
        decisions that were stored without one).

        On its way when it is called, as `invalidate` is.

        Raises:
            TypeError: An argument of the wrong type; the message names it.
            InvalidationError: The server cannot confirm it.
        """
        arguments.check_request(user_id, action, resource, context, None)
        arguments.check_optional("policy", policy)
        try:
            request = Request.read(
                self._store.prefix, policy or "", user_id, action, resource, context
            )
        except NotJSONError as error:
            return self._delete_nothing(error)

        async def revoke(connection: GuardedConnection) -> int:
            if policy is None:
                scope = request.scope._replace(policy=None)
                return await self._store.invalidate(connection, scope, ())
            return await self._store.remove(connection, request.key)

        async def carry_out() -> bool:
            return await self._confirm("delete", revoke) > 0

        return self._revocations.begin("delete", carry_out)

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
        """Revokes every decision that matches all given fields; none given: all decisions.

        On its way when it is called, and carried out even if nobody awaits it; one that nobody
        awaits and that cannot be confirmed is logged at ERROR and counted.

        In force for all processes when it was awaited; what is being evaluated anywhere is not
        stored. Walks over all keys, on a cluster of every primary, about a second for a million,
        without blocking the server. Replicas that are connected have it, too, before it returns.

        Returns:
            How many entries died.

        Raises:
            TypeError: An argument of the wrong type; the message names it.
            ValueError: Tags were given, and there are none, or too many.
            InvalidationError: The server cannot confirm it, or slots of a cluster are moving.
        """
        scope = Scope(user_id, action, resource, policy)
        for name, part in scope._asdict().items():
            arguments.check_optional(name, part)
        named = arguments.read_revoked_tags(tags)
        if not named and not any(part is not None for part in scope):
            self._recorder.revokes_everything()
        names = tuple(tag for tag in named if can_be_tag(tag))
        if not can_be_fields(scope) or (named and not names):
            return Deferred(_return_zero)  # nothing was ever stored under it
        return self._begin_revocation(
            "invalidate", lambda connection: self._store.invalidate(connection, scope, names)
        )

    @returns_awaitable
    def invalidate_pattern(self, pattern: str) -> Coroutine[object, None, int]:
        """Revokes every decision whose key matches a Redis glob; returns how many died.

        Nothing that is being evaluated anywhere is stored, whether or not it matches. On its way
        when it is called, as `invalidate` is.

        Keys are compared with the glob in this process. That takes up to some 0.1 s for a key of
        the longest fields; the event loop has a turn at least every 10 ms or so.

        Raises:
            TypeError, ValueError: No str, one of more than 1,024 bytes, or no UTF-8.
            InvalidationError: As `invalidate`.
        """
        arguments.check_pattern(pattern)
        return self._begin_revocation(
            "invalidate_pattern",
            lambda connection: self._store.invalidate_pattern(connection, pattern),
        )

    @returns_awaitable
    def clear(self) -> Coroutine[object, None, bool]:
        """Revokes and removes all decisions. Always True. On its way when it is called.

        Raises:
            InvalidationError: As `invalidate`.
        """

        async def carry_out() -> bool:
            await self._confirm(
                "clear", lambda connection: self._store.invalidate(connection, Scope(), ())
            )
            return True

        return self._revocations.begin("clear", carry_out)

    # Upkeep

    async def size(self) -> int:
        """The number of live entries; walks over all keys. 0 if the server does not answer."""
        if self._closed:
            return 0
        try:
            self._size = await self._store.size(self._connections.current())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not the caller's fault
            self._recorder.fault("size", describe(error))
            return 0
        return self._size

    async def cleanup_expired(self) -> int:
        """0: the server removes expired entries by itself."""
        return 0

    async def health_check(self) -> bool:
        """Whether the server answers now."""
        if self._closed:
            return False
        connection = self._connections.current()
        if not await connection.answers():
            return False
        if self._store.news.latest is None:  # so that stamps are good from here on
            try:
                await self._store.position(connection, connection.deadline())
            except UnavailableError as error:
                self._recorder.fault("health_check", str(error))
                return False
        return True

    async def close(self) -> None:
        """Stops serving, ends what runs in the background, closes the connections made here."""
        self._closed = True
        async with AsyncExitStack() as closing:  # all of it, even if one step is cancelled
            closing.push_async_callback(self._connections.close)
            closing.push_async_callback(self._writer.superseded.close)
            closing.push_async_callback(self._load_runner.close)
            try:
                await self._revocations.settled(CLOSE_SECONDS)
            finally:
                self._ended = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}(ttl_seconds={self.ttl_seconds}, enabled={self.enabled})"

    # Metrics

    @property
    def metrics(self) -> CacheMetrics:
        """What the cache counted: a snapshot. `size` is what `size()` last found."""
        return self._recorder.metrics(size=self._size, max_size=self.max_size)

    @property
    def circuit_open(self) -> bool:
        """Whether a server is not asked because it failed; of a cluster: any of its primaries."""
        return self._connections.has_open_circuit

    # How it is done

    @property
    def _serves(self) -> bool:
        return self._enabled and not self._closed

    def _lifetime(self, explicit: float | None, sensitivity: str | None) -> Lifetime:
        """Returns how long a decision lives, given what its loader says."""
        return lambda late: self._ttl(explicit if late is None else late, sensitivity)

    def _ttl(self, explicit: float | None, sensitivity: str | None) -> float:
        known = self.OPTIMIZED_TTL if self._use_optimized_ttl else None
        return time_to_live(explicit, self._ttl_seconds, sensitivity, known)

    def _check_stamp(self, stamp: object) -> None:
        if stamp is not None and not isinstance(stamp, Stamp):
            arguments.refuse("stamp", "what stamp() returned, or None", stamp)
        if stamp is not None and stamp.log != self._store.log:
            message = "stamp was taken from another cache"
            raise ValueError(message)

    async def _look_up(
        self,
        operation: str,
        policy: str,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None,
    ) -> tuple[Request | None, LookupResult]:
        """What is there for a request; counted if it is a miss."""
        started = perf_counter()
        request: Request | None = None
        found = _NOTHING
        connection = self._connections.current()
        if connection.is_unavailable:
            self._recorder.fault(operation, "the circuit is open")
        elif (
            request := self._writer.request(operation, policy, user_id, action, resource, context)
        ) is not None:
            # Asked before, too: it may be removed, and forgotten, while the older reply comes.
            superseded = self._is_superseded(request.key)
            try:
                found = await self._store.look_up(connection, connection.deadline(), request)
            except Exception as error:  # noqa: BLE001 - whatever it is, it fails no request
                self._recorder.fault(operation, describe(error))
            if found.fault is not None:
                self._recorder.fault(operation, found.fault)
            if superseded or self._is_superseded(request.key):
                found = found._replace(entry=None)
        if found.entry is None:
            self._recorder.count("misses")
        spent = perf_counter() - started
        self._recorder.requests.record(spent)
        return request, found if found.entry is not None else found._replace(spent=spent)

    def _is_superseded(self, key: RequestKey) -> bool:
        """Returns whether a newer decision may not have reached the server."""
        superseded = self._writer.superseded
        if not superseded:
            return False
        superseded.start_removal()
        return superseded.refuses(key)

    def _count_hit(self, request: Request, found: LookupResult, sensitivity: str | None) -> None:
        """Counts a hit, and begins to refresh what nears its end."""
        callback = None
        entry = found.entry
        if (
            self.stale_while_revalidate
            and sensitivity in self.REFRESHED_SENSITIVITIES
            and entry is not None
            and found.left_seconds < entry.ttl_seconds * self.STALE_THRESHOLD_RATIO
        ):
            callback = Revalidation(self.revalidate_callback).under(request.policy)
        if callback is None or entry is None:
            self._recorder.count("hits")
            return
        self._recorder.count("stale_hits")

        async def position() -> str | None:
            connection = self._connections.current()
            return found.position or await self._store.position(connection, connection.deadline())

        # It lives as long as what it replaces.
        lifetime = self._lifetime(entry.ttl_seconds, sensitivity)
        self._load_runner.refresh(request, found, callback, position, lifetime)

    async def _write_many(
        self,
        operation: str,
        policy: str,
        rows: Sequence[arguments.Row],
        tags: tuple[str, ...],
        stamp: Stamp | None,
    ) -> int:
        """Stores what callers bring; how many of them were stored."""
        if stamp is None:
            return await self._writer.write_many(operation, policy, rows, tags, None)
        stored = await self._writer.write_many(operation, policy, rows, tags, stamp.fence)
        if stored < len(rows):
            await self._learn_position()
        return stored

    async def _learn_position(self) -> None:
        """Asks where the log is, so that the next stamp is good."""
        connection = self._connections.current()
        with suppress(UnavailableError):  # then no stamp is
            await self._store.position(connection, connection.deadline())

    def _begin_revocation(
        self, operation: str, revoke: Callable[[GuardedConnection], Awaitable[int]]
    ) -> Coroutine[object, None, int]:
        """Begins a revocation, which returns how many entries died."""
        return self._revocations.begin(operation, lambda: self._confirm(operation, revoke))

    def _delete_nothing(self, error: NotJSONError) -> Coroutine[object, None, bool]:
        """Deletes nothing: nothing was ever stored under a context that cannot be read.

        Fails if that was no fault of the context.
        """
        self._recorder.fault("delete", str(error))
        if error.__cause__ is None:
            return Deferred(_return_false)
        unconfirmed, cause = _unconfirmed("delete", str(error)), error.__cause__

        async def fail() -> bool:
            raise unconfirmed from cause

        return self._revocations.begin("delete", fail)

    async def _confirm(
        self, operation: str, revoke: Callable[[GuardedConnection], Awaitable[int]]
    ) -> int:
        try:
            if self._ended:
                message = "this cache is closed"
                raise UnavailableError(message)  # noqa: TRY301 - as what a closed link raises
            removed = await revoke(self._connections.current())
        except Exception as error:
            reason = _reason(error)
            self._recorder.fault(operation, reason)
            raise _unconfirmed(operation, reason) from error
        self._recorder.count("invalidations", removed)
        return removed

    def _on_unawaited_failure(self, operation: str, error: BaseException) -> None:
        """Notes a revocation that failed, and that nobody awaits."""
        self._recorder.unconfirmed(operation, _reason(error.__cause__ or error))


_NOTHING = LookupResult()


def _unconfirmed(operation: str, reason: str) -> InvalidationError:
    return InvalidationError(
        f"{operation} could not be confirmed by the redis cache: {reason}. What was to be revoked "
        "may still be served; try again, or set enabled = False until it succeeds"
    )


def _reason(error: BaseException) -> str:
    """Why something failed, as it may be logged."""
    return str(error) if type(error).__module__.startswith("sark_cache") else describe(error)


def _first_given(given: float | None, default: float) -> float:
    return default if given is None else given


async def _return_false() -> bool:
    return False


async def _return_zero() -> int:
    return 0
