"""What is stored, and what becomes of what it supersedes when it cannot be.

A decision that is not stored has superseded the one before all the same: that is dropped, so that
no old allow outlives a newer deny.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sark_cache.arguments import Row
from sark_cache.counting import Record
from sark_cache.keys import RequestKey
from sark_cache.plain import MAX_BYTES, NotJSONError
from sark_cache.redis.link import UnavailableError, told
from sark_cache.redis.links import Links
from sark_cache.redis.requests import Request, decision_text
from sark_cache.redis.store import Found, Outcome, Over, Store, Write
from sark_cache.types import Context

MAX_SHARED = MAX_BYTES - 4096
"""The longest entry whose decision is given to others who wait: it flies under a key of its own."""


class Deposits:
    """The way into the servers for one cache."""

    def __init__(
        self, store: Store, links: Links, record: Record, serves: Callable[[], bool]
    ) -> None:
        self._store: Final = store
        self._links: Final = links
        self._record: Final = record
        self._serves: Final = serves

    def request(
        self,
        operation: str,
        policy: str,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None,
    ) -> Request | None:
        """Returns a request; None, counted, if it cannot be one."""
        try:
            return Request.read(self._store.prefix, policy, user_id, action, resource, context)
        except NotJSONError as error:
            self._record.fault(operation, str(error))
            return None

    async def brought(
        self,
        operation: str,
        policy: str,
        rows: Sequence[Row],
        tags: tuple[str, ...],
        position: str | None,
    ) -> int:
        """Stores what callers bring; how many of them were stored.

        Args:
            operation: What they called.
            policy: Whose decisions they are.
            rows: User, action, resource, decision, context and time to live of each.
            tags: Those of all.
            position: That of the log when they were evaluated; None: now. It is asked for first,
                so that what is on its way while something is revoked does not come after it.
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
                self._record.fault(operation, str(error))
                dropped.append(request.key)
            else:
                if ttl:
                    writes.append(write)
                else:
                    dropped.append(request.key)
        outcomes = await self._put(writes, position) if writes else []
        for write, outcome in zip(writes, outcomes, strict=True):
            self._count(operation, outcome)
            if isinstance(outcome, Exception) and "OOM" in told(outcome):
                dropped.append(write.key)
        await self.drop(operation, dropped)
        return sum(outcome is Outcome.STORED for outcome in outcomes)

    async def _put(
        self, writes: Sequence[Write], position: str | None
    ) -> list[Outcome | Exception]:
        link = self._links.current()
        try:
            if position is None:
                position = await self._store.position_now(link)
                if position is None:
                    # As if it were stored and refused: what it supersedes has to go.
                    message = "there is no invalidation log and none can be begun (OOM or READONLY)"
                    return [UnavailableError(message)] * len(writes)
            return await self._store.put(link, writes, position or "")
        except UnavailableError as error:
            return [error] * len(writes)

    async def loaded(
        self,
        operation: str,
        request: Request,
        found: Found,
        decision: Mapping[str, Any],
        ttl_seconds: float,
        tags: tuple[str, ...],
    ) -> str | None:
        """Stores what was evaluated, unless it was revoked or superseded since the look-up.

        The decision as text that others may be given; None if it is not for others.
        """
        try:
            text = decision_text(decision, tags)
            write = request.write(text, ttl_seconds, tags)
        except NotJSONError as error:
            self._record.fault(operation, str(error))
            await self.drop(operation, [request.key])
            return None
        if ttl_seconds and self._serves():
            over = Over.NOTHING if found.held is None else Over.WHAT_WAS_SEEN
            link = self._links.current()
            [outcome] = await self._store.put(
                link, [write], found.position or "", over, found.held or ""
            )
            self._count(operation, outcome)
        return text if len(write.text) < MAX_SHARED else None

    async def drop(self, operation: str, keys: Sequence[RequestKey]) -> None:
        """Removes what was superseded by something that is not stored."""
        if not keys or not self._serves():
            return
        try:
            link = self._links.current()
            await self._store.discard(link, link.deadline(), keys)
        except UnavailableError as error:
            self._record.fault(operation, str(error))

    def _count(self, operation: str, outcome: Outcome | Exception) -> None:
        if isinstance(outcome, Exception):
            self._record.fault(operation, told(outcome))
        elif outcome is Outcome.OVERTAKEN:
            self._record.count("invalidations")
