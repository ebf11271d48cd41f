"""What is done on the servers: decisions looked up, stored unless overtaken, and revoked.

Each look-up is one round trip, each store too; on a cluster, where a key and the log are in
different places, a miss takes two and a store three. Everything here raises what goes wrong; what
that means to a request is the cache's business.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from enum import Enum
from hashlib import sha256
from secrets import token_hex
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

from sark_cache._core.keys import PARTS, RequestKey, Scope, prefix_of
from sark_cache._core.patterns import candidates, matcher
from sark_cache.backends.redis import replies, scripts
from sark_cache.backends.redis.connection import (
    Command,
    GuardedConnection,
    UnavailableError,
    describe,
)
from sark_cache.backends.redis.entry import CorruptEntryError, Entry, decode
from sark_cache.backends.redis.invalidation import (
    Primary,
    Servers,
    current_servers,
    retry_until_confirmed,
    scan_all,
)
from sark_cache.backends.redis.news import News
from sark_cache.backends.redis.replies import At, Held

Record: TypeAlias = dict[str, Any]
"""What was revoked: the fields and tags that were named, or `keys`, or a `pattern`."""

LONGEST_LOGGED = 64
"""The most characters of a field or key that stand in the log; of a longer one it has a digest."""

_RESERVATION = {str: scripts.RESERVATION, bytes: scripts.RESERVATION.encode()}

CHUNK = 500
"""Commands, or keys of one command, that are sent at once."""
YIELD_SECONDS = 0.005
"""How long keys are compared before the event loop has a turn."""
STRETCHED = "an entry with more time left than it had: the server's clock went back"
T = TypeVar("T")

WRITES_PER_SCRIPT = 100
"""Decisions that are looked for in the log at once: a full one takes the server 10 ms then."""


class LookupResult(NamedTuple):
    """The result of a look-up."""

    entry: Entry | None = None
    left_seconds: float = 0.0
    position: str | None = None
    """The log's, if it was asked for and could be told."""
    held: str | bytes | None = None
    """What the key holds, to be replaced by the next decision; None: nothing."""
    fault: str | None = None
    """Why there is no entry, if the key holds something or nobody answered."""
    marker: str | None = None
    """The marker of a decision that was here a moment ago."""
    era: int = 0
    """The number of the newest revocation that may concern the request, in this process."""
    asked_at: float = 0.0
    """When the look-up began, by `elapsing`."""
    spent: float = 0.0
    """The seconds that the look-up took of the request's time."""


class Write(NamedTuple):
    """A decision on its way in."""

    key: RequestKey
    marker: str
    """The key of its marker."""
    text: str
    ttl_ms: int
    subject: str
    """What an invalidation is matched against: key, fields and tags, as JSON."""


class MayReplace(Enum):
    """What a write may take the place of."""

    ANYTHING = "always"
    NOTHING = "absent"
    SEEN_VALUE = "replace"


class Fence(NamedTuple):
    """What a write may not overtake."""

    position: Callable[[], str]
    """Says the log's when the evaluation began, or an age now (`scripts` says what that is)."""
    may_replace: MayReplace = MayReplace.ANYTHING
    held: str | bytes = ""
    marker: str = ""


class Outcome(Enum):
    """What became of a write."""

    STORED = scripts.STORED
    OVERTAKEN = scripts.OVERTAKEN
    SUPERSEDED = scripts.SUPERSEDED


class Lookup(Protocol):
    """A request, as it is looked up."""

    @property
    def key(self) -> RequestKey:
        """Where its decision is kept."""
        ...

    @property
    def subject(self) -> dict[str, Any]:
        """What the log's records are matched against."""
        ...


def subject(key: RequestKey, scope: Scope) -> dict[str, Any]:
    """Returns what the log's records are matched against, but for tags."""
    return {"key": logged(key.text), **_fields(scope)}


def logged(text: str) -> str:
    """Returns a text as the log has it: itself, or a digest where it is long."""
    if len(text) <= LONGEST_LOGGED:
        return text
    return f"#{sha256(text.encode()).hexdigest()[:32]}"


def boot_time() -> float:
    """Returns a time in seconds. On Linux it goes on while the machine is suspended."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def marker_of(key: RequestKey) -> str:
    """Returns the key of a decision's marker, which a cluster keeps in the same slot."""
    prefix = key.text.rsplit(":", PARTS)[0]
    return f"{prefix}.marker:{{{key.text}}}"


