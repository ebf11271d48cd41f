"""What is done on the servers: decisions looked up, stored unless overtaken, and revoked.

Each look-up is one round trip, each store too; on a cluster, where a key and the log are in
different places, a miss takes two and a store three. Everything here raises what goes wrong; what
that means to a request is the cache's business.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from enum import Enum
from hashlib import sha256
from secrets import token_hex
from typing import Any, Final, NamedTuple, TypeAlias

from sark_cache.keys import RequestKey, Scope, prefix_of
from sark_cache.patterns import candidates, matcher
from sark_cache.redis import scripts
from sark_cache.redis.entry import CorruptEntryError, Entry, decode
from sark_cache.redis.link import Command, Link, UnavailableError, told
from sark_cache.redis.walk import Primary, Servers, confirmed, current_servers, text, walk

Record: TypeAlias = dict[str, Any]
"""What was revoked: the fields and tags that were named, or `keys`, or a `pattern`."""

LONGEST_LOGGED = 64
"""The most characters of a field or key that stand in the log; of a longer one it has a digest."""

_RESERVATION = {str: scripts.RESERVATION, bytes: scripts.RESERVATION.encode()}

CHUNK = 500
"""Commands, or keys of one command, that are sent at once."""
DECISIONS = 100
"""Decisions that are looked for in the log at once: a full one takes the server 10 ms then."""


class Found(NamedTuple):
    """What a look-up found."""

    entry: Entry | None = None
    left_seconds: float = 0.0
    position: str | None = None
    """The log's, if it was asked for and could be told."""
    held: str | bytes | None = None
    """What the key holds, to be replaced by what is evaluated now; None: nothing."""
    fault: str | None = None
    """Why what the key holds is no entry."""


class Write(NamedTuple):
    """A decision on its way in."""

    key: RequestKey
    text: str
    ttl_ms: int
    subject: str
    """What an invalidation is matched against: key, fields and tags, as JSON."""


class Over(Enum):
    """What a write may take the place of."""

    ANYTHING = "always"
    NOTHING = "absent"
    WHAT_WAS_SEEN = "replace"


class Outcome(Enum):
    """What became of a write."""

    STORED = scripts.STORED
    OVERTAKEN = scripts.OVERTAKEN
    SUPERSEDED = scripts.SUPERSEDED


def subject(key: RequestKey, scope: Scope, tags: Sequence[str]) -> str:
    """Returns the text that the log's records are matched against."""
    return json.dumps({"key": logged(key.text), **_fields(scope), "tags": tags})


def logged(text: str) -> str:
    """Returns a text as the log has it: itself, or a digest where it is long."""
    if len(text) <= LONGEST_LOGGED:
        return text
    return f"#{sha256(text.encode()).hexdigest()[:32]}"


