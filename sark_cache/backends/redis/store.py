"""The operations on the servers: look-ups, writes and revocations of one namespace.

A look-up takes one round trip, and so does a write. On a cluster, where a key and the log may be on
different servers, a miss takes two and a write three. The functions here raise errors; the cache
converts them to misses and faults.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Any, Final, NamedTuple, TypeVar

from sark_cache._core.arguments import DEFAULT_MAX_STALENESS
from sark_cache._core.errors import UnavailableError, describe
from sark_cache._core.keys import RequestKey, Scope, prefix_of
from sark_cache._core.patterns import candidates, matcher
from sark_cache.backends.redis import replies, scripts
from sark_cache.backends.redis.connection import (
    GuardedConnection,
    RedisCommand,
    mark_retrieved,
)
from sark_cache.backends.redis.invalidation import (
    Servers,
    current_servers,
    retry_until_confirmed,
    scan_all,
)
from sark_cache.backends.redis.log import InvalidationLog, nonce
from sark_cache.backends.redis.log_record import LogRecord, fields_of, logged
from sark_cache.backends.redis.lookup import LookupResult, boot_time, result_of
from sark_cache.backends.redis.news import News
from sark_cache.backends.redis.primary import Primary
from sark_cache.backends.redis.removal import collect_yielding, remove_keys
from sark_cache.backends.redis.replies import AppendReply, At, Held
from sark_cache.backends.redis.request import KeyedRequest
from sark_cache.backends.redis.settle import Appended, Question, Settling
from sark_cache.backends.redis.write import Fence, Write, WriteOutcome, marker_of

CHUNK = 500
"""The maximum number of commands, or of keys of one command, that are sent at once."""
T = TypeVar("T")

WRITES_PER_SCRIPT = 100
"""The maximum number of decisions in one script. With `MAX_NEWER` records it takes about 10 ms."""


class Revoked(NamedTuple):
    """A confirmed revocation."""

    removed: int
    """The number of entries removed."""
    appended: Appended


class DecisionStore:
    """The decisions of one namespace, and their invalidation log.

    Args:
        namespace: The prefix of every key of the namespace.
        span: The span of this process, in seconds.
        on_append: Called with the nonce of each record before the record is sent.
    """

    def __init__(
        self,
        namespace: str,
        span: float = DEFAULT_MAX_STALENESS,
        on_append: Callable[[str], None] | None = None,
    ) -> None:
        self.namespace: Final = namespace
        self.prefix: Final = prefix_of(namespace)
        self._log: Final = InvalidationLog(namespace, on_append)
        self.log: Final = self._log.key
        self.news: Final = News()
        self.settling: Settling = Settling(self._log, span)
        """The readers of the log. A tiered cache shares it with the reader of its process."""

    async def look_up(
        self, connection: GuardedConnection, deadline: float, request: KeyedRequest
    ) -> LookupResult:
        """Looks up one request.

        The result of a miss includes the log's position.

        Raises:
            UnavailableError: The server did not answer, or the reply cannot be read.
        """
        asked_at = boot_time()
        since = self.news.position
        key = request.key
        keys = (key.text, marker_of(key))
        if connection.is_cluster:
            reply = await connection.command(deadline, key.text, "EVAL", scripts.GET, 2, *keys)
        else:
            asked = (nonce(), since or "")
            command = ("EVAL", scripts.GET, 4, *keys, *self._log.keys, *asked)
            reply = await connection.command(deadline, key.text, *command)
        held, marker, at = replies.read(replies.looked_up, reply)
        found = result_of(key, held)
        if at is not None:
            self.news.add(at, since)
        elif not connection.is_cluster:
            at = At(since)
        elif found.entry is None:
            at = At(await self.position(connection, deadline))
        position = at.position if at is not None else None
        if found.entry is not None:
            return found._replace(position=position)
        return found._replace(
            position=position,
            marker=marker,
            era=self.news.era(request.subject),
            asked_at=asked_at,
        )

    async def position(self, connection: GuardedConnection, deadline: float) -> str | None:
        """Returns the log's position. None: there is no log, and the server cannot start one.

        Raises:
            UnavailableError: The server did not answer, or the reply cannot be read.
        """
        since = self.news.position
        reply = await connection.command(deadline, self.log, *self._log.query(since))
        return self._add_news(reply, since)

    async def position_now(self, connection: GuardedConnection, deadline: float) -> str | None:
        """Returns the log's position now or just before. Bypasses the limit of commands in flight.

        Concurrent callers share one query.

        Raises:
            UnavailableError: The circuit is open, the server did not answer in time, or the reply
                cannot be read.
        """
        if connection.is_open(self.log):
            message = "the circuit is open"
            raise UnavailableError(message)
        asked = connection.pending_queries.get(self.log)
        if asked is None or asked.done():
            asked = asyncio.create_task(self._ask_now(connection))
            asked.add_done_callback(mark_retrieved)
            connection.pending_queries[self.log] = asked
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(asked)
        except TimeoutError as error:
            raise UnavailableError(describe(error)) from None

    async def _ask_now(self, connection: GuardedConnection) -> str | None:
        since = self.news.position
        return self._add_news(await connection.urgent(self.log, *self._log.query(since)), since)

    def _add_news(self, reply: object, since: str | None) -> str | None:
        at = replies.read(replies.at_position, reply)
        self.news.add(at, since)
        return at.position

    async def look_up_many(
        self, connection: GuardedConnection, keys: Sequence[RequestKey]
    ) -> list[LookupResult]:
        """Looks up many requests. An unanswered one carries its error in `fault`."""
        values: list[Held | UnavailableError] = []
        for start in range(0, len(keys), CHUNK):
            part = [key.text for key in keys[start : start + CHUNK]]
            found = await self._values(connection, part)
            values += found
            if all(isinstance(one, UnavailableError) for one in found):
                break
        values += values[-1:] * (len(keys) - len(values))
        return [result_of(key, value) for key, value in zip(keys, values, strict=True)]

    async def _values(
        self, connection: GuardedConnection, keys: Sequence[str]
    ) -> list[Held | UnavailableError]:
        deadline = connection.deadline()
        if connection.is_cluster:
            return await self._values_of_many(connection, deadline, keys)
        since = self.news.position
        asked = (len(keys), nonce(), since or "")
        command: RedisCommand = (
            *("EVAL", scripts.GET_MANY, len(keys) + 2, *keys, *self._log.keys),
            *asked,
        )
        try:
            reply = await connection.command(deadline, keys[0], *command)
            self._add_news(replies.read(lambda it: it[2 * len(keys) :], reply), since)
            return [*replies.read(lambda it: replies.many(it, len(keys)), reply)]
        except UnavailableError as error:
            return [error] * len(keys)

    async def _values_of_many(
        self, connection: GuardedConnection, deadline: float, keys: Sequence[str]
    ) -> list[Held | UnavailableError]:
        """Sends one pipeline to each primary of a cluster, and a query of the log's position."""
        commands: list[RedisCommand] = [("EVAL", scripts.GET_MANY, 1, key, 1) for key in keys]
        since = self.news.position
        *answers, position = await _send(
            connection, deadline, [*keys, self.log], [*commands, self._log.query(since)]
        )
        with suppress(UnavailableError):
            self._add_news(_unavailable(position), since)
        return [_read(replies.held, answer) for answer in answers]

    async def put(
        self, connection: GuardedConnection, deadline: float, writes: Sequence[Write], fence: Fence
    ) -> list[WriteOutcome | UnavailableError]:
        """Stores decisions, unless the fence forbids it.

        They are sent in parts of 100. The deadline is that of the first part; each other part has
        the time of a command. If the server does not answer one part, the rest is not sent.

        Returns:
            The outcome of each write, or the error because of which it is unknown.
        """
        put = self._put_in_steps if connection.is_cluster else self._put_in_one
        outcomes: list[WriteOutcome | UnavailableError] = []
        for start in range(0, len(writes), WRITES_PER_SCRIPT):
            part = writes[start : start + WRITES_PER_SCRIPT]
            stored = await put(
                connection, deadline if start == 0 else connection.deadline(), part, fence
            )
            outcomes += stored
            if all(isinstance(one, UnavailableError) for one in stored):
                break
        unavailable = outcomes[-1:] * (len(writes) - len(outcomes))
        return outcomes + unavailable

    async def _put_in_one(
        self, connection: GuardedConnection, deadline: float, writes: Sequence[Write], fence: Fence
    ) -> list[WriteOutcome | UnavailableError]:
        keys = [key for write in writes for key in (write.key.text, write.marker)]
        values = [part for write in writes for part in (write.text, write.ttl_ms, write.subject)]
        seen = (fence.position(), fence.may_replace.value, fence.held, fence.marker)
        command: RedisCommand = (
            *("EVAL", scripts.STORE, len(keys) + 2, *keys, *self._log.keys),
            *(*seen, token_hex(12), *values),
        )
        return await _each(connection, deadline, keys[0], command, len(writes))

    async def _put_in_steps(
        self, connection: GuardedConnection, deadline: float, writes: Sequence[Write], fence: Fence
    ) -> list[WriteOutcome | UnavailableError]:
        """Reserves the keys, reads the log, then replaces the reservations by the decisions."""
        reservation = token_hex(12)
        keys = [write.key.text for write in writes]
        seen = (reservation, fence.may_replace.value, fence.held, fence.marker)
        reserve: list[RedisCommand] = [
            ("EVAL", scripts.RESERVE, 2, write.key.text, write.marker, *seen, write.ttl_ms)
            for write in writes
        ]
        sent = await _send(connection, deadline, keys, reserve)
        outcomes: list[WriteOutcome | UnavailableError] = [
            _read(WriteOutcome, reply) for reply in sent
        ]
        reserved = [at for at, outcome in enumerate(outcomes) if outcome is WriteOutcome.STORED]
        if not reserved:
            return outcomes
        subjects = [writes[at].subject for at in reserved]
        verify: RedisCommand = (
            *("EVAL", scripts.VERIFY, 2, *self._log.keys),
            *(fence.position(), nonce(), *subjects),
        )
        verified = await _each(connection, deadline, self.log, verify, len(reserved))
        commit: list[RedisCommand] = []
        for at, outcome in zip(reserved, verified, strict=True):
            outcomes[at] = outcome
            value = writes[at].text if outcome is WriteOutcome.STORED else ""
            both = (keys[at], writes[at].marker)
            commit.append(("EVAL", scripts.COMMIT, 2, *both, reservation, value, writes[at].ttl_ms))
        committed = await _send(connection, deadline, [keys[at] for at in reserved], commit)
        for at, reply in zip(reserved, committed, strict=True):
            if outcomes[at] is WriteOutcome.STORED:
                outcomes[at] = _read(WriteOutcome, reply)
        return outcomes

    async def remove(
        self, connection: GuardedConnection, request: KeyedRequest, *, asks: bool = False
    ) -> Revoked:
        """Revokes one decision, stored or being evaluated.

        Args:
            connection: The connection to the servers.
            request: The request of the decision.
            asks: If True, the reply that confirms it also says what the readers of the log have
                applied.

        The record has the fields of the request and not its key, because a native cache of another
        process cannot find an entry by the hash of a long key.

        Raises:
            UnconfirmedError: The servers changed, or a replica did not confirm the removal.
            Exception: An error of the client.
        """
        key = request.key.text

        async def remove(_: Servers, _stored: str) -> int:
            removed = await connection.urgent(key, "EVAL", scripts.REMOVE, 1, key)
            return replies.read(replies.count, removed)

        return await self._revoke(connection, fields_of(request.scope), remove, asks=asks)

    async def remove_superseded(
        self, connection: GuardedConnection, deadline: float, keys: Collection[RequestKey]
    ) -> None:
        """Revokes and removes superseded decisions, stored or being evaluated.

        The record is appended first. So a decision that was stored before the record is removed.

        Raises:
            UnavailableError: The server did not confirm it.
        """
        texts = [key.text for key in keys]

        for start in range(0, len(texts), CHUNK):
            part = texts[start : start + CHUNK]
            record: LogRecord = {"keys": [logged(key) for key in part]}
            append = self._log.append(record, with_decisions=not connection.is_cluster)
            self._note_appended(await connection.command(deadline, self.log, *append))
            remove: list[RedisCommand] = [("EVAL", scripts.REMOVE, 1, key) for key in part]
            for reply in await connection.commands(deadline, part, remove):
                replies.read(replies.count, _unavailable(reply))

    async def invalidate(
        self,
        connection: GuardedConnection,
        scope: Scope,
        tags: Sequence[str],
        *,
        asks: bool = False,
    ) -> Revoked:
        """Revokes the decisions in a scope that have one of the tags, if any are given.

        Scans all keys.

        Args:
            connection: The connection to the servers.
            scope: The scope.
            tags: The tags. Empty: all decisions in the scope.
            asks: As for `remove`.

        Raises:
            UnconfirmedError: The servers changed, or a replica did not confirm the removal.
            Exception: An error of the client.
        """
        record: LogRecord = fields_of(scope)
        if tags:
            record["tags"] = list(tags)
        return await self._revoke_all(
            connection,
            record,
            scope.pattern(self.prefix),
            lambda keys: scope.filter(self.prefix, keys),
            tags,
            asks=asks,
        )

    async def invalidate_pattern(
        self, connection: GuardedConnection, pattern: str, *, asks: bool = False
    ) -> Revoked:
        """Revokes the decisions whose key matches a glob.

        Scans all keys. The comparison yields to the event loop every few milliseconds.

        Args:
            connection: The connection to the servers.
            pattern: The glob.
            asks: As for `remove`.

        Raises:
            UnconfirmedError: The servers changed, or a replica did not confirm the removal.
            Exception: An error of the client.
        """
        matching = matcher(self.prefix, pattern)
        keys = candidates(self.prefix, pattern)
        record: LogRecord = {"pattern": pattern}
        return await self._revoke_all(connection, record, keys, matching, (), asks=asks)

    async def size(self, connection: GuardedConnection) -> int:
        """Returns the number of decisions. A server that resizes its table may repeat some keys.

        Raises:
            UnconfirmedError: The servers changed during the scan.
            Exception: An error of the client.
        """
        everything = Scope()

        async def count(_: Primary, keys: list[str]) -> int:
            return len(everything.filter(self.prefix, keys))

        held: list[Primary] = []
        try:
            servers = await current_servers(connection, held)
            return await scan_all(servers, lambda: everything.pattern(self.prefix), count)
        finally:
            for primary in held:
                await primary.release()

    async def _revoke_all(
        self,
        connection: GuardedConnection,
        record: LogRecord,
        pattern: str,
        matching: Callable[[list[str]], Iterable[str | None]],
        tags: Sequence[str],
        *,
        asks: bool,
    ) -> Revoked:
        async def scan(servers: Servers, stored: str) -> int:
            if stored == scripts.NONE:
                return 0
            # Looks for any decision until it has found one, then for those that may match.
            found_any = stored == scripts.MAYBE

            def wanted() -> str:
                return pattern if found_any else Scope().pattern(self.prefix)

            async def remove(primary: Primary, keys: list[str]) -> int:
                nonlocal found_any
                found_any = True
                return await remove_keys(primary, await collect_yielding(matching(keys)), tags)

            removed = await scan_all(servers, wanted, remove)
            if not found_any:
                # The revocation is complete without it. The next one scans again.
                with suppress(UnavailableError):
                    [(run, *_)] = servers.known
                    await connection.urgent(self.log, *self._log.note_none(stored, run))
            return removed

        return await self._revoke(connection, record, scan, asks=asks)

    async def _revoke(
        self,
        connection: GuardedConnection,
        record: LogRecord,
        remove: Callable[[Servers, str], Awaitable[int]],
        *,
        asks: bool,
    ) -> Revoked:
        appended = Appended(None, boot_time())
        question: Question | None = None

        # First the record: it revokes decisions being evaluated, which the scan cannot find.
        def append() -> RedisCommand:
            return self._log.append(record, with_decisions=not connection.is_cluster)

        async def revoke(servers: Servers) -> int:
            nonlocal appended
            reply = servers.answer
            if reply is None or isinstance(reply, Exception):
                reply = await connection.urgent(self.log, *append())
            position, stored = self._note_appended(reply)
            appended = Appended(position, boot_time())
            return await remove(servers, stored)

        def ask() -> RedisCommand | None:
            nonlocal question
            can_ask = asks and appended.position is not None
            question = self.settling.question(appended.position or "") if can_ask else None
            return None if question is None else question.command

        confirmed = await retry_until_confirmed(connection, append, revoke, ask)
        return Revoked(
            confirmed.total, self.settling.appended(appended, question, confirmed.answer)
        )

    def _note_appended(self, reply: object) -> AppendReply:
        """Reads the reply to a record. Later stamps have its position.

        Raises:
            UnavailableError: The server did not confirm it.
        """
        appended = replies.read(replies.appended, reply)
        if appended.position is not None:
            self.news.latest = appended.position
        return appended


