"""The loads of `get_or_load` after a miss, and the refreshes of entries near their expiration.

A load is identified by its request *and* the newest earlier revocation that may concern the
request. A request that misses after such a revocation, by any process, does not join an older load.
"""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from sark_cache._core import arguments
from sark_cache.backends._shared.background_refresh import Refreshes, goes_on
from sark_cache.backends._shared.loading import LoaderRun, evaluate, evaluated, evaluated_ahead
from sark_cache.backends._shared.recorder import MetricsRecorder
from sark_cache.backends._shared.refresh_pauses import Pauses
from sark_cache.backends._shared.single_flight import FlightKey, new_flights
from sark_cache.backends.redis.lookup import LookupResult
from sark_cache.backends.redis.request import KeyedRequest
from sark_cache.backends.redis.writer import DecisionWriter
from sark_cache.types import JSONObject, Loader, RevalidateCallback

if TYPE_CHECKING:
    import asyncio

Lifetime: TypeAlias = Callable[[float | None], float]
"""Returns the time to live of a decision, in seconds, given the loader's own choice or None."""


class LoadRunner:
    """The loads and refreshes of one cache."""

    def __init__(self, cache: object, writer: DecisionWriter, recorder: MetricsRecorder) -> None:
        self._cache: Final = cache
        self._writer: Final = writer
        self._recorder: Final = recorder
        self._flights: Final = new_flights(lambda: recorder.count("overdue"))
        self._callers: Final[Counter[FlightKey]] = Counter()
        self._refreshes: Final = Refreshes(recorder.fault)
        self._refreshed: Final[dict[str, asyncio.Task[None]]] = {}
        self._pauses: Final = Pauses()

    async def load_alone(self, loader: Loader) -> JSONObject:
        """Runs a loader for one request alone, and returns its decision.

        Raises:
            Exception: The error that the loader raises.
        """
        self._recorder.count("loads")
        return await evaluate(loader, lambda: self._recorder.count("load_errors"), self._cache)

    async def load_shared(
        self,
        request: KeyedRequest,
        found: LookupResult,
        loader: Loader,
        lifetime: Lifetime,
        tags: tuple[str, ...],
    ) -> JSONObject:
        """Runs the loader or joins a running load of the same request, and returns the decision.

        The leader stores the decision. Each waiter gets its own copy.

        Raises:
            RuntimeError: Waiting would be a deadlock.
            Exception: The error that the leader's loader raises.
        """
        loaded: list[Mapping[str, Any]] = []

        async def lead() -> str | None:
            self._recorder.count("loads")
            try:
                decision, ttl, late = await evaluated(evaluation)
                names = tuple(dict.fromkeys((*tags, *arguments.read_tags(late))))
                ttl_seconds = lifetime(arguments.read_ttl(ttl))
            except Exception:
                self._recorder.count("load_errors")
                raise
            loaded.append(decision)
            return await self._writer.write_loaded(
                "get_or_load", request, found, decision, ttl_seconds, names
            )

        what = (request.key, found.era, sorted(set(tags)))
        flight = sha256(json.dumps(what).encode()).hexdigest()
        evaluation = LoaderRun(self._cache, loader, waiting=lambda: self._callers[flight] - 1)
        self._callers[flight] += 1
        try:
            text = await self._flights.run(flight, lead)
        finally:
            self._callers[flight] -= 1
            if not self._callers[flight]:
                del self._callers[flight]
        if text is None:
            # The decision cannot be copied, so each waiter runs its own loader.
            return cast("JSONObject", loaded[0]) if loaded else await self.load_alone(loader)
        if not loaded:
            self._recorder.count("coalesced")
        return cast("JSONObject", json.loads(text))

    def refresh(
        self,
        request: KeyedRequest,
        found: LookupResult,
        callback: RevalidateCallback,
        position: Callable[[], Awaitable[str | None]],
        lifetime: Lifetime,
    ) -> None:
        """Starts a refresh of an entry in the background.

        Does nothing while a refresh of the entry runs, and during the pause after a refresh that
        failed or returned nothing.

        Args:
            request: The request that hit.
            found: The result of its look-up.
            callback: Evaluates the request again.
            position: Returns the log's position before the evaluation.
            lifetime: Returns the time to live of the new entry, given the callback's own choice.
        """
        key = request.key.text
        running = self._refreshed.get(key)
        if self._pauses.has(key) or (running is not None and goes_on(running)):
            return

        def ended(task: "asyncio.Task[None]") -> None:
            if self._refreshed.get(key) is task:
                del self._refreshed[key]

        self._recorder.count("revalidations")
        refresh = self._with_pauses(
            key, partial(self._refresh, request, found, callback, position, lifetime)
        )
        self._refreshed[key] = task = self._refreshes.begin(refresh)
        task.add_done_callback(ended)

    async def close(self) -> None:
        """Cancels the refreshes and waits for their end."""
        await self._refreshes.ended(self._refreshes.stop())

    async def _with_pauses(self, key: str, refresh: Callable[[], Awaitable[bool]]) -> None:
        """Runs a refresh. Starts a pause if it fails or returns nothing."""
        try:
            renewed = await refresh()
        except Exception:
            self._pauses.begin(key)
            raise
        if renewed:
            self._pauses.end(key)
        else:
            self._pauses.begin(key)

    async def _refresh(
        self,
        request: KeyedRequest,
        found: LookupResult,
        callback: RevalidateCallback,
        position: Callable[[], Awaitable[str | None]],
        lifetime: Lifetime,
    ) -> bool:
        """Evaluates a request again and stores the decision.

        Returns whether the callback returned a decision.
        """

        def load() -> Awaitable[Any]:
            return callback(request.user_id, request.action, request.resource, request.context)

        found = found._replace(position=await position())
        loaded = await evaluated_ahead(LoaderRun(self._cache, load, ahead=True))
        if loaded is None:
            return False
        decision, ttl, late = loaded
        carried = found.entry.tags if found.entry else ()
        names = tuple(dict.fromkeys((*carried, *arguments.read_tags(late))))
        ttl_seconds = lifetime(arguments.read_ttl(ttl))
        await self._writer.write_loaded("refresh", request, found, decision, ttl_seconds, names)
        return True