class Store:
    """The decisions of one namespace, and their invalidation log."""

    def __init__(self, namespace: str) -> None:
        self.prefix: Final = prefix_of(namespace)
        self.log: Final = f"{self.prefix}.invalidations"

    async def look_up(self, link: Link, key: RequestKey) -> Found:
        """What is there for a request and, unless that is fresh, the log's position.

        Raises:
            UnavailableError: There is no answer.
        """
        deadline = link.deadline()
        if not link.is_cluster:
            keys = (key.text, self.log)
            value, left, position = await link.command(
                deadline, key.text, "EVAL", scripts.GET, 2, *keys, token_hex(12)
            )
            return _found(key, value, left, position)
        value, left, *_ = await link.command(
            deadline, key.text, "EVAL", scripts.GET, 1, key.text, ""
        )
        found = _found(key, value, left, None)
        if found.entry is None:
            found = found._replace(position=await self.position(link, deadline))
        return found

    async def position(self, link: Link, deadline: float) -> str | None:
        """The log's position.

        Raises:
            UnavailableError: There is no answer.
        """
        position = await link.command(
            deadline, self.log, "EVAL", scripts.POSITION, 1, self.log, token_hex(12)
        )
        return None if position is None else text(position)

    async def position_now(self, link: Link) -> str | None:
        """The log's position at this moment or just before, without waiting for a turn.

        One question serves all who have it at the same time.

        Raises:
            UnavailableError: There is no answer.
        """
        if link.is_open(self.log):
            message = "the circuit is open"
            raise UnavailableError(message)
        asked = link.questions.get(self.log)
        if asked is None or asked.done():
            command = ("EVAL", scripts.POSITION, 1, self.log, token_hex(12))
            asked = asyncio.create_task(link.urgent(self.log, *command))
            asked.add_done_callback(_looked_at)
            link.questions[self.log] = asked
        position = await asyncio.shield(asked)
        return None if position is None else text(position)

    async def look_up_many(self, link: Link, keys: Sequence[RequestKey]) -> list[Found]:
        """What is there for many requests; where there is no answer, that is its fault."""
        values: list[Any] = []
        for start in range(0, len(keys), CHUNK):
            part = [key.text for key in keys[start : start + CHUNK]]
            found = await self._values(link, part)
            values += found
            if all(isinstance(one, UnavailableError) for one in found):
                break
        values += values[-1:] * (len(keys) - len(values))
        return [_found(key, value, 1, None) for key, value in zip(keys, values, strict=True)]

    async def _values(self, link: Link, keys: Sequence[str]) -> list[Any]:
        if not link.is_cluster:
            command: Command = ("EVAL", scripts.GET_MANY, len(keys), *keys)
            return await _each(link, link.deadline(), keys[0], command, len(keys))
        commands: list[Command] = [("EVAL", scripts.GET_MANY, 1, key) for key in keys]
        replies = await _sent(link, link.deadline(), keys, commands)
        return [reply if isinstance(reply, Exception) else reply[0] for reply in replies]

    async def put(
        self,
        link: Link,
        writes: Sequence[Write],
        position: str,
        over: Over = Over.ANYTHING,
        held: str | bytes = "",
    ) -> list[Outcome | Exception]:
        """Stores decisions that nothing newer than a position of the log revokes.

        Each one's outcome, or why there is none. Many take as long as they take while the servers
        answer; where they do not, the rest is not tried.
        """
        put = self._put_in_steps if link.is_cluster else self._put_in_one
        outcomes: list[Outcome | Exception] = []
        for start in range(0, len(writes), DECISIONS):
            part = writes[start : start + DECISIONS]
            stored = await put(link, link.deadline(), part, position, over, held)
            outcomes += stored
            if all(isinstance(one, UnavailableError) for one in stored):
                break
        unavailable = outcomes[-1:] * (len(writes) - len(outcomes))
        return outcomes + unavailable

    async def _put_in_one(
        self,
        link: Link,
        deadline: float,
        writes: Sequence[Write],
        position: str,
        over: Over,
        held: str | bytes,
    ) -> list[Outcome | Exception]:
        keys = [write.key.text for write in writes]
        values = [part for write in writes for part in (write.text, write.ttl_ms, write.subject)]
        command: Command = (
            *("EVAL", scripts.STORE, len(keys) + 1, *keys, self.log),
            *(position, over.value, held, *values),
        )
        return [_outcome(one) for one in await _each(link, deadline, keys[0], command, len(keys))]

    async def _put_in_steps(
        self,
        link: Link,
        deadline: float,
        writes: Sequence[Write],
        position: str,
        over: Over,
        held: str | bytes,
    ) -> list[Outcome | Exception]:
        """Reserves the keys, reads the log, then lets the decisions take their places."""
        reservation = token_hex(12)
        keys = [write.key.text for write in writes]
        reserve: list[Command] = [
            ("EVAL", scripts.RESERVE, 1, key, reservation, over.value, held) for key in keys
        ]
        outcomes = [_outcome(reply) for reply in await _sent(link, deadline, keys, reserve)]
        reserved = [at for at, outcome in enumerate(outcomes) if outcome is Outcome.STORED]
        if not reserved:
            return outcomes
        subjects = [writes[at].subject for at in reserved]
        verify: Command = ("EVAL", scripts.VERIFY, 1, self.log, position, *subjects)
        verified = await _each(link, deadline, self.log, verify, len(reserved))
        commit: list[Command] = []
        for at, reply in zip(reserved, verified, strict=True):
            outcomes[at] = _outcome(reply)
            value = writes[at].text if outcomes[at] is Outcome.STORED else ""
            commit.append(
                ("EVAL", scripts.COMMIT, 1, keys[at], reservation, value, writes[at].ttl_ms)
            )
        committed = await _sent(link, deadline, [keys[at] for at in reserved], commit)
        for at, reply in zip(reserved, committed, strict=True):
            if outcomes[at] is Outcome.STORED:
                outcomes[at] = _outcome(reply)
        return outcomes

    async def remove(self, link: Link, key: RequestKey) -> bool:
        """Revokes one decision, stored or being evaluated; returns whether it was there.

        Raises:
            Exception: It could not be confirmed.
        """

        async def revoke(_: Servers) -> int:
            await self._record(link, {"keys": [logged(key.text)]})
            removed: int = await link.urgent(key.text, "EVAL", scripts.REMOVE, 1, key.text)
            return removed

        return bool(await confirmed(link, revoke))

    async def discard(self, link: Link, deadline: float, keys: Sequence[RequestKey]) -> None:
        """Drops what was superseded: what is stored, and what is being evaluated.

        Raises:
            UnavailableError: It could not be confirmed.
        """
        texts = [key.text for key in keys]
        for start in range(0, len(texts), CHUNK):
            part = texts[start : start + CHUNK]
            record = json.dumps({"keys": [logged(key) for key in part]})
            append = ("EVAL", scripts.APPEND, 1, self.log, token_hex(12), record)
            remove: list[Command] = [("EVAL", scripts.REMOVE, 1, key) for key in part]
            replies = await link.commands(deadline, part, remove)
            try:
                await link.command(deadline, self.log, *append)
            except UnavailableError as error:
                if "OOM" not in str(error):
                    raise
                await link.command(deadline, self.log, "UNLINK", self.log)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise UnavailableError(told(reply))

    async def invalidate(self, link: Link, scope: Scope, tags: Sequence[str]) -> int:
        """Revokes what is in a scope and has one of the tags, if any are named; how many were.

        Raises:
            Exception: It could not be confirmed.
        """
        record: Record = _fields(scope)
        if tags:
            record["tags"] = list(tags)
        return await self._revoke(
            link,
            record,
            scope.pattern(self.prefix),
            lambda keys: scope.filter(self.prefix, keys),
            tags,
        )

    async def invalidate_pattern(self, link: Link, pattern: str) -> int:
        """Revokes what matches a glob over the text of the key; how many there were.

        Raises:
            Exception: It could not be confirmed.
        """
        matching = matcher(self.prefix, pattern)
        return await self._revoke(
            link, {"pattern": pattern}, candidates(self.prefix, pattern), matching, ()
        )

    async def size(self, link: Link) -> int:
        """How many decisions there are; a server that resizes its table may count some twice.

        Raises:
            Exception: There is no answer.
        """
        everything = Scope()

        async def count(_: Primary, keys: list[str]) -> int:
            return len(everything.filter(self.prefix, keys))

        held: list[Primary] = []
        try:
            servers = await current_servers(link, held)
            return await walk(servers, everything.pattern(self.prefix), count)
        finally:
            for primary in held:
                await primary.release()

    async def _revoke(
        self,
        link: Link,
        record: Record,
        pattern: str,
        of_these: Callable[[list[str]], list[str]],
        tags: Sequence[str],
    ) -> int:
        async def remove(primary: Primary, keys: list[str]) -> int:
            return await _removed(primary, of_these(keys), tags)

        async def revoke(servers: Servers) -> int:
            # First what is being evaluated, which the walk cannot see.
            await self._record(link, record)
            return await walk(servers, pattern, remove)

        return await confirmed(link, revoke)

    async def _record(self, link: Link, record: Record) -> None:
        append = ("EVAL", scripts.APPEND, 1, self.log, token_hex(12), json.dumps(record))
        try:
            await link.urgent(self.log, *append)
        except UnavailableError as error:
            if "OOM" not in str(error):
                raise
            # Without a log no evaluation that is under way can be stored, which is enough.
            await link.urgent(self.log, "UNLINK", self.log)


