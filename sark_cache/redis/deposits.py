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
        self, operation: str, user_id: str, action: str, resource: str, context: Context | None
    ) -> Request | None:
        """A request; None, counted, if it cannot be one."""
        try:
            return Request.read(self._store.prefix, user_id, action, resource, context)
        except NotJSONError as error:
            self._record.fault(operation, str(error))
            return None

    async def brought(
        self, operation: str, rows: Sequence[Row], tags: tuple[str, ...], position: str | None
    ) -> int:
        """Stores what callers bring; how many of them were stored.

        Args:
            operation: What they called.
            rows: User, action, resource, decision, context and time to live of each.
            tags: Those of all.
            position: That of the log when they were evaluated; None: whatever was revoked.
        """
        writes: list[Write] = []
        for user_id, action, resource, decision, context, ttl in rows:
            request = self.request(operation, user_id, action, resource, context)
            if request is None:
                continue
            write: Write | None = None
            try:
                text = decision_text(decision, tags)
                write = request.write(text, ttl, tags) if ttl else None
            except NotJSONError as error:
                self._record.fault(operation, str(error))
            if write is None:
                await self.drop(operation, request.key)
            else:
                writes.append(write)
        if not writes:
            return 0
        link = self._links.current()
        if position is None:
            outcomes = await self._store.put(link, writes)
        else:
            outcomes = await self._store.put_fenced(link, writes, position)
        for write, outcome in zip(writes, outcomes, strict=True):
            self._count(operation, outcome)
            if isinstance(outcome, Exception) and "OOM" in told(outcome):
                await self.drop(operation, write.key)
        return sum(outcome is Outcome.STORED for outcome in outcomes)

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
            await self.drop(operation, request.key)
            return None
        if ttl_seconds and self._serves():
            over = Over.NOTHING if found.held is None else Over.WHAT_WAS_SEEN
            [outcome] = await self._store.put_fenced(
                self._links.current(), [write], found.position or "", over, found.held or ""
            )
            self._count(operation, outcome)
        return text if len(write.text) < MAX_SHARED else None

    async def drop(self, operation: str, key: RequestKey) -> None:
        """Removes what was superseded by something that is not stored."""
        link = self._links.current()
        try:
            if link.is_open(key.text):
                self._record.fault(operation, "the circuit is open")
            else:
                await self._store.discard(link, key)
        except UnavailableError as error:
            self._record.fault(operation, str(error))

    def _count(self, operation: str, outcome: Outcome | Exception) -> None:
        if isinstance(outcome, Exception):
            self._record.fault(operation, told(outcome))
        elif outcome is Outcome.OVERTAKEN:
            self._record.count("invalidations")
