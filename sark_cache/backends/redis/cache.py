"""`PolicyCache`: authorization decisions in Redis or Valkey, shared by all processes."""

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
from functools import partial
from time import perf_counter
from typing import Any, ClassVar, Final, Self, TypeVar

from sark_cache._core import arguments
from sark_cache._core.arguments import NOT_GIVEN
from sark_cache._core.coroutines import Deferred, returns_awaitable
from sark_cache._core.errors import UnavailableError, describe
from sark_cache._core.json import NotJSONError
from sark_cache._core.keys import RequestKey, Scope
from sark_cache.backends._shared.defaults import settings_in_force, url_in_environment
from sark_cache.backends._shared.load_many import (
    Answer,
    BatchEvaluator,
    Gathering,
    Request,
    complete,
    evaluate_alone,
    merged,
    own_rows,
    some_at_once,
)
from sark_cache.backends._shared.loading import evaluate
from sark_cache.backends._shared.recorder import MetricsRecorder, RecordedMetrics
from sark_cache.backends._shared.revalidation import Revalidation
from sark_cache.backends._shared.revocations import Revocations
from sark_cache.backends._shared.ttl import is_refreshed, time_to_live
from sark_cache.backends.base import BasePolicyCache
from sark_cache.backends.redis.connection import GuardedConnection
from sark_cache.backends.redis.connections import ConnectionPerLoop
from sark_cache.backends.redis.loads import Lifetime, LoadRunner
from sark_cache.backends.redis.lookup import LookupResult
from sark_cache.backends.redis.request import KeyedRequest, can_be_fields, can_be_tag
from sark_cache.backends.redis.settle import LostError, whole
from sark_cache.backends.redis.stamp import Stamp
from sark_cache.backends.redis.store import DecisionStore, Revoked
from sark_cache.backends.redis.writer import DecisionWriter
from sark_cache.decision import Decision
from sark_cache.errors import InvalidationError
from sark_cache.metrics import SETTLE_BOUNDS_SECONDS, CacheMetrics, LatencyHistogram
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

DEFAULT_URL = "redis://localhost:6379/0"
CONNECT_SECONDS = 0.05
COMMAND_SECONDS = 0.25
SPAN_SECONDS = arguments.DEFAULT_MAX_STALENESS
CLOSE_SECONDS = 1.0
"""The maximum time, in seconds, that `close` waits for running revocations."""