class DecisionStore:
    """The decisions of one namespace, and their invalidation log."""

    def __init__(self, namespace: str) -> None:
        self.prefix: Final = prefix_of(namespace)
        self.log: Final = f"{self.prefix}.invalidations"
        self.news: Final = News()

    async def look_up(
        self, connection: GuardedConnection, deadline: float, request: Lookup
    ) -> LookupResult:
        """Looks up one request and, unless there is a fresh entry, the log's position.

        Raises:
            UnavailableError: There is no answer.
        """
        asked_at = boot_time()
        since = self.news.position
        key = request.key
        keys = (key.text, marker_of(key))
        if connection.is_cluster:
            reply = await connection.command(deadline, key.text, "EVAL", scripts.GET, 2, *keys)
        else:
            asked = (token_hex(12), since or "")
            command = ("EVAL", scripts.GET, 3, *keys, self.log, *asked)
            reply = await connection.command(deadline, key.text, *command)
        held, marker, at = replies.read(replies.looked_up, reply)
        found = _result_of(key, held)
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
        """Asks for the log's position.

        Raises:
            UnavailableError: There is no answer.
        """
        since = self.news.position
        reply = await connection.command(deadline, self.log, *self._position_since(since))
        return self._add_news(reply, since)

    async def position_now(self, connection: GuardedConnection, deadline: float) -> str | None:
        """Asks for the log's position at this moment or just before, without waiting for a turn.

        One question serves all who have it at the same time.

        Raises:
            UnavailableError: There is no answer.
        """
        if connection.is_open(self.log):
            message = "the circuit is open"
            raise UnavailableError(message)
        asked = connection.pending_queries.get(self.log)
        if asked is None or asked.done():
            asked = asyncio.create_task(self._ask_now(connection))
            asked.add_done_callback(_mark_retrieved)
            connection.pending_queries[self.log] = asked
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(asked)
        except TimeoutError as error:
            raise UnavailableError(describe(error)) from None

    async def _ask_now(self, connection: GuardedConnection) -> str | None:
        since = self.news.position
        return self._add_news(
            await connection.urgent(self.log, *self._position_since(since)), since
        )

    def _position_since(self, since: str | None) -> Command:
        return ("EVAL", scripts.POSITION, 1, self.log, token_hex(12), since or "")

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
        return [_result_of(key, value) for key, value in zip(keys, values, strict=True)]

    async def _values(
        self, connection: GuardedConnection, keys: Sequence[str]
    ) -> list[Held | UnavailableError]:
        deadline = connection.deadline()
        if connection.is_cluster:
            return await self._values_of_many(connection, deadline, keys)
        since = self.news.position
        asked = (len(keys), token_hex(12), since or "")
        command: Command = ("EVAL", scripts.GET_MANY, len(keys) + 1, *keys, self.log, *asked)
        try:
            reply = await connection.command(deadline, keys[0], *command)
            self._add_news(replies.read(lambda it: it[2 * len(keys) :], reply), since)
            return [*replies.read(lambda it: replies.many(it, len(keys)), reply)]
        except UnavailableError as error:
            return [error] * len(keys)

    async def _values_of_many(
        self, connection: GuardedConnection, deadline: float, keys: Sequence[str]
    ) -> list[Held | UnavailableError]:
        """Asks all primaries of a cluster, and at the same time for the log's position."""
        commands: list[Command] = [("EVAL", scripts.GET_MANY, 1, key, 1) for key in keys]
        since = self.news.position
        *answers, position = await _send(
            connection, deadline, [*keys, self.log], [*commands, self._position_since(since)]
        )
        with suppress(UnavailableError):
            self._add_news(position, since)
        return [_read(replies.held, answer) for answer in answers]

    async def put(
        self, connection: GuardedConnection, deadline: float, writes: Sequence[Write], fence: Fence
    ) -> list[Outcome | UnavailableError]:
        """Stores decisions that nothing revokes that is newer than their fence.

        Returns each one's outcome, or why there is none. The first part of them has the time until
        the deadline, each other part that of a request; where nobody answers, the rest is not
        tried.
        """
        put = self._put_in_steps if connection.is_cluster else self._put_in_one
        outcomes: list[Outcome | UnavailableError] = []
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
    ) -> list[Outcome | UnavailableError]:
        keys = [key for write in writes for key in (write.key.text, write.marker)]
        values = [part for write in writes for part in (write.text, write.ttl_ms, write.subject)]
        seen = (fence.position(), fence.may_replace.value, fence.held, fence.marker)
        command: Command = (
            *("EVAL", scripts.STORE, len(keys) + 1, *keys, self.log),
            *(*seen, token_hex(12), *values),
        )
        return await _each(connection, deadline, keys[0], command, len(writes))

    async def _put_in_steps(
        self, connection: GuardedConnection, deadline: float, writes: Sequence[Write], fence: Fence
    ) -> list[Outcome | UnavailableError]:
        """Reserves the keys, reads the log, then lets the decisions take their places."""
        reservation = token_hex(12)
        keys = [write.key.text for write in writes]
        seen = (reservation, fence.may_replace.value, fence.held, fence.marker)
        reserve: list[Command] = [
            ("EVAL", scripts.RESERVE, 2, write.key.text, write.marker, *seen, write.ttl_ms)
            for write in writes
        ]
        sent = await _send(connection, deadline, keys, reserve)
        outcomes: list[Outcome | UnavailableError] = [_read(Outcome, reply) for reply in sent]
        reserved = [at for at, outcome in enumerate(outcomes) if outcome is Outcome.STORED]
        if not reserved:
            return outcomes
        subjects = [writes[at].subject for at in reserved]
        verify: Command = ("EVAL", scripts.VERIFY, 1, self.log, fence.position(), *subjects)
        verified = await _each(connection, deadline, self.log, verify, len(reserved))
        commit: list[Command] = []
        for at, outcome in zip(reserved, verified, strict=True):
            outcomes[at] = outcome
            value = writes[at].text if outcome is Outcome.STORED else ""
            commit.append(
                ("EVAL", scripts.COMMIT, 1, keys[at], reservation, value, writes[at].ttl_ms)
            )
        committed = await _send(connection, deadline, [keys[at] for at in reserved], commit)
        for at, reply in zip(reserved, committed, strict=True):
            if outcomes[at] is Outcome.STORED:
                outcomes[at] = _read(Outcome, reply)
        return outcomes

    async def remove(self, connection: GuardedConnection, key: RequestKey) -> bool:
        """Revokes one decision, stored or being evaluated; returns whether it was there.

        Raises:
            Exception: It could not be confirmed.
        """

        async def revoke(_: Servers) -> int:
            await self._record(connection, {"keys": [logged(key.text)]})
            removed = await connection.urgent(key.text, "EVAL", scripts.REMOVE, 1, key.text)
            return replies.read(replies.count, removed)

        return bool(await retry_until_confirmed(connection, revoke))

    async def discard(
        self, connection: GuardedConnection, deadline: float, keys: Collection[RequestKey]
    ) -> None:
        """Removes what was superseded, stored or being evaluated.

        The record comes first: a decision that is stored before it is removed after it.

        Raises:
            UnavailableError: It could not be confirmed.
        """
        texts = [key.text for key in keys]

        async def send(*command: Any) -> object:  # noqa: ANN401 - a command's parts
            return await connection.command(deadline, self.log, *command)

        for start in range(0, len(texts), CHUNK):
            part = texts[start : start + CHUNK]
            await self._append(send, {"keys": [logged(key) for key in part]})
            remove: list[Command] = [("EVAL", scripts.REMOVE, 1, key) for key in part]
            for reply in await connection.commands(deadline, part, remove):
                replies.read(replies.count, _unavailable(reply))

    async def invalidate(
        self, connection: GuardedConnection, scope: Scope, tags: Sequence[str]
    ) -> int:
        """Revokes what is in a scope and has one of the tags, if any are named; how many were.

        Raises:
            Exception: It could not be confirmed.
        """
        record: Record = _fields(scope)
        if tags:
            record["tags"] = list(tags)
        return await self._revoke(
            connection,
            record,
            scope.pattern(self.prefix),
            lambda keys: scope.filter(self.prefix, keys),
            tags,
        )

    async def invalidate_pattern(self, connection: GuardedConnection, pattern: str) -> int:
        """Revokes what matches a glob over the text of the key; how many there were.

        However long it takes to compare keys with the glob, the event loop has a turn every few
        milliseconds.

        Raises:
            Exception: It could not be confirmed.
        """
        matching = matcher(self.prefix, pattern)
        return await self._revoke(
            connection, {"pattern": pattern}, candidates(self.prefix, pattern), matching, ()
        )

    async def size(self, connection: GuardedConnection) -> int:
        """How many decisions there are; a server that resizes its table may count some twice.

        Raises:
            Exception: There is no answer.
        """
        everything = Scope()

        async def count(_: Primary, keys: list[str]) -> int:
            return len(everything.filter(self.prefix, keys))

        held: list[Primary] = []
        try:
            servers = await current_servers(connection, held)
            return await scan_all(servers, everything.pattern(self.prefix), count)
        finally:
            for primary in held:
                await primary.release()

    async def _revoke(
        self,
        connection: GuardedConnection,
        record: Record,
        pattern: str,
        of_these: Callable[[list[str]], Iterable[str | None]],
        tags: Sequence[str],
    ) -> int:
        async def remove(primary: Primary, keys: list[str]) -> int:
            return await _remove_keys(primary, await _collect_yielding(of_these(keys)), tags)

        async def revoke(servers: Servers) -> int:
            # First what is being evaluated, which the walk cannot see.
            await self._record(connection, record)
            return await scan_all(servers, pattern, remove)

        return await retry_until_confirmed(connection, revoke)

    async def _record(self, connection: GuardedConnection, record: Record) -> None:
        async def send(*command: Any) -> object:  # noqa: ANN401 - a command's parts
            return await connection.urgent(self.log, *command)

        await self._append(send, record)

    async def _append(self, send: Callable[..., Awaitable[object]], record: Record) -> None:
        """Appends a record, from which on stamps may be taken.

        Raises:
            UnavailableError: That could not be confirmed.
        """
        position = token_hex(12)
        try:
            reply = await send("EVAL", scripts.APPEND, 1, self.log, position, json.dumps(record))
            replies.read(replies.done, reply)
        except UnavailableError as error:
            if "OOM" not in str(error):
                raise
            # Without a log no evaluation that is under way can be stored, which is enough.
            replies.read(replies.count, await send("UNLINK", self.log))
        else:
            self.news.latest = position


