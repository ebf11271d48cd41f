"""The steps by which a reader follows the log, over a connection that it is given.

A confirmation asks for the news since the reader's position. It applies the records to every cache
of the process but the one that made them, acknowledges them, and then extends the lease that these
caches share. In this order: a lookup that sees the lease also sees the records.

| step | order |
|---|---|
| confirm | the time `sent`, the request, the records, the acknowledgement, the lease from `sent` |
| adopt | the newest position, a flush of all caches, the registration |

Between two confirmations a reader *hears* of news over the connection of its bell. It applies and
acknowledges them at once.

A reader *adopts* the newest position of the log if it has none, if its own is not in the log any
more, or if the server lost the end of the log. Revocations may then be missing. It reads the
position first: a record between a flush and a later position would never be applied.

A writer waits for every reader that is registered, so a lease needs a registration (see
`confirmation`). Idle confirmations write nothing.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from logging import getLogger
from secrets import token_hex
from typing import Final, NamedTuple, Protocol

from sark_cache._core.compiled import Lease, PolicyStore
from sark_cache._core.errors import UnavailableError, describe
from sark_cache.backends.redis import replies
from sark_cache.backends.redis.connection import RedisCommand
from sark_cache.backends.redis.log import InvalidationLog
from sark_cache.backends.redis.lookup import boot_time
from sark_cache.backends.redis.settle import History, Settling, Standing
from sark_cache.backends.tiered.authority import (
    Believed,
    Replication,
    Verdict,
    judge,
    read_uptime,
)
from sark_cache.backends.tiered.confirmation import (
    PAGE,
    Confirmation,
    LoggedItem,
    Position,
    confirmation,
    executed,
    read_confirmation,
    read_items,
    registration,
)
from sark_cache.backends.tiered.failover import FAILOVER_SETTINGS, SILENCE_SECONDS
from sark_cache.backends.tiered.own_records import OwnRecords
from sark_cache.backends.tiered.records import BEGIN, FLUSH, Call, calls_of

logger: Final = getLogger("sark_cache")

LEASE_SHARE: Final = 0.9
"""The length of a lease, as a share of the span. Clocks of processes may differ by 10 %."""
MAX_TRIES: Final = 4
"""The maximum number of adoptions and registrations in one confirmation.