class PolicyCache(RecordedMetrics, BasePolicyCache):
    """Authorization decisions in Redis or Valkey, on one server, through Sentinel or on a cluster.

    Has the interface of `RustPolicyCache`. All processes that use the same server share the
    decisions, and a revocation by one process takes effect in all. A hit takes one round trip, 0.1
    to 1 ms. This class is written in Python, so it works without the compiled module.

    If the server fails, requests do not: a request without an answer is a miss, and no request
    waits longer than `command_timeout` for the server. While a server does not answer, a circuit
    breaker is open, and requests miss at once. A revocation that the server does not confirm raises
    an `InvalidationError`.

    A cache made from a URL can be used from any event loop. It connects when it is first used.

    Args:
        redis_client: A URL (see `from_url`), or a client of `redis.asyncio` or
            `valkey.asyncio`, which the caller closes. None: the server comes from the settings in
            force, and so do the namespace, time to live, time-outs, `replicas`, `settle` and
            `max_staleness`, unless they are given. If the settings name no server, it is
            `redis://localhost:6379/0`.
        ttl_seconds: The default time to live of an entry, in seconds. None: 300.
        enabled: If False, `get` returns None, `set` returns False, and no metric changes. A
            decision that is set or loaded while it is False removes the stored one of its request.
        stale_while_revalidate: If True, a hit on a stale entry refreshes it in the background with
            the callback, if one is set.
        use_optimized_ttl: If True, a `sensitivity` limits the time to live to its value in
            `OPTIMIZED_TTL`.
        connect_timeout: The maximum time to connect, in seconds. Used only with a URL. None: 0.05.
        command_timeout: The maximum time that a request waits for the server, in seconds. None:
            0.25.
        namespace: The prefix of every key. Services with different namespaces on one server share
            no decisions and no revocations. At most 64 letters, digits and characters of `._:/-`.
        replicas: The minimum number of replicas that must confirm a revocation, on a cluster for
            each primary. None: the number that the primary reports. If the server refuses to report
            it, no replica has to confirm, and a warning is logged once.
        settle: If True, a revocation returns when no process serves the revoked decisions any more,
            not even a `TieredPolicyCache` from its own memory. If False, it returns when the
            servers have confirmed it. None: True.
        max_staleness: The `max_staleness` of the tiered caches on the same server, in seconds, 0.05
            to 60. A revocation waits up to 1.1 times as long for a process that cannot be reached.
            The first revocation after this process has connected may wait that long, too. None: 1.

    Raises:
        ImportError: Neither redis-py nor valkey-py is installed. The message says how to install
            one.
        TypeError, ValueError: An argument cannot be used. The message names it.
    """

    backend: ClassVar[str] = "redis"
    _on_append: Callable[[str], None] | None = None
    """Called with the nonce of each record of the log before it is sent. Set before `__init__`."""

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
        settle: bool | None = None,
        max_staleness: float | None = None,
    ) -> None:
        settings = settings_in_force() if redis_client is None else None
        if settings is not None:
            url = settings.redis_url
            redis_client = None if url is None else url.get_secret_value()
            ttl_seconds = settings.cache_ttl if ttl_seconds is None else ttl_seconds
            connect_timeout = _first_given(connect_timeout, settings.redis_connect_timeout)
            command_timeout = _first_given(command_timeout, settings.redis_command_timeout)
            namespace = namespace or settings.namespace
            settle = settings.settle if settle is None else settle
            max_staleness = _first_given(max_staleness, settings.max_staleness)
            replicas = settings.redis_replicas if replicas is None else replicas
        elif redis_client is None:
            redis_client = url_in_environment()
        self.ttl_seconds = ttl_seconds
        self.enabled = enabled
        self.use_optimized_ttl = use_optimized_ttl
        self.stale_while_revalidate = stale_while_revalidate
        self.revalidate_callback: RevalidateCallback | None = None
        self._settles: Final = arguments.check_boolean("settle", settle is None or settle)
        self._closed = False
        self._ended = False
        self._recorder = MetricsRecorder(self.backend)
        self._store: Final = DecisionStore(
            arguments.read_namespace(namespace),
            arguments.read_max_staleness(_first_given(max_staleness, SPAN_SECONDS)),
            self._on_append,
        )
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
            prefix=self._store.prefix,
            replicas=arguments.read_replicas(replicas),
            settling=lambda: self._store.settling,
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
        settle: bool | None = None,
        max_staleness: float | None = None,
    ) -> Self:
        """Returns a cache that uses the server of a URL.

        The URL names one server (`redis://`, `rediss://`, `unix://`), Sentinels
        (`redis+sentinel://`) or a cluster (`redis+cluster://`). It takes the options of
        `redis.asyncio.from_url`. The page on servers shows each form.

        Raises:
            TypeError, ValueError: An argument cannot be used. The message names it.
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
            settle=settle,
            max_staleness=max_staleness,
        )

    # Settings

    @property
    def enabled(self) -> bool:
        """True if the cache serves and stores decisions. It can be set."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled = arguments.check_boolean("enabled", enabled)

    @property
    def use_optimized_ttl(self) -> bool:
        """True if a sensitivity limits the time to live of an entry. It can be set."""
        return self._use_optimized_ttl

    @use_optimized_ttl.setter
    def use_optimized_ttl(self, value: bool) -> None:
        self._use_optimized_ttl = arguments.check_boolean("use_optimized_ttl", value)

    @property
    def ttl_seconds(self) -> float:
        """The default time to live of an entry, in seconds. It can be set."""
        return self._ttl_seconds

    @ttl_seconds.setter
    def ttl_seconds(self, ttl_seconds: float | None) -> None:
        self._ttl_seconds = arguments.read_default_ttl(ttl_seconds, self.DEFAULT_TTL_SECONDS)

    @property
    def max_size(self) -> int:
        """Always 0: the server's `maxmemory` is the bound, not a number of entries."""
        return 0

    @property
    def redis(self) -> Any:  # noqa: ANN401 - a client of either library
        """The client of the running event loop, as in SARK.

        Values that are written with it are not decisions of this cache.

        Raises:
            RuntimeError: No event loop is running.
            UnavailableError: The cache is closed, or its client belongs to another event loop.
        """
        return self._connections.current().client

    @property
    def closed(self) -> bool:
        """True after `close` was called."""
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
        """Returns the cached decision for a request as a new dict, or None.

        Takes one round trip.

        Raises:
            TypeError: An argument has the wrong type. The message names it.
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
        """Returns the cached decision for a request as an immutable `Decision`, or None.

        Takes one round trip. It is not faster than `get`, because each reply is parsed.

        Raises:
            TypeError: An argument has the wrong type. The message names it.
        """
        decision = await self.get(user_id, action, resource, context, sensitivity, policy=policy)
        try:
            return None if decision is None else Decision(decision)
        except ValueError as error:
            # Another program wrote a value that Python's json accepts and this package does not.
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
        """Stores a snapshot of a decision. Returns True if it was stored.

        Takes one round trip with a stamp, and two without.

        A decision supersedes the stored one of its request even if it cannot be stored itself: if
        it is not JSON, is too large or has a time to live of 0, or if the server has no memory for
        it. Then the stored one is removed.

        Args:
            user_id: The user who makes the request.
            action: The action.
            resource: The resource.
            decision: A JSON object, at most 64 KiB with its key and tags. Tuples are returned as
                lists.
            context: Further facts that the decision depends on: a JSON object.
            ttl_seconds: The time to live in seconds. 0: the decision is not stored. None: the
                default of the cache. More than a hundred years counts as a hundred years.
            sensitivity: A name in `OPTIMIZED_TTL`, which limits the time to live. An unknown name
                changes nothing, and a warning is logged once.
            tags: Names by which the decision can be revoked. At most 64, each of at most 256 bytes.
            stamp: The result of `stamp()` before the evaluation. If any process has revoked
                the decision since then, it is not stored. The server checks this in the same step
                in which it stores the decision. None: the decision counts as evaluated at this
                call.
            policy: The policy that made the decision. Requests under another policy do not get it.

        Raises:
            TypeError: An argument has the wrong type. The message names it.
            ValueError: `ttl_seconds` is negative or NaN, or the stamp is of another cache.
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
        """Returns the cached decision. On a miss, runs the loader and stores its decision.

        Concurrent requests of this process share one load. With the compiled module, requests of
        all threads and event loops do. Without it, only requests of one event loop do. Other
        processes run their own loaders.

        If any process revokes the decision during the load, it is not stored. The server checks
        this in the same step in which it stores the decision. A request after a revocation does not
        join a load that began before the revocation. While the server does not answer, revocations
        are unknown, so each request runs its own loader.

        Args:
            user_id: The user who makes the request.
            action: The action.
            resource: The resource.
            loader: An async function without arguments. It returns the decision, a JSON object, or
                a `Loaded` with the decision, its time to live and its tags.
            context: Further facts that the decision depends on: a JSON object.
            ttl_seconds: The time to live in seconds. 0: the decision is shared and not stored.
                None: the default of the cache. A time in a `Loaded` takes precedence.
            sensitivity: A name in `OPTIMIZED_TTL`, which limits the time to live, also that of a
                `Loaded`. An unknown name changes nothing, and a warning is logged once.
            tags: Names by which the decision can be revoked. A request with other tags does not
                join the load.
            policy: The policy that the loader evaluates. Requests under different policies share no
                load and no decision.

        Raises:
            TypeError: An argument has the wrong type, or the loader returns no decision.
            ValueError: `ttl_seconds` is negative or NaN.
            RuntimeError: A loader loads its own key, or two loaders load each other's keys.
            Exception: The exception that the loader raises.
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
        return await self._answer(request, found, loader, lifetime, names, sensitivity)

    async def _answer(
        self,
        request: KeyedRequest | None,
        found: LookupResult,
        loader: Loader,
        lifetime: Lifetime,
        names: tuple[str, ...],
        sensitivity: str | None,
    ) -> JSONObject:
        """Returns the decision of a request after its look-up."""
        if request is not None and found.entry is not None:
            self._count_hit(request, found, sensitivity)
            return found.entry.decision
        if request is None or found.position is None:
            return await self._load_runner.load_alone(loader)
        return await self._load_runner.load_shared(request, found, loader, lifetime, names)

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

        The look-up takes one round trip for each 500 requests. Each miss takes one more, and one to
        store its decision, some at the same time. The rest is as in `get_or_load`: any other
        request for one of the decisions in this process waits for this load.

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
        rows = own_rows(arguments.read_requests(requests))
        evaluator = BatchEvaluator(self, loader, max_batch)
        names = arguments.read_tags(tags)
        lifetime = self._lifetime(arguments.read_ttl(ttl_seconds), sensitivity)
        arguments.check_optional("sensitivity", sensitivity)
        arguments.read_policy(policy)
        if not self._serves:
            evaluated = await evaluate_alone(evaluator, rows)
            both = zip(rows, evaluated, strict=True)
            decided = [row for row, answer in both if not isinstance(answer, Exception)]
            self._writer.supersede(policy, decided)
            return complete(evaluated)
        found = await self._find_batch("get_or_load_many", policy, rows, misses_again=True)
        missed = [place for place, decision in enumerate(found) if decision is None]
        answers: list[Answer] = []
        for window in evaluator.windows(missed):
            looked_up = await some_at_once(
                lambda row: self._look_up("get_or_load_many", policy, *row),
                [rows[place] for place in window],
            )
            gathering = Gathering(evaluator)
            misses: dict[int, Request] = {}
            for place, (request, one) in zip(window, looked_up, strict=True):
                asks = gathering.loader_of(place, rows[place])
                misses[place] = partial(
                    self._answer, request, one, asks, lifetime, names, sensitivity
                )
            answers += await gathering.run(misses)
        return complete(merged(found, missed, answers))

    async def get_batch(
        self, requests: Iterable[BatchRequest], *, policy: str = ""
    ) -> list[JSONObject | None]:
        """Returns the cached decisions for many requests, in their order. None: a miss.

        Takes one round trip for each 500 requests. On a cluster, takes one round trip to all
        primaries at once.

        Raises:
            TypeError: A request has the wrong shape. The message names the row.
        """
        rows = arguments.read_requests(requests)
        arguments.read_policy(policy)
        if not self._serves:
            return [None] * len(rows)
        return await self._find_batch("get_batch", policy, rows, misses_again=False)

    async def _find_batch(
        self, operation: str, policy: str, rows: Sequence[arguments.Row], *, misses_again: bool
    ) -> list[JSONObject | None]:
        """Looks up many requests. If the misses are looked up again, it does not count them."""
        self._recorder.count("batch_operations")
        started = perf_counter()
        decisions: list[JSONObject | None] = [None] * len(rows)
        asked: dict[int, RequestKey] = {}
        for at, row in enumerate(rows):
            request = self._writer.request(operation, policy, *row)
            if request is not None:
                asked[at] = request.key
        if asked:
            refused = {key for key in asked.values() if self._is_superseded(key)}
            found = await self._store.look_up_many(
                self._connections.current(), list(asked.values())
            )
            for (at, key), one in zip(asked.items(), found, strict=True):
                if one.fault is not None:
                    self._recorder.fault(operation, one.fault)
                is_refused = key in refused or self._is_superseded(key)
                if one.entry is not None and not is_refused:
                    decisions[at] = one.entry.decision
        hits = sum(decision is not None for decision in decisions)
        counted = hits if misses_again else len(rows)
        self._recorder.count("hits", hits)
        self._recorder.count("misses", counted - hits)
        for _ in range(counted):
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
        """Stores many decisions. Returns the number of decisions stored.

        Takes one round trip for each 100 decisions, and one more without a stamp. Each round trip
        may take `command_timeout`. If the server does not answer, the rest is not sent.

        Args:
            entries: `(user_id, action, resource, decision, context, ttl_seconds)`. The last two are
                optional.
            tags: The tags of all decisions, as in `set`.
            stamp: The stamp of all decisions, as in `set`.
            policy: The policy of all decisions, as in `set`.

        Raises:
            TypeError: An entry has the wrong shape. The message names the row.
            ValueError: A time to live is negative or NaN, or the stamp is of another cache.
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
        """Returns a stamp. Take it before the evaluation of a decision, and pass it to `set`.

        Takes no round trip: the stamp contains the last position in the invalidation log that this
        process knows. If another process revoked the decision shortly before the stamp, this
        process may not know that yet. Then `set` stores nothing, although it could.

        Before the first use of this cache, by `get` or `health_check` for example, no position is
        known. A stamp taken then contains its time instead. Revocations up to five seconds before
        that stamp count as later.
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
        """Revokes the decision for a request. Returns True if one was cached.

        With a policy it takes three round trips, and one more with replicas. Without a policy it
        revokes the decisions of all policies for the request, and scans all keys as `invalidate`
        does. So pass the policy if it is known. Pass `""` for decisions that were stored without a
        policy.

        The revocation starts at the call, as with `invalidate`.

        Raises:
            TypeError: An argument has the wrong type. The message names it.
            InvalidationError: The server did not confirm the revocation.
        """
        arguments.check_request(user_id, action, resource, context, None)
        arguments.check_optional("policy", policy)
        try:
            request = KeyedRequest.read(
                self._store.prefix, policy or "", user_id, action, resource, context
            )
        except NotJSONError as error:
            return self._delete_nothing(error)

        async def revoke(connection: GuardedConnection) -> Revoked:
            if policy is None:
                scope = request.scope._replace(policy=None)
                return await self._store.invalidate(connection, scope, (), asks=self._settles)
            return await self._store.remove(connection, request, asks=self._settles)

        return self._begin_revocation("delete", revoke, bool)

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
        """Revokes all decisions that match every given field. Without fields, all decisions.

        A call without fields logs a warning. To revoke all decisions, use `clear`.

        The revocation starts at the call, and is carried out even if it is not awaited. If it is
        not awaited and the server does not confirm it, the failure is logged at ERROR and counted.

        When the awaitable returns, the revocation has taken effect in all processes, and connected
        replicas have it. A matching decision that any process was evaluating is not stored.

        Scans all keys, on a cluster those of every primary, without blocking the server. That takes
        about a second for a million keys. There is no scan if the log says that no decision is
        stored.

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
            InvalidationError: The server did not confirm the revocation, or slots of a cluster are
                being moved.
        """
        scope = Scope(user_id, action, resource, policy)
        for name, part in scope._asdict().items():
            arguments.check_optional(name, part)
        named = arguments.read_revoked_tags(tags)
        if not named and not any(part is not None for part in scope):
            self._recorder.revokes_everything()
        names = tuple(tag for tag in named if can_be_tag(tag))
        if not can_be_fields(scope) or (named and not names):
            return Deferred(_return_zero)  # no stored decision can have such fields or tags
        return self._begin_revocation(
            "invalidate",
            lambda connection: self._store.invalidate(connection, scope, names, asks=self._settles),
            int,
        )

    @returns_awaitable
    def invalidate_pattern(self, pattern: str) -> Coroutine[object, None, int]:
        """Revokes all decisions whose text key matches a Redis glob.

        A decision that any process is evaluating is not stored, even if its key does not match. The
        revocation starts at the call, as with `invalidate`.

        Scans all keys, and compares them with the glob in this process. A key with the longest
        fields takes up to 0.1 s. The comparison yields to the event loop about every 10 ms.

        Returns:
            The number of entries removed.

        Raises:
            TypeError: The pattern is not a `str`.
            ValueError: The pattern has more than 1,024 bytes, or is not UTF-8.
            InvalidationError: The server did not confirm the revocation.
        """
        arguments.check_pattern(pattern)
        return self._begin_revocation(
            "invalidate_pattern",
            lambda connection: self._store.invalidate_pattern(
                connection, pattern, asks=self._settles
            ),
            int,
        )

    @returns_awaitable
    def clear(self) -> Coroutine[object, None, bool]:
        """Revokes all decisions. Returns True. The revocation starts at the call.

        Scans all keys, as `invalidate` does.

        Raises:
            InvalidationError: The server did not confirm the revocation.
        """
        return self._begin_revocation(
            "clear",
            lambda connection: self._store.invalidate(connection, Scope(), (), asks=self._settles),
            lambda _: True,
        )

    # Upkeep

    async def size(self) -> int:
        """Returns the number of entries that have not expired. Scans all keys.

        Returns 0 if the server does not answer.
        """
        if self._closed:
            return 0
        try:
            self._size = await self._store.size(self._connections.current())
        except Exception as error:  # noqa: BLE001 - an error of the server fails no caller
            self._recorder.fault("size", describe(error))
            return 0
        return self._size

    async def cleanup_expired(self) -> int:
        """Returns 0, because the server removes expired entries."""
        return 0

    async def health_check(self) -> bool:
        """Returns True if the server answers now."""
        if self._closed:
            return False
        connection = self._connections.current()
        if not await connection.answers():
            return False
        if self._store.news.latest is None:  # later stamps then have a position
            try:
                await self._store.position(connection, connection.deadline())
            except UnavailableError as error:
                self._recorder.fault("health_check", str(error))
                return False
        return True

    async def close(self) -> None:
        """Stops serving, ends background tasks, and closes the connections made by this cache.

        Waits up to 1 s for running revocations.
        """
        self._closed = True
        async with AsyncExitStack() as closing:  # every step runs, even if one is cancelled
            closing.push_async_callback(self._connections.close)
            closing.push_async_callback(self._writer.superseded.close)
            closing.push_async_callback(self._load_runner.close)
            closing.push_async_callback(self._store.settling.close)
            try:
                await self._revocations.settled(CLOSE_SECONDS)
            finally:
                self._ended = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}(ttl_seconds={self.ttl_seconds}, enabled={self.enabled})"

    # Metrics

    @property
    def metrics(self) -> CacheMetrics:
        """A snapshot of the counters. Its `size` is the last result of `size()`."""
        return self._recorder.metrics(size=self._size, max_size=self.max_size)

    def settle_histogram(self, bounds: Sequence[float] = SETTLE_BOUNDS_SECONDS) -> LatencyHistogram:
        """Returns the times that revocations took to settle after their confirmation."""
        return self._recorder.settlements.histogram(bounds)

    @property
    def settle_limit(self) -> float:
        """The maximum time, in seconds, that a revocation waits after its record was appended.

        It is 1.1 times the longest `max_staleness` of the processes, as far as this cache knows.
        """
        return whole(self._store.settling.longer(None))

    @property
    def circuit_open(self) -> bool:
        """True while the circuit of the server is open, on a cluster that of any primary."""
        return self._connections.has_open_circuit

    # Implementation

    @property
    def _serves(self) -> bool:
        return self._enabled and not self._closed

    def _lifetime(self, explicit: float | None, sensitivity: str | None) -> Lifetime:
        """Returns a function that computes the time to live from the one that the loader chose."""
        return lambda late: self._ttl(explicit if late is None else late, sensitivity)

    def _ttl(self, explicit: float | None, sensitivity: str | None) -> float:
        return time_to_live(explicit, self._ttl_seconds, sensitivity, self._sensitivities)

    @property
    def _sensitivities(self) -> Mapping[str, float] | None:
        return self.OPTIMIZED_TTL if self._use_optimized_ttl else None

    def _check_stamp(self, stamp: object) -> None:
        if stamp is not None and not isinstance(stamp, Stamp):
            arguments.refuse("stamp", "a stamp that stamp() returned, or None", stamp)
        if stamp is not None and stamp.log != self._store.log:
            message = (
                "stamp was taken from another cache: take it from the cache that stores the "
                "decision"
            )
            raise ValueError(message)

    async def _look_up(
        self,
        operation: str,
        policy: str,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None,
    ) -> tuple[KeyedRequest | None, LookupResult]:
        """Looks up a request, and counts a miss. The caller counts a hit."""
        started = perf_counter()
        request: KeyedRequest | None = None
        found = _NOTHING
        connection = self._connections.current()
        if connection.is_unavailable:
            self._recorder.fault(operation, "the circuit is open")
        elif (
            request := self._writer.request(operation, policy, user_id, action, resource, context)
        ) is not None:
            # Checked before and after the lookup. When an old reply arrives, the key may no longer
            # be among the superseded ones.
            superseded = self._is_superseded(request.key)
            try:
                found = await self._store.look_up(connection, connection.deadline(), request)
            except Exception as error:  # noqa: BLE001 - any error is a miss
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
        """Returns whether a newer decision than the stored one may be missing on the server."""
        superseded = self._writer.superseded
        if not superseded:
            return False
        superseded.start_removal()
        return superseded.refuses(key)

    def _count_hit(
        self, request: KeyedRequest, found: LookupResult, sensitivity: str | None
    ) -> None:
        """Counts a hit, and starts a refresh if the entry is near its expiration."""
        callback = None
        entry = found.entry
        if (
            self.stale_while_revalidate
            and entry is not None
            and is_refreshed(sensitivity, self.REFRESHED_SENSITIVITIES, self._sensitivities)
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

        # By default, the new entry has the time to live of the one that it replaces.
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
        """Stores decisions that the caller gave. Returns the number of decisions stored."""
        if stamp is None:
            return await self._writer.write_many(operation, policy, rows, tags, None)
        stored = await self._writer.write_many(operation, policy, rows, tags, stamp.fence)
        if stored < len(rows):
            await self._learn_position()
        return stored

    async def _learn_position(self) -> None:
        """Queries the log's position for the next stamp. Ignores errors."""
        connection = self._connections.current()
        with suppress(UnavailableError):
            await self._store.position(connection, connection.deadline())

    def _begin_revocation(
        self,
        operation: str,
        revoke: Callable[[GuardedConnection], Awaitable[Revoked]],
        answer: Callable[[int], T],
    ) -> Coroutine[object, None, T]:
        """Starts a revocation. The caller that awaits it also waits until it is settled.

        Args:
            operation: The name of the revocation in the log.
            revoke: Revokes.
            answer: Returns the result for the caller, given the number of entries removed.
        """
        confirmed = self._revocations.begin(operation, lambda: self._confirm(operation, revoke))
        return Deferred(lambda: self._settle(operation, confirmed, answer))

    async def _settle(
        self,
        operation: str,
        confirmed: Coroutine[object, None, Revoked],
        answer: Callable[[int], T],
    ) -> T:
        removed, appended = await confirmed
        if self._settles:
            began = perf_counter()
            try:
                await self._store.settling.wait(self._connections.current, appended)
            except LostError as error:
                message = "another server became the primary without the revocation"
                self._recorder.fault(operation, message)
                raise self._unconfirmed(operation, message) from error
            self._recorder.settlements.record(perf_counter() - began)
        return answer(removed)

    def _delete_nothing(self, error: NotJSONError) -> Coroutine[object, None, bool]:
        """Returns a coroutine that deletes nothing, because the request cannot have a decision.

        If the context's own code raised an error, the coroutine raises an `InvalidationError`.
        """
        self._note_unreadable("delete", str(error))
        if error.__cause__ is None:
            return Deferred(_return_false)
        unconfirmed, cause = self._unconfirmed("delete", str(error)), error.__cause__

        async def fail() -> bool:
            raise unconfirmed from cause

        return self._revocations.begin("delete", fail)

    def _note_unreadable(self, operation: str, reason: str) -> None:
        """Counts and logs a request that cannot be read."""
        self._recorder.fault(operation, reason)

    async def _confirm(
        self, operation: str, revoke: Callable[[GuardedConnection], Awaitable[Revoked]]
    ) -> Revoked:
        try:
            if self._ended:
                message = "this cache is closed, so revoke with another one"
                raise UnavailableError(message)  # noqa: TRY301 - handled as other errors are
            revoked = await revoke(self._connections.current())
        except Exception as error:
            reason = _reason(error)
            self._recorder.fault(operation, reason)
            raise self._unconfirmed(operation, reason) from error
        self._recorder.count("invalidations", revoked.removed)
        return revoked

    def _unconfirmed(self, operation: str, reason: str) -> InvalidationError:
        """Returns the error of a revocation that the server did not confirm."""
        return InvalidationError(
            f"{operation} could not be confirmed by the redis cache: {reason}. The decisions may "
            "still be served: try again, or switch the cache off (enabled = False)"
        )

    def _on_unawaited_failure(self, operation: str, error: BaseException) -> None:
        """Records the failure of a revocation that no caller awaits."""
        self._recorder.unconfirmed(operation, _reason(error.__cause__ or error))


_NOTHING = LookupResult()


def _reason(error: BaseException) -> str:
    """Returns the reason of an error, in a form that may be logged."""
    return str(error) if type(error).__module__.startswith("sark_cache") else describe(error)


def _first_given(given: float | None, default: float) -> float:
    return default if given is None else given


async def _return_false() -> bool:
    return False


async def _return_zero() -> int:
    return 0