def _fields(scope: Scope) -> dict[str, str]:
    """Returns the named parts of a scope, as the log has them."""
    return {name: logged(part) for name, part in scope._asdict().items() if part is not None}


def _mark_retrieved(asked: asyncio.Task[Any]) -> None:
    """Keeps asyncio from telling of an error that everybody who asked is raised."""
    if not asked.cancelled():
        asked.exception()


async def _each(
    connection: GuardedConnection, deadline: float, key: str, command: Command, count: int
) -> list[Outcome | UnavailableError]:
    """Sends one command about many decisions; returns each one's outcome, or why there is none."""
    try:
        reply = await connection.command(deadline, key, *command)
        outcomes = replies.read(lambda it: list(map(Outcome, replies.numbers(it, count))), reply)
    except UnavailableError as error:
        return [error] * count
    return [*outcomes]


async def _send(
    connection: GuardedConnection, deadline: float, keys: Sequence[str], commands: Sequence[Command]
) -> list[Any]:
    answers: list[Any] = []
    for start in range(0, len(commands), CHUNK):
        part = slice(start, start + CHUNK)
        answers += await connection.commands(deadline, keys[part], commands[part])
    return answers


async def _collect_yielding(found: Iterable[str | None]) -> list[str]:
    """Returns what is found, and gives the event loop a turn each time `TURN_SECONDS` have passed.

    Args:
        found: The keys, and None after a step that found nothing.
    """
    keys: list[str] = []
    began = time.monotonic()
    for key in found:
        if key is not None:
            keys.append(key)
        if time.monotonic() - began > YIELD_SECONDS:
            await asyncio.sleep(0)
            began = time.monotonic()
    return keys


