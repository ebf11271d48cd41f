"""The thread of a reader in one process: its connections, its pauses, and the requests that wait.

A cycle is a confirmation, then a wait for the bell, whose news are applied and acknowledged at
once. A confirmation is due 0.42 spans after the last one, soon after the bell rang if the news do
not follow the position, and at once if a request waits for it. So one lost cycle does not end the
lease, which lasts 0.9 spans.

After a failure the thread closes its connections and rests before it finds the primary again. All
processes lose a server at the same time, so each rests for a different time.
"""

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from random import SystemRandom
from typing import Final, Protocol

from sark_cache._core.compiled import Lease
from sark_cache._core.poller import forks, lock_across_forks
from sark_cache.backends.redis.connection import RedisCommand
from sark_cache.backends.tiered.bell import Bell
from sark_cache.backends.tiered.connection import LogConnection
from sark_cache.backends.tiered.failover import SilentSentinelsError
from sark_cache.backends.tiered.follower import NANOSECONDS, Identity, LogFollower
from sark_cache.backends.tiered.watch import Watch

CONFIRMATION_SHARE: Final = 0.42
"""The time between two confirmations, as a share of the span."""
BELL_SECONDS: Final = 5.0
"""The time after which a silent bell is armed again, in seconds. So a dead connection is noticed.

Arming it at each confirmation would double what an idle reader costs the server.
"""
BELL_SHARE: Final = 0.1
"""The longest pause while the bell rings, as a share of the span."""
BELL_SECONDS_PER_READER: Final = 200e-6
"""The pause between two news, for each reader. The server needs up to a third of it for them."""
MAX_HEARD: Final = 1_000
"""The number of news after which a confirmation is due: the log must still have its position."""
SPAN_CHECK_SECONDS: Final = 60.0
"""The time between two questions for the time until a failover, in seconds."""
FIRST_PAUSE_SECONDS: Final = 0.05
LAST_PAUSE_SECONDS: Final = 0.5
_jitter: Final = SystemRandom()
"""Not the shared generator, whose numbers a program may need in a known order."""


class Owner(Protocol):
    """The reader that a thread works for."""

    @property
    def lease(self) -> Lease:
        """The lease of the caches."""
        ...

    @property
    def follower(self) -> LogFollower:
        """The steps of a confirmation."""
        ...

    def has_caches(self) -> bool:
        """Returns whether there is a cache to keep coherent."""
        ...

    def retire(self, thread: "ReaderThread", *, always: bool) -> bool:
        """Ends the lease if the thread has to end. Returns whether it has to.

        Args:
            thread: The thread.
            always: If True, it ends even if there are caches.
        """
        ...

    def note(self, error: BaseException | None, *, confirmed: bool) -> None:
        """Notes the result of an attempt."""
        ...


class Asked(Future[bool]):
    """A confirmation that was asked for. Its result says whether the lease was extended."""

    def __init__(self) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()  # from now on no waiter can cancel it for the others
        self.asked_at: Final = time.monotonic()

    def settle(self, *, confirmed: bool) -> None:
        """Sets the result, unless it is set."""
        if not self.done():
            self.set_result(confirmed)


