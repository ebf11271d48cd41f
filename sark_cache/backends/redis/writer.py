"""The writer of decisions to the servers.

A new decision supersedes the stored one even if it cannot be stored itself. Then the stored one is
removed, so that an old allow cannot outlive a newer deny.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from sark_cache._core.arguments import Row
from sark_cache._core.errors import UnavailableError
from sark_cache._core.json import NotJSONError
from sark_cache._core.keys import RequestKey, Scope
from sark_cache._core.limits import MAX_ENTRY_BYTES
from sark_cache.backends._shared.recorder import MetricsRecorder
from sark_cache.backends.redis import scripts
from sark_cache.backends.redis.connections import ConnectionPerLoop
from sark_cache.backends.redis.lookup import LookupResult, boot_time
from sark_cache.backends.redis.request import KeyedRequest, decision_text
from sark_cache.backends.redis.store import DecisionStore
from sark_cache.backends.redis.superseded import Superseded
from sark_cache.backends.redis.write import Fence, MayReplace, Write, WriteOutcome
from sark_cache.types import Context

MAX_SHARED = MAX_ENTRY_BYTES - 4096
"""The length of an entry, in characters, from which its decision is not shared with waiters.

The limit of a shared load is the same 64 KiB, but its key may be longer.
"""

LONGEST_LOAD_SECONDS = 0.9e-3 * scripts.MARKER_MS
"""The maximum time, in seconds, from a miss of an empty key to the write of its decision.