A reader without a position needs one of each.
"""
MAX_FORMER: Final = 64
"""The maximum number of former ids that a registration removes."""
NANOSECONDS: Final = 1e9


class Member(NamedTuple):
    """A cache that a reader keeps coherent."""

    cache: PolicyStore
    own_records: OwnRecords
    """The records that the cache made."""
    span: float
    """The `max_staleness` of the cache, in seconds."""


class Asking(Protocol):
    """A connection to the primary of the log."""

    def ask(self, *commands: RedisCommand) -> list[object]:
        """Sends commands and returns the replies. The server's error to a command is its reply.

        Raises:
            Exception: There is no reply.
        """
        ...

    def post(self, command: RedisCommand) -> None:
        """Sends a command whose reply nobody waits for.

        Raises:
            Exception: The connection was lost.
        """
        ...


class Identity:
    """The id under which a reader is registered, and the ids that it had before.

    Each connection has an id of its own. An acknowledgement that is still on its way over an older
    connection then acknowledges for no reader.
    """

    def __init__(self) -> None:
        self.id: str = ""
        self.former: list[str] = []
        """The ids whose registrations may still be there."""
        self.may_be_registered: bool = False
        """True if a registration of the id was sent."""

    def renew(self) -> None:
        """Takes another id. The next registration removes the older ones."""
        if self.may_be_registered:
            # A writer removes what is left out here, once it has waited for it.
            self.former = [*self.former, self.id][-MAX_FORMER:]
        self.id, self.may_be_registered = token_hex(16), False


class LogFollower:
    """Follows one log for the caches of this process. Only one thread may use it at a time.

    Args:
        log: The log.
        prefix: The beginning of all keys of the namespace.
        lease: The lease of the caches.
        settling: Gets the position of this process in the log, for its revocations.
        members: Returns the caches that exist now.
    """

    def __init__(
        self,
        log: InvalidationLog,
        prefix: str,
        lease: Lease,
        settling: Settling,
        members: Callable[[], Sequence[Member]],
    ) -> None:
        self.log: Final = log
        self.position: Position | None = None
        """The position up to which all records were applied. None: none was adopted yet."""
        self.sent: int = 0
        """The lease's time before the last confirmation was sent, in nanoseconds."""
        self.record_lag: float = 0.0
        """The age of the newest record when it was read, by both clocks, in seconds."""
        self.readers: int = 1
        """The number of readers at the last confirmation."""
        self._prefix: Final = prefix
        self._lease: Final = lease
        self._settling: Final = settling
        self._members: Final = members
        self._believed: Believed | None = None
        self._proven: Position | None = None
        """The position at the last confirmation by a server that was believed."""
        self._longest_span = math.inf
        """The longest span of leases that end before a failover, in seconds."""
        self._log_span: float | None = None
        """The span of the log in seconds, at the last confirmation."""
        self._standing = Standing()
        self._has_followed = False
        """True if a position was adopted before."""
        self._warned_of: float | None = None

    @property
    def span(self) -> float:
        """The span of leases, in seconds: the smallest of this process's caches and of the log.

        It is shorter if a failover may be faster.
        """
        spans = self._spans()
        if self._log_span is not None:
            spans.append(self._log_span)
        return min(min(spans, default=1.0), self._longest_span)

    def bound_span(self, longest: float) -> None:
        """Makes leases end before a failover. Warns once if that makes them shorter.

        Args:
            longest: The longest span, in seconds.
        """
        own = min(self._spans(), default=0.0)
        if longest < own and longest != self._longest_span:
            logger.warning(
                "tiered cache: another server may take over %g s after the primary fell silent, so "
                "max_staleness is %g s instead of %g s: raise %s",
                longest + SILENCE_SECONDS,
                longest,
                own,
                " or ".join(FAILOVER_SETTINGS.values()),
            )
        self._longest_span = longest

    def confirm(self, connection: Asking, identity: Identity) -> bool:
        """Confirms until there is no more news. Returns whether the lease was extended.

        Raises:
            UnavailableError: The server refuses a command, or is not the primary any more.
            Exception: There is no reply.
        """
        tries = 0
        while tries < MAX_TRIES and self._members():
            position = self.position or self._adopt(connection)
            self.sent = sent = self._lease.now()
            asked = confirmation(self.log, identity.id, position)
            reply = read_confirmation(connection.ask(*asked))
            verdict = self._judge(connection, reply.replication, sent / NANOSECONDS)
            if verdict is Verdict.LEAVE:
                message = "the server is not the primary any more"
                raise UnavailableError(message)
            is_found = reply.continues(position)
            if verdict is Verdict.FLUSH or (verdict is Verdict.GO_ON and not is_found):
                self._leave_position(verdict, reply.replication)
                tries += 1
                continue
            if not is_found:  # a server that may be about to be replaced proves nothing
                return False
            self._apply(reply.items[1:])
            self._note(reply, verdict, sent / NANOSECONDS)
            if len(reply.items) > 1:
                self._note_age(reply.items[-1])
                acknowledgement = self.acknowledgement(identity)
                if acknowledgement is not None:
                    connection.post(acknowledgement)
            if len(reply.items) >= PAGE:
                continue
            if not reply.registers(position):
                self._register(connection, identity)
                tries += 1
                continue
            if verdict is Verdict.HOLD:
                return False
            self._lease.extend(sent, LEASE_SHARE * self.span)
            return True
        return False

    def hear(self, news: Sequence[LoggedItem]) -> bool:
        """Applies news of the log, if no record before them is missing. They extend no lease.

        Each record has the position of the record before. So the news are complete if the first one
        follows the position of the reader, and each other one the one before it. Otherwise the next
        confirmation brings them. The nonce alone would prove nothing: a client may send a record
        twice.

        Args:
            news: Items of the log, from a server that the acknowledgement is sent to.

        Returns:
            Whether all of them were applied, and the position is that of the last one.
        """
        position = self.position
        if position is None:
            return False
        positions = [item.position for item in news]
        new = news[positions.index(position) + 1 :] if position in positions else news
        for item in new:
            if not position.nonce or item.previous != position.name:
                return False
            position = item.position
        if new:
            self._apply(new)
            self.position = position
            self._note_age(new[-1])
        return True

    def acknowledgement(self, identity: Identity) -> RedisCommand | None:
        """Returns the command that shows writers what all caches have applied. None: no position.

        A server that refuses it, because its memory is full, makes writers wait. That is safe.
        """
        if self.position is None:
            return None
        identity.may_be_registered = True
        return ("HSET", self.log.readers, identity.id, self.position.id)

    def deregister(self, connection: Asking, identity: Identity) -> None:
        """Removes the registration. The lease must have ended.

        Raises:
            Exception: There is no reply.
        """
        connection.ask(("HDEL", self.log.readers, identity.id, *identity.former))

    def _adopt(self, connection: Asking) -> Position:
        [reply] = connection.ask(("XREVRANGE", self.log.key, "+", "-", "COUNT", 1))
        items = replies.read(read_items, _no_error(reply))
        if not items:
            items = self._begin_log(connection)
        for member in self._members():
            _call_all(member.cache, FLUSH if self._has_followed else BEGIN)
        self._has_followed = True
        self.position = items[-1].position
        return self.position

    def _begin_log(self, connection: Asking) -> list[LoggedItem]:
        [reply] = connection.ask(self.log.append({"begun": True}, with_decisions=False))
        position = replies.read(replies.appended, _no_error(reply)).position
        if position is None:
            message = "the server has no memory for the log"
            raise UnavailableError(message)
        name, _, nonce = position.partition(".")
        return [LoggedItem(Position(name, nonce), None)]

    def _judge(self, connection: Asking, seen: Replication, now: float) -> Verdict:
        verdict = judge(self._believed, seen, now)
        if verdict is not Verdict.ASK_UPTIME:
            return verdict
        [information] = connection.ask(("INFO", "server"))
        return judge(self._believed, seen, now, replies.read(read_uptime, _no_error(information)))

    def _apply(self, items: Iterable[LoggedItem]) -> None:
        """Applies records to every cache but the one that made them."""
        # The caches that exist after the reply arrived. A later one has no entry that is older.
        members = self._members()
        for item in items:
            calls = calls_of(item.record, self._prefix)
            for member in members:
                if not member.own_records.take(item.position.nonce):
                    _call_all(member.cache, calls)

    def _leave_position(self, verdict: Verdict, seen: Replication) -> None:
        """Leaves a position that the log does not have. The next one is adopted, with a flush.

        There is one exception: if a promoted replica lacks what was heard after the proven
        position, the reader goes back to that.

        The old primary may have taken records until it noticed the promotion. They are lost,
        and none of them was confirmed, because the replica did not have them. So the records that
        the replica has after the proven position are all that may be missing here.
        """
        believed, proven = self._believed, self._proven
        is_promoted = believed is not None and seen.history != believed.history
        if verdict is Verdict.GO_ON and is_promoted and proven not in {None, self.position}:
            self.position = proven
            return
        self.position = self._proven = self._believed = None
        self._standing = Standing()

    def _note(self, reply: Confirmation, verdict: Verdict, now: float) -> None:
        """Notes the facts of a confirmation, after its records were applied."""
        self.position = reply.items[-1].position
        self.readers = max(1, reply.readers)
        self._compare_spans(reply.span_ms)
        self._stand(reply)
        if verdict is not Verdict.HOLD:
            self._proven = self.position
            before, seen = self._believed, reply.replication
            self._believed = Believed.first(seen, now) if before is None else before.then(seen, now)

    def _stand(self, reply: Confirmation) -> None:
        """Notes since when the log has continued, with the same history, from a known position.

        Revocations of this process then believe acknowledgements.
        """
        history = History(reply.replication.history, reply.generation or "")
        position = reply.items[-1].position
        if not history.is_known or not position.nonce:
            return
        before = self._standing
        since = before.since if before.history == history else boot_time()
        self._standing = Standing(position.name, since, history)
        self._settling.standing = self._standing

    def _compare_spans(self, span_ms: int | None) -> None:
        """Notes the span of the log. Warns once if that of this process is another one."""
        self._log_span = None if span_ms is None else span_ms / 1e3
        spans = self._spans()
        if self._log_span is None or not spans:
            return
        self._settling.knows_span(self._log_span)
        own, of_log = min(spans), self._log_span
        if round(own * 1e3) == round(of_log * 1e3) or self._warned_of == of_log:
            return
        self._warned_of = of_log
        logger.warning(
            "tiered cache: max_staleness is %g s here and %g s in the log, so %g s is used: "
            "give all processes the same max_staleness",
            own,
            of_log,
            min(own, of_log),
        )

    def _note_age(self, newest: LoggedItem) -> None:
        self.record_lag = max(0.0, time.time() - newest.position.seconds)

    def _register(self, connection: Asking, identity: Identity) -> None:
        spans = self._spans()
        if self.position is None or not spans:
            return
        span_ms = max(1, round(min(spans) * 1e3))
        former = tuple(identity.former)
        asked = registration(self.log, identity.id, former, self.position, span_ms)
        identity.may_be_registered = True
        executed(connection.ask(*asked))
        identity.former.clear()

    def _spans(self) -> list[float]:
        return [member.span for member in self._members()]


def _call_all(cache: PolicyStore, calls: Iterable[Call]) -> None:
    for name, arguments in calls:
        getattr(cache, name)(*arguments)


def _no_error(reply: object) -> object:
    """Raises a reply that is an error. Returns any other reply."""
    if isinstance(reply, Exception):
        raise UnavailableError(describe(reply)) from reply
    return reply
