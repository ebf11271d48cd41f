"""The wait after a revocation until no process serves the revoked decisions any more.

A process with a tiered cache serves decisions from its own memory under a lease, and applies the
records of the log there. It is a *reader* of the log (see `log`).

A revocation is settled when every reader has applied its record, or at the latest 1.1 spans after
the server answered the append. The clocks of two processes may differ in speed by 10 %. So after
1.1 spans every lease from before the record was applied has ended.

Acknowledgements prove nothing if registrations were lost, by a failover or a deleted key. So a
writer believes them only if it has *stood* for a span: the log still has the position that it knew
a span ago, with the same replication and generation. Otherwise it waits for the whole span. A
writer stands from the moment when it connects. If its process has a reader, it stands from the
reader's first confirmation. So a process that has just started waits, and later revocations do not.
If a writer has not stood for a span, an empty list of readers proves nothing either.

A reader that stopped cannot acknowledge. A writer marks it. A reader gets no lease while it has a
mark, and removes the mark when it registers again. If a mark has stood for 1.1 spans, the reader
has no lease, and is removed.

One script reads all of this in one step. It takes about 30 µs of the server, and 1 µs more for each
reader. The first reply comes with the confirmation of the revocation, so a log without readers
costs no round trip.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from secrets import token_hex
from typing import Final, NamedTuple, TypeAlias

from sark_cache._core.errors import UnavailableError
from sark_cache.backends.redis import replies, scripts
from sark_cache.backends.redis.connection import GuardedConnection, RedisCommand
from sark_cache.backends.redis.invalidation import primary_of_log
from sark_cache.backends.redis.log import InvalidationLog, nonce
from sark_cache.backends.redis.lookup import boot_time
from sark_cache.backends.redis.primary import RefusedError
from sark_cache.backends.redis.replies import Fleet

DRIFT = 1.1
"""The spans that a writer waits. Clocks may differ in speed by 10 %."""
MARGIN_SECONDS = 0.001
FIRST_PAUSE_SECONDS = 0.001
LAST_PAUSE_SECONDS = 0.02
PAUSE_GROWTH = 1.5
"""The pauses between two questions are 1, 1.5, 2.25 … 20 ms."""
SILENCE_SHARE = 0.25
"""The time after which readers that have not acknowledged are marked, as a share of the span.

