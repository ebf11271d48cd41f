"""The reader of one log: one thread of this process that confirms its position again and again.

All caches of the process with the same servers and namespace share one reader, and one lease. The
thread starts when a cache is first used, and ends when the last cache is closed or collected. At
the exit of the interpreter it ends the lease and removes its registration.

A forked child has no thread, and its lease has ended. Its first use starts a thread with a
registration of its own, which goes on from the inherited position. So the entries of the cache are
kept.
"""

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from functools import partial
from typing import Final

from sark_cache._core.arguments import MIN_MAX_STALENESS
from sark_cache._core.blocking_clients import Connect
from sark_cache._core.compiled import Lease, PolicyStore
from sark_cache._core.errors import describe
from sark_cache._core.fault_log import FaultLog
from sark_cache._core.keys import prefix_of
from sark_cache._core.poller import lock_across_forks
from sark_cache.backends.redis.log import InvalidationLog
from sark_cache.backends.redis.permissions import refusal
from sark_cache.backends.redis.settle import Settling
from sark_cache.backends.tiered.connection import LogConnection
from sark_cache.backends.tiered.failover import UnsafeServerError
from sark_cache.backends.tiered.follower import LogFollower, Member
from sark_cache.backends.tiered.own_records import OwnRecords
from sark_cache.backends.tiered.thread import Asked, ReaderThread

EXIT_SECONDS: Final = 2.0
"""The longest wait, at the exit of the interpreter, for the threads of all readers."""


class Reader:
    """The reader of one log, for the caches of this process. Any thread may use it.

    Args:
        connect: Creates a client of the servers.
        namespace: The prefix of every key of the log.
        command_timeout: The maximum time of a command, in seconds.
        trusts_server: If True, no failover is taken to be faster than leases end.
    """

    def __init__(
        self, connect: Connect, namespace: str, command_timeout: float, *, trusts_server: bool
    ) -> None:
        log = InvalidationLog(namespace)
        self.lease: Final = Lease()
        self.settling: Final = Settling(log, MIN_MAX_STALENESS)
        """The readers of the log, for the revocations of the caches."""
        self.follower: Final = LogFollower(
            log, prefix_of(namespace), self.lease, self.settling, self.members
        )
        self.has_failed: bool = False
        """True if the last attempt to confirm failed."""
        self.refused: str | None = None
        """The reason why this process cannot follow the log. None: no reason is known.

        There is a reason if the server refuses a command, or if a failover may be too fast.
        """
        self._connect: Final = partial(
            LogConnection, connect, log.key, command_timeout, trusts_server=trusts_server
        )
        self._command_timeout: Final = command_timeout
        self._caches: dict[int, tuple[weakref.ref[PolicyStore], OwnRecords, float]] = {}
        self._thread: ReaderThread | None = None
        self._faults: Final = FaultLog("tiered")

    # For the caches

    def attach(self, cache: PolicyStore, own_records: OwnRecords, span: float) -> None:
        """Adds a cache, before it has any entry. Keeps no strong reference to it.

        Args:
            cache: The cache.
            own_records: The records that the cache makes.
            span: The `max_staleness` of the cache, in seconds.
        """
        number = id(cache)
        self.settling.knows_span(span)

        def collected(_: object) -> None:
            # A finalizer may run while this thread holds the lock, so it takes none.
            self._caches.pop(number, None)
            self._wake()

        with _lock:
            self._caches[number] = (weakref.ref(cache, collected), own_records, span)

    def detach(self, cache: PolicyStore) -> ReaderThread | None:
        """Removes a cache. Returns the thread, which ends, if it was the last one."""
        with _lock:
            self._caches.pop(id(cache), None)
            thread = None if self._caches else self._running()
        self._wake()
        return thread

    def ask(self) -> Asked | None:
        """Asks for a confirmation that is sent after this call. Starts the thread.

        All callers share it until it is sent. None: no thread can be started.
        """
        thread = self._running() or self._start()
        return None if thread is None else thread.ask()

    def members(self) -> list[Member]:
        """Returns the caches that exist now."""
        found = ((find(), own, span) for find, own, span in self._caches.copy().values())
        return [Member(cache, own, span) for cache, own, span in found if cache is not None]

    # For the thread

    def has_caches(self) -> bool:
        """Returns whether there is a cache to keep coherent."""
        return bool(self._caches)

    def retire(self, thread: ReaderThread, *, always: bool) -> bool:
        """Ends the lease if the thread has to end. Returns whether it has to.

        The next use of a cache starts another thread.

        Args:
            thread: The thread.
            always: If True, it ends even if there are caches.
        """
        with _lock:
            if self._caches and not always:
                return False
            if self._thread is thread:
                self.lease.end()
                self._thread = None
            return True

    def note(self, error: BaseException | None, *, confirmed: bool) -> None:
        """Notes the result of an attempt. Logs an error once per burst."""
        self.has_failed = not confirmed
        if error is None:
            self.refused = None
        elif refusal(error.__cause__) is not None or isinstance(error, UnsafeServerError):
            self.refused = describe(error)
        if error is not None:
            self._faults.report("confirming the log", describe(error))

    def stop(self) -> threading.Thread | None:
        """Makes the thread end soon. Returns it, if it runs in this process."""
        thread = self._running()
        if thread is None:
            return None
        thread.stop()
        return thread.thread

    def _running(self) -> ReaderThread | None:
        thread = self._thread
        return thread if thread is not None and thread.is_here else None

    def _wake(self) -> None:
        thread = self._running()
        if thread is not None:
            thread.wake()

    def _start(self) -> ReaderThread | None:
        with _lock:
            running = self._running()
            if running is not None:
                return running
            if _exiting.is_set() or not self._caches:
                return None
            thread = ReaderThread(self, self._connect, self._command_timeout)
            self.has_failed = False
            self._thread = thread
            try:
                thread.start()
            except RuntimeError as error:
                self._thread = None
                self._faults.report("starting the reader", str(error))
                return None
            return thread


# The readers of this process

_lock: Final = lock_across_forks()
_readers: Final[weakref.WeakValueDictionary[Hashable, Reader]] = weakref.WeakValueDictionary()
_exiting: Final = threading.Event()


def reader_of(key: Hashable, make: Callable[[], Reader]) -> Reader:
    """Returns the reader of some servers and a namespace, which is made at the first call."""
    with _lock:
        reader = _readers.get(key)
    if reader is not None:
        return reader
    made = make()
    with _lock:
        return _readers.setdefault(key, made)


def _end_all() -> None:
    """Ends the threads of all readers: each ends its lease and removes its registration."""
    _exiting.set()
    threads = [thread for reader in _readers.values() if (thread := reader.stop()) is not None]
    until = time.monotonic() + EXIT_SECONDS
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


atexit.register(_end_all)
