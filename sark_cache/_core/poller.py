"""A watch: one function called every so often in the background, as long as its owner lives.

For what a process wants to know without asking on its request path: a rollout percentage, whether
a server can be reached. Looking costs a thread that sleeps; `ensure`, which the request path calls,
compares two integers (some 50 ns). The thread keeps neither its owner nor the interpreter alive,
and a forked child, which inherits no threads, begins one of its own where it next asks.
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

from sark_cache._core.fault_log import FaultLog

Owner = TypeVar("Owner")

Bell: TypeAlias = "SimpleQueue[threading.Event | None]"
"""Rings for a look now, and to set the event when it has ended; None ends the watch.

A `SimpleQueue` because its `put` may be called from a finalizer, whatever that interrupts.
"""

_forks = 0
"""How many forks lie between this process and the first one that imported this module."""


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - what the process is, not what a caller made of it
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


def forks() -> int:
    """Returns how many forks lie between this process and the first one that imported this."""
    return _forks


def lock_across_forks() -> threading.Lock:
    """A lock that a forked child never inherits taken by a thread that is gone.

    A fork waits until it is free: hold it for moments, and take several in the order in which they
    were made, the last one first.
    """
    lock = threading.Lock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
        )
    return lock


_beginning = lock_across_forks()


@dataclass(frozen=True, slots=True)
class _Round:
    """The looks of one process, and the thread that takes them."""

    thread: threading.Thread
    bell: Bell
    fork: int = field(default_factory=lambda: _forks)
    begun: float = field(default_factory=time.monotonic)
    first_look: threading.Event = field(default_factory=threading.Event)


class Watch(Generic[Owner]):
    """Calls `look(owner)` every so often in a daemon thread, as long as the owner lives.

    Nothing begins before `ensure` or `wake` is called. The first `ensure` of a process waits for
    the first look, at most `first_look_seconds`. What a look raises is logged once per burst, and
    the watch goes on.

    Args:
        owner: Whom to look for. It is not kept alive.
        look: What to call, one call at a time: a function that takes the owner, as a method does
            that is named by its class.
        every: The pause between two looks, in seconds.
        name: What is watched, for the thread's name and the log.
        at_end: What the thread calls last, when the watch is closed or its owner gone: it must
            not keep the owner alive.
        first_look_seconds: How long the first `ensure` waits at most, in seconds.
    """

    def __init__(
        self,
        owner: Owner,
        look: Callable[[Owner], None],
        every: float,
        *,
        name: str,
        at_end: Callable[[], None] | None = None,
        first_look_seconds: float = 0.25,
    ) -> None:
        self._owner: Final = weakref.ref(owner)
        self._look: Final = look
        self._every: Final = every
        self._name: Final = name
        self._at_end: Final = at_end
        self._first_look_seconds: Final = first_look_seconds
        self._faults: Final = FaultLog(name)
        self._round: _Round | None = None
        self._ensured_in = -1
        self._closed = False

    def ensure(self) -> None:
        """Begins the watch of this process, if it has none; once, waits for the first look."""
        if self._ensured_in != _forks:
            self._ensure()

    def wake(self) -> threading.Event:
        """Asks for a look now; the event is set when a look has ended that began after this.

        It is never set where no look can be taken: wait for it with a time-out.
        """
        ended = threading.Event()
        current = self._current_round()
        if current is not None:
            current.bell.put(ended)
        return ended

    def close(self, timeout: float = 1.0) -> None:
        """Ends the watch for good: waits for a look under way, at most `timeout` seconds."""
        with _beginning:
            self._closed = True
            current = self._round
        if current is None or current.fork != _forks:  # the parent's thread is the parent's
            return
        current.bell.put(None)
        if current.thread is not threading.current_thread():
            current.thread.join(timeout)

    def _ensure(self) -> None:
        current = self._current_round()
        if current is not None:
            left = current.begun + self._first_look_seconds - time.monotonic()
            current.first_look.wait(max(left, 0))
        if current is not None or self._closed:
            self._ensured_in = _forks

    def _current_round(self) -> _Round | None:
        """The looks of this process, begun if need be; None: closed, or no thread to be had."""
        with _beginning:
            if self._closed:
                return None
            if self._round is None or self._round.fork != _forks:
                self._round = self._begin()
            return self._round

    def _begin(self) -> _Round | None:
        bell: Bell = SimpleQueue()
        thread = threading.Thread(
            target=_run,
            args=(self._owner, self._look, self._at_end, self._every, bell, self._faults),
            name=f"sark-cache {self._name} watch",
            daemon=True,
        )
        begun = _Round(thread, bell)
        bell.put(begun.first_look)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter is about to exit
            self._faults.report("starting the watch", str(error))
            return None
        owner = self._owner()
        if owner is not None:
            weakref.finalize(owner, bell.put, None)  # collected, or the interpreter exits
        return begun


def _run(
    owner_if_alive: "weakref.ref[Owner]",
    look: Callable[[Owner], None],
    at_end: Callable[[], None] | None,
    every: float,
    bell: Bell,
    faults: FaultLog,
) -> None:
    while (rung := _wait(bell, every)) is not None:
        owner = owner_if_alive()
        if owner is None:
            break
        _call(partial(look, owner), faults)
        del owner  # not to keep it alive until the next look
        for ended in rung:
            ended.set()
    if at_end is not None:
        _call(at_end, faults)


def _call(step: Callable[[], None], faults: FaultLog) -> None:
    try:
        step()
    except Exception as error:  # noqa: BLE001 - whatever the owner's code raises
        faults.report("looking", f"{type(error).__qualname__}: {error}")


def _wait(bell: Bell, seconds: float) -> list[threading.Event] | None:
    """Those that rang, once one did or the time is up; None: it is over."""
    rung: list[threading.Event] = []
    try:
        ring = bell.get(timeout=seconds)
        while ring is not None:
            rung.append(ring)
            ring = bell.get_nowait()
    except Empty:
        return rung
    return None
