"""Background polling: calls one function at an interval while its owner exists.

A process uses it for facts that a request must not wait for: a rollout percentage, or whether a
server can be reached. A poller costs one sleeping thread. `ensure_started`, which requests call,
compares two integers (some 50 ns). The thread keeps neither its owner nor the interpreter alive. A
forked child inherits no threads, so it starts its own thread at its next call.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeAlias, TypeVar

from sark_cache._core.errors import with_text
from sark_cache._core.fault_log import FaultLog

Owner = TypeVar("Owner")

WakeQueue: TypeAlias = "SimpleQueue[threading.Event | None]"
"""Wakes the thread: an event asks for a poll and is set after it; None ends the thread.

It is a `SimpleQueue` because a finalizer may call its `put` in the middle of any other call.
"""

_forks = 0
"""The number of forks between this process and the first one that imported this module."""


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - a property of the process, not of a caller
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


def forks() -> int:
    """Returns the number of forks between this process and the first importer of this module."""
    return _forks


def lock_across_forks() -> threading.RLock:
    """Returns a reentrant lock that a forked child never inherits from another thread.

    A fork waits until the lock is free, so hold it only for moments. Acquire several such locks in
    the reverse order of their creation.
    """
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
        )
    return lock


_start_lock = lock_across_forks()


@dataclass(frozen=True, slots=True)
class _PollerThread:
    """The polling thread of one process."""

    thread: threading.Thread
    wake_queue: WakeQueue
    fork: int = field(default_factory=lambda: _forks)
    started: float = field(default_factory=time.monotonic)
    first_poll: threading.Event = field(default_factory=threading.Event)


class BackgroundPoller(Generic[Owner]):
    """Calls `poll(owner)` at an interval in a daemon thread, while the owner exists.

    Creating a poller starts no thread; `ensure_started` and `poll_now` do. The first
    `ensure_started` of a process waits for the first poll, at most `first_poll_seconds`. An
    exception of `poll` is logged once per burst, and polling continues.

    Args:
        owner: The argument of `poll`. The poller keeps no strong reference to it.
        poll: A function that takes the owner, such as a method accessed through its class. Calls
            never overlap.
        every: The pause between two polls, in seconds.
        name: The name for the thread and for the log.
        at_end: The last call of the thread, after the poller was closed or its owner deleted. It
            must hold no reference to the owner.
        first_poll_seconds: The longest wait of the first `ensure_started`, in seconds.
    """

    def __init__(
        self,
        owner: Owner,
        poll: Callable[[Owner], None],
        every: float,
        *,
        name: str,
        at_end: Callable[[], None] | None = None,
        first_poll_seconds: float = 0.25,
    ) -> None:
        self._owner: Final = weakref.ref(owner)
        self._poll: Final = poll
        self._every: Final = every
        self._name: Final = name
        self._at_end: Final = at_end
        self._first_poll_seconds: Final = first_poll_seconds
        self._faults: Final = FaultLog(name)
        self._thread: _PollerThread | None = None
        self._ensured_in = -1
        self._closed = False

    def ensure_started(self) -> None:
        """Starts polling in this process if it has not started, and waits for the first poll."""
        if self._ensured_in != _forks:
            self._ensure_started()

    def poll_now(self) -> threading.Event:
        """Asks for a poll now. The returned event is set after a poll that begins after this call.

        The event is never set if the poller is closed or has no thread: wait with a time-out.
        """
        ended = threading.Event()
        current = self._current_thread()
        if current is not None:
            current.wake_queue.put(ended)
        return ended

    def close(self, timeout: float = 1.0) -> None:
        """Ends polling for good. Waits for a running poll, at most `timeout` seconds."""
        with _start_lock:
            self._closed = True
            current = self._thread
        if current is None or current.fork != _forks:  # the thread of a parent process
            return
        current.wake_queue.put(None)
        if current.thread is not threading.current_thread():
            current.thread.join(timeout)

    def _ensure_started(self) -> None:
        current = self._current_thread()
        if current is not None:
            left = current.started + self._first_poll_seconds - time.monotonic()
            current.first_poll.wait(max(left, 0))
        if current is not None or self._closed:
            self._ensured_in = _forks

    def _current_thread(self) -> _PollerThread | None:
        """Returns this process's thread, started if necessary. None: closed, or it cannot start."""
        with _start_lock:
            if self._closed:
                return None
            if self._thread is None or self._thread.fork != _forks:
                self._thread = self._start_thread()
            return self._thread

    def _start_thread(self) -> _PollerThread | None:
        wake_queue: WakeQueue = SimpleQueue()
        thread = threading.Thread(
            target=_run,
            args=(self._owner, self._poll, self._at_end, self._every, wake_queue, self._faults),
            name=f"sark-cache {self._name} poller",
            daemon=True,
        )
        started = _PollerThread(thread, wake_queue)
        wake_queue.put(started.first_poll)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more threads, or the interpreter exits
            self._faults.report("starting the poller", str(error))
            return None
        owner = self._owner()
        if owner is not None:
            weakref.finalize(owner, wake_queue.put, None)  # runs at the interpreter's exit, too
        return started


def _run(
    owner_if_alive: "weakref.ref[Owner]",
    poll: Callable[[Owner], None],
    at_end: Callable[[], None] | None,
    every: float,
    wake_queue: WakeQueue,
    faults: FaultLog,
) -> None:
    while (waiting_events := _wait(wake_queue, every)) is not None:
        owner = owner_if_alive()
        if owner is None:
            break
        _call(partial(poll, owner), faults)
        del owner  # holds no reference to it until the next poll
        for ended in waiting_events:
            ended.set()
    if at_end is not None:
        _call(at_end, faults)


def _call(step: Callable[[], None], faults: FaultLog) -> None:
    try:
        step()
    except Exception as error:  # noqa: BLE001 - the owner's code may raise anything
        faults.report("polling", with_text(error))


def _wait(wake_queue: WakeQueue, seconds: float) -> list[threading.Event] | None:
    """Returns the events to set after the next poll. None: the thread has to end."""
    waiting_events: list[threading.Event] = []
    try:
        event = wake_queue.get(timeout=seconds)
        while event is not None:
            waiting_events.append(event)
            event = wake_queue.get_nowait()
    except Empty:
        return waiting_events
    return None