After a longer time, a newer decision and its marker may have come and expired. So the decision is
not stored.
"""


class DecisionWriter:
    """Writes the decisions of one cache, and removes those that are superseded.

    Args:
        store: The operations on the servers.
        connections: The connections of the cache.
        recorder: Counts events and logs faults.
        serves: Returns whether the cache is on and open.
        is_closed: Returns whether the cache is closed.
    """

    def __init__(
        self,
        store: DecisionStore,
        connections: ConnectionPerLoop,
        recorder: MetricsRecorder,
        serves: Callable[[], bool],
        is_closed: Callable[[], bool],
    ) -> None:
        self._store: Final = store
        self._connections: Final = connections
        self._recorder: Final = recorder
        self._serves: Final = serves
        self._is_closed: Final = is_closed
        self.superseded: Final = Superseded(
            self._remove_superseded, self._flush, recorder.report, lambda: not serves()
        )

    def request(
        self,
        operation: str,
        policy: str,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None,
    ) -> KeyedRequest | None:
        """Converts a request. None: it cannot be stored, which is recorded as a fault."""
        try:
            return KeyedRequest.read(self._store.prefix, policy, user_id, action, resource, context)
        except NotJSONError as error:
            self._recorder.fault(operation, str(error))
            return None

    async def write_many(
        self,
        operation: str,
        policy: str,
        rows: Sequence[Row],
        tags: tuple[str, ...],
        position: Callable[[], str] | None,
    ) -> int:
        """Stores decisions that were given by the caller. Returns the number stored.

        Args:
            operation: The method that was called.
            policy: The policy of all decisions.
            rows: The user, action, resource, decision, context and time to live of each.
            tags: The tags of all decisions.
            position: Returns the log's position when the decisions were evaluated. None: they count
                as evaluated now, and the position is queried before the write.
        """
        writes: list[Write] = []
        dropped: list[RequestKey] = []
        for user_id, action, resource, decision, context, ttl in rows:
            request = self.request(operation, policy, user_id, action, resource, context)
            if request is None:
                continue
            try:
                text = decision_text(decision, tags)
                write = request.write(text, ttl, tags)
            except NotJSONError as error:
                self._recorder.fault(operation, str(error))
                dropped.append(request.key)
            else:
                if ttl:
                    writes.append(write)
                else:
                    dropped.append(request.key)
        deadline = self._connections.current().deadline()
        await self._invalidate_late_writes(operation, deadline, [write.key for write in writes])
        outcomes = await self._write(deadline, writes, position) if writes else []
        for write, outcome in zip(writes, outcomes, strict=True):
            self._count(operation, outcome)
            if isinstance(outcome, UnavailableError):
                dropped.append(write.key)
        await self.delete_superseded(operation, deadline, dropped)
        return outcomes.count(WriteOutcome.STORED)

    async def _invalidate_late_writes(
        self, operation: str, deadline: float, keys: Collection[RequestKey]
    ) -> None:
        """Invalidates earlier writes that had no answer and may still arrive at the server.

        If the server does not confirm it, the keys stay superseded.
        """
        superseded = self.superseded.remembered(keys)
        if not superseded:
            return
        try:
            await self._store.remove_superseded(self._connections.current(), deadline, superseded)
        except UnavailableError as error:
            self._recorder.fault(operation, str(error))
        except asyncio.CancelledError:
            self.superseded.add(keys)  # the caller's decisions supersede the stored ones
            raise
        else:
            self.superseded.forget(superseded)

    async def _write(
        self, deadline: float, writes: Sequence[Write], position: Callable[[], str] | None
    ) -> list[WriteOutcome | UnavailableError]:
        connection = self._connections.current()
        try:
            if position is None:
                now = await self._store.position_now(connection, deadline)
                if now is None:
                    message = (
                        "there is no invalidation log, and the server cannot start one (OOM or "
                        "READONLY)"
                    )
                    return [UnavailableError(message)] * len(writes)
                position = now.__str__
            return await self._store.put(connection, deadline, writes, Fence(position))
        except UnavailableError as error:
            return [error] * len(writes)
        except asyncio.CancelledError:
            # It is unknown which of them are stored. The older ones must not be served.
            self.superseded.add([write.key for write in writes])
            raise

    async def write_loaded(
        self,
        operation: str,
        request: KeyedRequest,
        found: LookupResult,
        decision: Mapping[str, Any],
        ttl_seconds: float,
        tags: tuple[str, ...],
    ) -> str | None:
        """Stores the decision of a load, unless it was revoked or superseded since the look-up.

        The deadline is that of the request: the time of the look-up is subtracted.

        Returns:
            The decision as text, for the waiters. None: it must not be shared.
        """
        connection = self._connections.current()
        deadline = connection.deadline() - found.spent
        try:
            text = decision_text(decision, tags)
            write = request.write(text, ttl_seconds, tags)
        except NotJSONError as error:
            self._recorder.fault(operation, str(error))
            await self.delete_superseded(operation, deadline, [request.key])
            return None
        if not self._serves():
            await self.delete_superseded(operation, deadline, [request.key])
        elif found.held is None and boot_time() - found.asked_at > LONGEST_LOAD_SECONDS:
            message = f"an evaluation of more than {LONGEST_LOAD_SECONDS:g} s is not stored"
            self._recorder.fault(operation, message)
        elif ttl_seconds:
            may_replace = MayReplace.NOTHING if found.held is None else MayReplace.SEEN_VALUE
            position = (found.position or "").__str__
            fence = Fence(position, may_replace, found.held or "", found.marker or "")
            [outcome] = await self._store.put(connection, deadline, [write], fence)
            self._count(operation, outcome)
            if isinstance(outcome, UnavailableError) and found.held is not None:
                await self.delete_superseded(operation, deadline, [request.key])
        return text if len(write.text) < MAX_SHARED else None

    async def delete_superseded(
        self, operation: str, deadline: float, keys: Sequence[RequestKey]
    ) -> None:
        """Removes decisions that were superseded by decisions that are not stored.

        If the server does not confirm it, or the cache is off, nothing is served from the keys, and
        the decisions are removed in the background.
        """
        if not keys or self._is_closed():
            return
        if not self._serves():
            self.superseded.add(keys)
            return
        try:
            await self._store.remove_superseded(self._connections.current(), deadline, keys)
        except UnavailableError as error:
            self._recorder.fault(operation, str(error))
            self.superseded.add(keys)
        except asyncio.CancelledError:
            self.superseded.add(keys)
            raise

    def supersede(self, policy: str, requests: Iterable[Row]) -> None:
        """Supersedes the decisions of requests that were evaluated again while the cache was off.

        Nothing is served from their keys until the decisions are removed in the background. Changes
        no metric.
        """
        if self._is_closed():
            return
        keys: list[RequestKey] = []
        for user_id, action, resource, context in requests:
            with suppress(NotJSONError):  # such a request has never been stored
                keys.append(
                    KeyedRequest.read(
                        self._store.prefix, policy, user_id, action, resource, context
                    ).key
                )
        if keys:
            self.superseded.add(keys)

    async def _remove_superseded(self, keys: Collection[RequestKey]) -> None:
        connection = self._connections.current()
        await self._store.remove_superseded(connection, connection.deadline(), keys)

    async def _flush(self) -> None:
        await self._store.invalidate(self._connections.current(), Scope(), ())

    def _count(self, operation: str, outcome: WriteOutcome | UnavailableError) -> None:
        if isinstance(outcome, UnavailableError):
            self._recorder.fault(operation, str(outcome))
        elif outcome is WriteOutcome.INVALIDATED:
            self._recorder.count("invalidations")