async def _each(
    connection: GuardedConnection, deadline: float, key: str, command: RedisCommand, count: int
) -> list[WriteOutcome | UnavailableError]:
    """Sends one command for many writes. Returns the outcome of each, or the command's error."""
    try:
        reply = await connection.command(deadline, key, *command)
        outcomes = replies.read(
            lambda it: list(map(WriteOutcome, replies.numbers(it, count))), reply
        )
    except UnavailableError as error:
        return [error] * count
    return [*outcomes]


async def _send(
    connection: GuardedConnection,
    deadline: float,
    keys: Sequence[str],
    commands: Sequence[RedisCommand],
) -> list[Any]:
    answers: list[Any] = []
    for start in range(0, len(commands), CHUNK):
        part = slice(start, start + CHUNK)
        answers += await connection.commands(deadline, keys[part], commands[part])
    return answers


def _read(reader: Callable[[Any], T], reply: object) -> T | UnavailableError:
    """Reads one of many replies. Returns the error if it is one, or cannot be read."""
    try:
        return replies.read(reader, _unavailable(reply))
    except UnavailableError as error:
        return error


def _unavailable(reply: object) -> object:
    """Converts an error among replies to an `UnavailableError`. Returns any other reply."""
    return UnavailableError(describe(reply)) if isinstance(reply, Exception) else reply