def _fields(scope: Scope) -> dict[str, str]:
    """Returns the named parts of a scope, as the log has them."""
    return {name: logged(part) for name, part in scope._asdict().items() if part is not None}


def _looked_at(asked: asyncio.Task[Any]) -> None:
    """Keeps asyncio from telling of an error that everybody who asked is raised."""
    if not asked.cancelled():
        asked.exception()


async def _each(link: Link, deadline: float, key: str, command: Command, count: int) -> list[Any]:
    """The replies to one command about many things; where there is none, why."""
    try:
        replies: list[Any] = await link.command(deadline, key, *command)
    except UnavailableError as error:
        return [error] * count
    return replies


async def _sent(
    link: Link, deadline: float, keys: Sequence[str], commands: Sequence[Command]
) -> list[Any]:
    replies: list[Any] = []
    for start in range(0, len(commands), CHUNK):
        part = slice(start, start + CHUNK)
        replies += await link.commands(deadline, keys[part], commands[part])
    return replies


async def _removed(primary: Primary, keys: list[str], tags: Sequence[str]) -> int:
    async def remove(part: Sequence[str]) -> int:
        if not tags and primary.takes_many_keys:
            replies = await primary.run(("UNLINK", *part))
        elif not tags:
            replies = await primary.run(*(("UNLINK", key) for key in part))
        elif primary.takes_many_keys:
            replies = await primary.run(("EVAL", scripts.REMOVE_TAGGED, len(part), *part, *tags))
        else:
            one = scripts.REMOVE_TAGGED
            replies = await primary.run(*(("EVAL", one, 1, key, *tags) for key in part))
        return sum(replies)

    return await primary.in_parts(keys, remove)


def _found(
    key: RequestKey,
    value: str | bytes | Exception | None,
    left_ms: int,
    position: str | bytes | None,
) -> Found:
    at = None if position is None else text(position)
    if isinstance(value, Exception):
        return Found(fault=str(value) if isinstance(value, UnavailableError) else "no answer")
    if value is None or value.startswith(_RESERVATION[type(value)]):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        return Found(position=at)
    try:
        entry = decode(value, key)
    except CorruptEntryError as error:
        return Found(position=at, held=value, fault=str(error))
    if left_ms < 0:  # told never to expire, which no entry of ours is; 0: in its last millisecond
        return Found(position=at, held=value)
    return Found(entry, left_ms / 1e3, at, value)


def _outcome(reply: int | Exception) -> Outcome | Exception:
    return reply if isinstance(reply, Exception) else Outcome(reply)