class ReaderThread:
    """The thread of a reader in one process.

    Args:
        owner: The reader.
        connect: Opens a connection to the primary of the log.
        command_timeout: The maximum time of a command, in seconds.
    """

    def __init__(
        self, owner: Owner, connect: Callable[[], LogConnection], command_timeout: float
    ) -> None:
        self.ended: Final[Future[None]] = Future()
        self.ended.set_running_or_notify_cancel()  # no waiter can cancel it for the others
        self.thread: Final = threading.Thread(
            target=self._run, name="sark-cache log reader", daemon=True
        )
        self._fork: Final = forks()
        self._owner: Final = owner
        self._connect: Final = connect
        self._command_timeout: Final = command_timeout
        self._follower: Final = owner.follower
        self._identity: Final = Identity()
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)  # noqa: FBT003 - it has no keyword
        self._sender.setblocking(False)  # noqa: FBT003 - it has no keyword
        self._asked: Asked | None = None
        self._stops = False
        self._arm_at = 0
        """The lease's time before which the bell is not armed again, in nanoseconds."""
        self._check_span_at = 0.0
        """The monotonic time of the next question for the time until a failover. 0: at once."""
        self._has_confirmed = False
        """True if a confirmation succeeded since the last failure."""

    # For other threads

    @property
    def is_here(self) -> bool:
        """True if the thread belongs to this process. A forked child inherits no thread."""
        return self._fork == forks()

    def start(self) -> None:
        """Starts the thread.

        Raises:
            RuntimeError: The system has no more threads, or the interpreter exits.
        """
        try:
            self.thread.start()
        except RuntimeError:
            self._close()
            raise

    def wake(self) -> None:
        """Wakes the thread if it waits."""
        with suppress(OSError):  # it is awake, because the buffer is full, or it has ended
            self._sender.send(b"w")

    def stop(self) -> None:
        """Makes the thread end soon."""
        self._stops = True
        self.wake()

    def ask(self) -> Asked:
        """Returns the result of a confirmation that is sent after this call."""
        with _lock:
            asked = self._asked
            if asked is None:
                asked = Asked()
                if self.ended.done():
                    asked.settle(confirmed=False)
                    return asked
                self._asked = asked
        self.wake()
        return asked

    # The thread

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        try:
            while self._goes_on():
                try:
                    self._follow()
                except Exception as error:  # noqa: BLE001 - a thread that ends confirms nothing
                    self._owner.note(error, confirmed=False)
                    self._settle_asked()
                    pause = FIRST_PAUSE_SECONDS if self._has_confirmed else pause
                    self._has_confirmed = False
                    self._rest(pause * _jitter.uniform(0.5, 1.5))
                    pause = min(2 * pause, LAST_PAUSE_SECONDS)
        finally:
            self._owner.retire(self, always=True)
            self._settle_asked()
            self._close()
            with _lock:
                self.ended.set_result(None)
            self._settle_asked()

    def _goes_on(self) -> bool:
        return not self._owner.retire(self, always=self._stops)

    def _rest(self, seconds: float) -> None:
        """Waits before the next attempt. A request for a confirmation ends the wait."""
        with Watch(self._receiver) as watch:
            if self._asked is None:
                watch.wait(seconds)

    def _follow(self) -> None:
        """Confirms until the thread has to end.

        Raises:
            Exception: A connection failed.
        """
        with ExitStack() as closing:
            confirmer = self._open(closing)
            self._identity.renew()
            self._check_span_at = 0.0
            bell: Bell | None = None
            try:
                while self._goes_on():
                    self._bound_span(confirmer)
                    if bell is not None:  # the registration is then that of the position
                        bell.wait_for_acknowledgements()
                    confirmed = self._confirm(confirmer)
                    if bell is None:  # not before the first request is answered
                        bell = Bell(
                            self._open(closing), self._follower.log.key, self._command_timeout
                        )
                    self._wait(bell, confirmed=confirmed)
            finally:
                # A lease must have ended before its registration is removed.
                if self._owner.retire(self, always=self._stops):
                    with suppress(Exception):  # an acknowledgement may then register it again
                        if bell is not None:
                            bell.wait_for_acknowledgements()
                    with suppress(Exception):  # then a writer waits a span once, and removes it
                        self._follower.deregister(confirmer, self._identity)

    def _open(self, closing: ExitStack) -> LogConnection:
        connection = self._connect()
        closing.callback(connection.close)
        return connection

    def _bound_span(self, connection: LogConnection) -> None:
        """Makes leases end before a failover. Asks for its time again every minute.

        Raises:
            UnsafeServerError: A failover may be too fast, or its time cannot be read.
            Exception: The connection failed, or it is new and no sentinel answers.
        """
        if time.monotonic() < self._check_span_at:
            return
        try:
            self._follower.bound_span(connection.longest_span())
        except SilentSentinelsError:
            if not self._check_span_at:
                raise
            # Their last answer still holds.
        self._check_span_at = time.monotonic() + SPAN_CHECK_SECONDS

    def _confirm(self, connection: LogConnection) -> bool:
        with _lock:
            asked, self._asked = self._asked, None
        confirmed = False
        try:
            confirmed = self._follower.confirm(connection, self._identity)
            self._has_confirmed |= confirmed
            self._owner.note(None, confirmed=confirmed)
        finally:
            if asked is not None:
                asked.settle(confirmed=confirmed)
        return confirmed

    def _wait(self, bell: Bell, *, confirmed: bool) -> None:
        """Hears of news until the next confirmation is due.

        Args:
            bell: The bell.
            confirmed: True if the last confirmation succeeded. Otherwise the bell is not armed: it
                could ring at once, again and again.

        Raises:
            UnavailableError: The bell is silent for too long.
            Exception: The connection of the bell was lost.
        """
        follower, lease = self._follower, self._owner.lease
        span, sent = follower.span, follower.sent
        due = sent + int(CONFIRMATION_SHARE * span * NANOSECONDS)
        gap = int(min(follower.readers * BELL_SECONDS_PER_READER, BELL_SHARE * span) * NANOSECONDS)
        rings, heard = confirmed, 0
        with Watch(self._receiver, bell) as watch:
            while not self._stops and self._asked is None and self._owner.has_caches():
                news = bell.news() if watch.may_have_rung and bell.is_armed else []
                acknowledgement = None
                if news:
                    heard += len(news)
                    rings = follower.hear(news)
                    if rings:
                        acknowledgement = follower.acknowledgement(self._identity)
                    if not rings or heard >= MAX_HEARD:
                        due = min(due, sent + gap)
                now = lease.now()
                can_arm = rings and not bell.is_armed and not bell.is_refused
                if can_arm and now >= self._arm_at:
                    self._arm(bell, acknowledgement)
                    self._arm_at, can_arm = now + gap, False
                elif acknowledgement is not None:
                    bell.acknowledge(acknowledgement)
                if now >= due:
                    return
                until = min(due, self._arm_at) if can_arm else due
                watch.wait((until - now) / NANOSECONDS)

    def _arm(self, bell: Bell, acknowledgement: RedisCommand | None) -> None:
        position = self._follower.position
        if position is not None:
            bell.arm(position, max(BELL_SECONDS, self._follower.span), acknowledgement)

    def _settle_asked(self) -> None:
        with _lock:
            asked, self._asked = self._asked, None
        if asked is not None:
            asked.settle(confirmed=False)

    def _close(self) -> None:
        self._receiver.close()
        self._sender.close()


_lock: Final = lock_across_forks()