A mark costs a reader that is only slow a registration.
"""
MAX_MARKS = 16
"""The maximum number of marks in a reply."""
CLOSE_SECONDS = 0.1
"""The maximum time, in seconds, that `close` waits for the removal of silent readers."""

Connect: TypeAlias = Callable[[], GuardedConnection]
"""Returns the connection of the running event loop."""

Progress: TypeAlias = Callable[[int, int], None]
"""Takes the number of readers that have applied the record, and the number of all."""

progress: Final[ContextVar[Progress | None]] = ContextVar("progress", default=None)
"""Called in the context of a caller that waits, when the numbers have changed."""


class LostError(Exception):
    """The record of a confirmed revocation was lost: another server took over without it."""


class History(NamedTuple):
    """The part of a reply that is another one if registrations may have been lost."""

    replication: str
    generation: str

    @property
    def is_known(self) -> bool:
        """True if the server reported both."""
        return bool(self.replication and self.generation)


class Standing(NamedTuple):
    """The last position that this process knew, and since when it held. Replaced as a whole."""

    position: str | None = None
    since: float = 0.0
    """The `boot_time()` since which the log and its history are unchanged."""
    history: History | None = None
    """None: this process has not asked for it."""


class Question(NamedTuple):
    """A question about the readers of the log."""

    command: RedisCommand
    standing: Standing
    asked_at: float


class Appended(NamedTuple):
    """The record of a confirmed revocation, and what was known of the readers then."""

    position: str | None
    """None: there was no memory for a record, and the log was removed."""
    answered_at: float
    """The `boot_time()` of the answer to the append."""
    fleet: Fleet | None = None
    """None: the reply cannot be read, or the server refused the command."""
    has_stood: bool = False


class Settling:
    """The readers of one log, from the side of a process that revokes.

    Args:
        log: The log.
        span: The span of this process, in seconds.
    """

    def __init__(self, log: InvalidationLog, span: float) -> None:
        self._log: Final = log
        self._longest = span
        """The longest span that this process knows: its own, or one that the log had."""
        self.standing: Standing = Standing()
        """Also set by the reader of this process, which follows the log all the time."""
        self._marks: dict[str, tuple[float, asyncio.Task[None] | None]] = {}
        """The marks that stand: when each was first seen, and the task that removes its readers."""

    def knows_span(self, seconds: float) -> None:
        """Remembers a span that leases may have."""
        self._longest = max(self._longest, seconds)

    def question(self, record: str = "", mark: str = "") -> Question:
        """Returns a question about a record.

        Args:
            record: The position of the record. Empty: that of the newest one.
            mark: The mark for readers that have not applied the record. Empty: none is set.
        """
        standing = self.standing
        log = self._log
        keys = (*log.keys, log.readers, log.suspects, log.span)
        parts = (record, standing.position or "", mark, MAX_MARKS, nonce(), token_hex(16))
        return Question(("EVAL", scripts.SETTLE, 5, *keys, *parts), standing, boot_time())

    def appended(self, appended: Appended, question: Question | None, reply: object) -> Appended:
        """Adds the reply to the first question, which confirms a revocation."""
        fleet = None if question is None else self.begin(question, reply)
        if question is None or fleet is None:
            return appended
        return appended._replace(fleet=fleet, has_stood=self.has_stood(question, fleet))

    def begin(self, question: Question, reply: object) -> Fleet | None:
        """Remembers the reply to a question. None: it is an error, or cannot be read."""
        try:
            fleet = None if isinstance(reply, Exception) else replies.read(replies.fleet, reply)
        except UnavailableError:
            return None
        if fleet is not None:
            self.observe(question, fleet)
        return fleet

    def observe(self, question: Question, fleet: Fleet) -> None:
        """Remembers a reply.

        Replies may be remembered in any order. An older one contradicts the next one.
        """
        history = History(fleet.replication, fleet.generation)
        if not history.is_known or fleet.record is None:
            return
        since = question.standing.since if _continues(question, fleet) else boot_time()
        self.standing = Standing(fleet.record, since, history)

    def has_stood(self, question: Question, fleet: Fleet) -> bool:
        """Returns whether this process had stood for a whole span when it asked."""
        since = question.standing.since
        return _continues(question, fleet) and question.asked_at >= since + whole(
            self.longer(fleet)
        )

    def longer(self, fleet: Fleet | None) -> float:
        """Returns the longest span that any lease may have, in seconds."""
        if fleet is not None and fleet.span_ms is not None:
            self.knows_span(fleet.span_ms / 1e3)
        return self._longest

    async def wait(self, connect: Connect, appended: Appended) -> None:
        """Waits until no process serves what a confirmed revocation revoked.

        Takes at most 1.1 spans from the answer to the append, even if the server stops answering.

        Args:
            connect: Returns the connection of the running event loop.
            appended: The record of the revocation.

        Raises:
            LostError: Another server took over, and does not have the record.
        """
        wait = _Wait(self, connect, appended)
        pause = FIRST_PAUSE_SECONDS
        while (left := wait.left()) > 0:
            await asyncio.sleep(min(pause, left) if wait.can_ask else left)
            pause = min(PAUSE_GROWTH * pause, LAST_PAUSE_SECONDS)
            if wait.can_ask:
                await wait.ask()

    def remember_marks(self, fleet: Fleet, connect: Connect) -> None:
        """Starts the removal of readers with marks, unless it runs."""
        if not fleet.marks:
            return
        now = boot_time()
        span = self.longer(fleet)
        for mark, (seen_at, _) in tuple(self._marks.items()):
            if now > seen_at + 10 * whole(span):  # it was removed, by another process maybe
                self._marks.pop(mark, None)
        for mark in fleet.marks:
            seen_at, task = self._marks.get(mark, (now, None))
            if task is None or task.done() or not task.get_loop().is_running():
                task = asyncio.create_task(
                    self._forget(connect, mark, seen_at + whole(span)), name="sark-cache silent"
                )
                self._marks[mark] = (seen_at, task)

    async def _forget(self, connect: Connect, mark: str, due: float) -> None:
        """Removes the readers with a mark that has stood for 1.1 spans."""
        await asyncio.sleep(max(0.0, due - boot_time()))
        with suppress(Exception):  # the mark stands, and the next revocation sees it again
            await primary_of_log(connect()).run(
                ("EVAL", scripts.FORGET, 2, self._log.readers, self._log.suspects, mark)
            )
            self._marks.pop(mark, None)

    async def close(self) -> None:
        """Waits at most 0.1 s for the removal of silent readers, then cancels it."""
        loop = asyncio.get_running_loop()
        tasks = [task for _, task in tuple(self._marks.values()) if task is not None]
        tasks = [task for task in tasks if task.get_loop() is loop and not task.done()]
        if not tasks:
            return
        try:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        finally:
            for task in tasks:
                task.cancel()


class _Wait:
    """One caller's wait until a revocation is settled.

    Args:
        settling: The readers of the log.
        connect: Returns the connection of the running event loop.
        appended: The record of the revocation.
    """

    def __init__(self, settling: Settling, connect: Connect, appended: Appended) -> None:
        self._settling: Final = settling
        self._connect: Final = connect
        self._appended: Final = appended
        self._first: Final = appended.fleet
        self.can_ask = appended.fleet is not None and appended.position is not None
        """False if the server refuses the command, or there is no record to ask about."""
        self._is_settled = False
        self._reported: tuple[int, int] | None = None
        fleet = appended.fleet
        self._span = settling.longer(fleet)
        self._marks_at = appended.answered_at + SILENCE_SHARE * self._span
        if fleet is not None:
            self._read(fleet, has_stood=appended.has_stood)

    def left(self) -> float:
        """Returns the time, in seconds, that the wait may still take. 0: it is over."""
        if self._is_settled:
            return 0
        return max(0.0, self._appended.answered_at + whole(self._span) - boot_time())

    async def ask(self) -> None:
        """Asks which readers have applied the record. Marks the silent ones once.

        Raises:
            LostError: Another server took over, and does not have the record.
        """
        marks = boot_time() >= self._marks_at
        question = self._settling.question(self._appended.position or "", nonce() if marks else "")
        fleet, self.can_ask = await _ask(self._connect, question, self.left())
        first = self._first
        if fleet is None or first is None or bool(first.replication) > bool(fleet.replication):
            return  # no answer, or it is no primary any more
        if fleet.replication != first.replication and fleet.record is None:
            raise LostError
        if marks:
            self._marks_at = float("inf")
        self._settling.observe(question, fleet)
        self._read(fleet, has_stood=self._settling.has_stood(question, fleet))

    def _read(self, fleet: Fleet, *, has_stood: bool) -> None:
        self._is_settled = has_stood and fleet.record is not None and not fleet.behind
        self._span = max(self._span, self._settling.longer(fleet))
        self._settling.remember_marks(fleet, self._connect)
        numbers = (fleet.readers - fleet.behind, fleet.readers)
        report = progress.get()
        if report is not None and fleet.readers and numbers != self._reported:
            report(*numbers)
        self._reported = numbers


def _continues(question: Question, fleet: Fleet) -> bool:
    """Returns whether a reply shows the log and the history that this process knew."""
    history = History(fleet.replication, fleet.generation)
    return fleet.has_known and history.is_known and question.standing.history == history


def whole(span: float) -> float:
    """Returns the time, in seconds, after which each lease that was valid before it has ended."""
    return DRIFT * span + MARGIN_SECONDS


async def _ask(connect: Connect, question: Question, seconds: float) -> tuple[Fleet | None, bool]:
    """Asks the primary of the log.

    Returns:
        The reply, and whether to ask again. None: there was no reply in time.
    """
    try:
        connection = connect()
        waits = min(0.0, seconds - connection.command_timeout)
        [reply] = await primary_of_log(connection).run(question.command, waits=waits)
        return replies.read(replies.fleet, reply), True
    except RefusedError:
        return None, False
    except Exception:  # noqa: BLE001 - after any error the clock decides
        return None, True