async def _remove_keys(primary: Primary, keys: list[str], tags: Sequence[str]) -> int:
    async def remove(part: Sequence[str]) -> int:
        if not tags and primary.takes_many_keys:
            removed = await primary.run(("UNLINK", *part))
        elif not tags:
            removed = await primary.run(*(("UNLINK", key) for key in part))
        elif primary.takes_many_keys:
            removed = await primary.run(("EVAL", scripts.REMOVE_TAGGED, len(part), *part, *tags))
        else:
            one = scripts.REMOVE_TAGGED
            removed = await primary.run(*(("EVAL", one, 1, key, *tags) for key in part))
        return sum(replies.read(replies.count, one) for one in removed)

    return await primary.in_parts(keys, remove)


def _read(reader: Callable[[Any], T], reply: object) -> T | UnavailableError:
    """Reads one of many replies; returns why it is none."""
    try:
        return replies.read(reader, _unavailable(reply))
    except UnavailableError as error:
        return error


def _unavailable(reply: object) -> object:
    """Returns a reply, or what an error among replies is told as."""
    return UnavailableError(describe(reply)) if isinstance(reply, Exception) else reply


def _result_of(key: RequestKey, held: Held | UnavailableError) -> LookupResult:
    if isinstance(held, UnavailableError):
        return LookupResult(fault=str(held))
    value, left_ms = held
    if value is None or value.startswith(_RESERVATION[type(value)]):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        return LookupResult()
    try:
        entry = decode(value, key)
    except CorruptEntryError as error:
        return LookupResult(held=value, fault=str(error))
    if left_ms < 0:  # told never to expire, which no entry of ours is; 0: in its last millisecond
        return LookupResult(held=value)
    if left_ms > lifetime_ms(entry.ttl_seconds):
        return LookupResult(held=value, fault=STRETCHED)
    return LookupResult(entry, left_ms / 1e3, held=value)


def lifetime_ms(ttl_seconds: float) -> int:
    """Returns a time to live as servers take it."""
    return max(1, int(ttl_seconds * 1e3))
