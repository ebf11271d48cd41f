"""`get_or_load` after a miss, and refreshes ahead: evaluations, shared and then stored.

An evaluation is known by its request *and* the newest revocation before it that may concern that. A
request that misses after such a revocation, by any process, joins no evaluation that is older.
"""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from typing import Any, Final, cast

from sark_cache import arguments
from sark_cache.counting import Record
from sark_cache.flights import FlightKey, new_flights
from sark_cache.loading import Evaluation, evaluate, evaluated
from sark_cache.redis.deposits import Deposits
from sark_cache.redis.requests import Request
from sark_cache.redis.store import Found
from sark_cache.refreshing import Refreshes
from sark_cache.types import JSONObject, Loader, RevalidateCallback


class Loads:
    """The evaluations of one cache."""

    def __init__(self, cache: object, deposits: Deposits, record: Record) -> None:
        self._cache: Final = cache
        self._deposits: Final = deposits
        self._record: Final = record
        self._flights: Final = new_flights()
        self._asking: Final[Counter[FlightKey]] = Counter()
        self._refreshes: Final = Refreshes(record.fault)
        self._refreshed: Final[set[str]] = set()

    async def alone(self, loader: Loader) -> JSONObject:
        """What a loader brings, for one request and nobody else."""
        self._record.count("loads")
        return await evaluate(loader, lambda: self._record.count("load_errors"), self._cache)

    async def shared(
        self,
        request: Request,
        found: Found,
        loader: Loader,
        ttl_seconds: float,
        tags: tuple[str, ...],
    ) -> JSONObject:
        """What the loader of this request brings, or that of another like it, under way."""
        brought: list[Mapping[str, Any]] = []

        async def lead() -> str | None:
            self._record.count("loads")
            try:
                decision, ttl, late = await evaluated(evaluation)
                names = (*tags, *arguments.read_tags(late))
                lives = arguments.read_ttl(ttl)
            except Exception:
                self._record.count("load_errors")
                raise
            brought.append(decision)
            lives = ttl_seconds if lives is None else lives
            return await self._deposits.loaded(
                "get_or_load", request, found, decision, lives, names
            )

        what = (request.key, found.era, sorted(set(tags)))
        flight = sha256(json.dumps(what).encode()).hexdigest()
        evaluation = Evaluation(self._cache, loader, waiting=lambda: self._asking[flight] - 1)
        self._asking[flight] += 1
        try:
            text = await self._flights.run(flight, lead)
        finally:
            self._asking[flight] -= 1
            if not self._asking[flight]:
                del self._asking[flight]
        if text is None:
            # It cannot be copied, so everybody evaluates.
            return cast("JSONObject", brought[0]) if brought else await self.alone(loader)
        if not brought:
            self._record.count("coalesced")
        return cast("JSONObject", json.loads(text))

    def refresh(
        self,
        request: Request,
        found: Found,
        callback: RevalidateCallback,
        position: Callable[[], Awaitable[str | None]],
        ttl_seconds: float,
    ) -> None:
        """Begins to refresh an entry in the background, unless that is under way.

        Args:
            request: The request that hit.
            found: What it found.
            callback: What evaluates it anew.
            position: The log's, before that.
            ttl_seconds: How long the new entry lives, unless the callback says otherwise.
        """
        if request.key.text not in self._refreshed:
            self._refreshed.add(request.key.text)
            self._record.count("revalidations")
            refresh = self._refresh(request, found, callback, position, ttl_seconds)
            task = self._refreshes.begin(refresh)
            task.add_done_callback(lambda _: self._refreshed.discard(request.key.text))

    async def close(self) -> None:
        """Ends the refreshes."""
        await self._refreshes.ended(self._refreshes.stop())

    async def _refresh(
        self,
        request: Request,
        found: Found,
        callback: RevalidateCallback,
        position: Callable[[], Awaitable[str | None]],
        ttl_seconds: float,
    ) -> None:
        def load() -> Awaitable[Any]:
            return callback(request.user_id, request.action, request.resource, request.context)

        found = found._replace(position=await position())
        decision, ttl, late = await evaluated(Evaluation(self._cache, load, ahead=True))
        carried = found.entry.tags if found.entry else ()
        names = (*carried, *arguments.read_tags(late))
        lives = arguments.read_ttl(ttl)
        lives = ttl_seconds if lives is None else lives
        await self._deposits.loaded("refresh", request, found, decision, lives, names)
