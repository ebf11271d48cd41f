"""Revocations that were called: carried out whether or not they are awaited.

Called in an event loop, a revocation is a task of it. Called in a thread without one, it runs in an
event loop in the background of the process. Nothing that happens to the caller ends it: a caller
that is cancelled waits no longer, and an event loop that ends waits for it.

One that fails raises where it is awaited. Where nobody awaits it, it is reported.
"""

import asyncio
import atexit
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_threads
from typing import Any, Final, Generic, TypeAlias, TypeVar

from sark_cache._core.coroutines import Deferred
from sark_cache._core.poller import lock_across_forks
from sark_cache.backends._shared.background_refresh import running_loop
from sark_cache.errors import InvalidationError

T = TypeVar("T")

MOST_CANCELLATIONS: Final = 3
"""How often a revocation begins again whose event loop cancels all of its tasks."""

LOOK_SECONDS: Final = 0.5
"""How often one that is awaited looks whether the event loop that carries it out still runs."""

EXIT_SECONDS: Final = 2.0
"""How long the interpreter waits at its exit for the revocations that are under way."""

Report: TypeAlias = Callable[[str, BaseException], None]
"""Takes the operation that could not be confirmed, and why."""

Elsewhere: TypeAlias = Callable[[], asyncio.AbstractEventLoop | None]

_under_way: Final[set["_Revocation[Any]"]] = set()
"""Held here, since an event loop holds no strong reference to its tasks."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_under_way.clear)  # the parent carries them out


class Revocations:
    """The revocations of one cache.

    Args:
        report: Takes a revocation that could not be confirmed, and that nobody awaits.
        elsewhere: Returns the event loop for a call from a thread that has none; None: there is
            none either, and the revocation has to be awaited.
    """

    def __init__(self, report: Report, elsewhere: Elsewhere) -> None:
        self._report: Final = report
        self._elsewhere: Final = elsewhere

    def begin(
        self, operation: str, carry_out: Callable[[], Coroutine[Any, Any, T]]
    ) -> Coroutine[Any, Any, T]:
        """Begins to carry out a revocation; returns what may be awaited to know how it ended.

        Args:
            operation: What it is called, for the log.
            carry_out: Does it; may be called again when it was cancelled.
        """
        revocation = _Revocation(operation, carry_out, self._report, self._elsewhere)
        revocation.begin()
        return Deferred(lambda: _answer_of(revocation))

    async def settled(self, seconds: float) -> None:
        """Returns when those under way have ended, or when the time is over."""
        await _ended([one for one in _under_way.copy() if one.report is self._report], seconds)


class _Revocation(Generic[T]):
    """One revocation, what became of it, and whether anybody was told."""

    def __init__(
        self,
        operation: str,
        carry_out: Callable[[], Coroutine[Any, Any, T]],
        report: Report,
        elsewhere: Elsewhere,
    ) -> None:
        self.operation: Final = operation
        self.carry_out: Final = carry_out
        self.report: Final = report
        self.answer: Final[Future[T]] = Future()
        self.answer.set_running_or_notify_cancel()  # from now on it cannot be cancelled
        self.told = False
        self._elsewhere: Final = elsewhere
        self._where: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begins it in the event loop of this thread, or else where the cache says."""
        here = running_loop()
        if here is not None:
            self._begin_in(here)
            return
        where = self._elsewhere()
        if where is not None:
            self._where = where
            _under_way.add(self)
            where.call_soon_threadsafe(self._begin_in, where)

    @property
    def is_stranded(self) -> bool:
        """Whether nothing carries it out: it was not begun, or its event loop ended."""
        return not self.answer.done() and (self._where is None or not self._where.is_running())

    def end(self, answer: T) -> None:
        """Notes that it is confirmed."""
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: BaseException) -> None:
        """Notes that it could not be confirmed."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def give_up(self) -> bool:
        """Ends it unconfirmed, unless it has ended: the interpreter exits."""
        if self.answer.done():
            return False
        self.fail(InvalidationError("the interpreter exits"))
        if self._task is not None and self._where is not None and self._where.is_running():
            self._where.call_soon_threadsafe(self._task.cancel)
        return True

    def _begin_in(self, event_loop: asyncio.AbstractEventLoop) -> None:
        self._where = event_loop
        _under_way.add(self)
        name = f"sark-cache {self.operation}"
        self._task = event_loop.create_task(_carried_out(self), name=name)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Begins it elsewhere if its event loop cancelled the task before that ran at all."""
        del task
        self._task = None
        if self.answer.done():
            return
        where = self._elsewhere()
        if where is None or where is self._where:
            _under_way.discard(self)
            self.fail(InvalidationError("its event loop ended"))
        else:
            self._where = where
            where.call_soon_threadsafe(self._begin_in, where)

    def __del__(self) -> None:
        if self.told or sys.is_finalizing():
            return
        if self.answer.done():
            error = self.answer.exception()
        else:
            error = InvalidationError("no event loop carried it out")
        if error is not None:
            self.report(self.operation, error)


async def _ended(revocations: Sequence[_Revocation[Any]], seconds: float) -> None:
    """Returns when all of them have ended, or when the time is over. Tells nobody how."""
    answers = [asyncio.wrap_future(one.answer) for one in revocations]
    if not answers:
        return
    try:
        await asyncio.wait(answers, timeout=seconds)
    finally:
        for answer in answers:
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # or asyncio says that nobody asked for it


async def _answer_of(revocation: _Revocation[T]) -> T:
    """Returns what a revocation returns, and raises what it raises.

    Begins it here should the event loop that carries it out stop.
    """
    ended = asyncio.wrap_future(revocation.answer)
    try:
        while not ended.done():
            if revocation.is_stranded:
                revocation.begin()
            await asyncio.wait([ended], timeout=LOOK_SECONDS)
        answer = ended.result()
        revocation.told = True
    except asyncio.CancelledError:  # the caller's: nobody was told
        raise
    except BaseException:
        revocation.told = True
        raise
    else:
        return answer
    finally:
        ended.cancel()
        del revocation  # or the traceback of its error would hold it


async def _carried_out(revocation: _Revocation[Any]) -> None:
    """Carries a revocation out; an event loop that ends cancels its tasks, and waits for them."""
    try:
        for _ in range(MOST_CANCELLATIONS):
            try:
                revocation.end(await revocation.carry_out())
            except asyncio.CancelledError:
                _uncancel()
                if revocation.answer.done():  # given up
                    return
            else:
                return
        message = f"{revocation.operation} was cancelled {MOST_CANCELLATIONS} times"
        revocation.fail(InvalidationError(message))
    except Exception as error:  # noqa: BLE001 - whatever it raises is raised where it is awaited
        revocation.fail(error)
    except BaseException as error:
        revocation.fail(error)
        raise
    finally:
        _under_way.discard(revocation)
        del revocation  # the last one to hold it, should nobody await it: it is reported now


def _uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


# The event loop for threads that have none

_background: Final[dict[int, asyncio.AbstractEventLoop]] = {}
"""By process: a forked child has no use for its parent's, and must not close it."""
_lock: Final = lock_across_forks()
_exiting: Final = threading.Event()


def background_loop() -> asyncio.AbstractEventLoop | None:
    """Returns the event loop in the background of this process.

    None: the interpreter exits, or no thread can be started. The next call tries it again.
    """
    with _lock:
        event_loop = _background.get(os.getpid())
        if event_loop is None and not _exiting.is_set():
            event_loop = _started()
            if event_loop is not None:
                _background[os.getpid()] = event_loop
        return None if _exiting.is_set() else event_loop


def _started() -> asyncio.AbstractEventLoop | None:
    """Starts an event loop in a thread of its own; None: no thread can be started."""
    event_loop = asyncio.new_event_loop()
    runs = threading.Event()
    event_loop.call_soon(runs.set)
    thread = threading.Thread(
        target=event_loop.run_forever, name="sark-cache revocations", daemon=True
    )
    try:
        thread.start()
    except RuntimeError:
        event_loop.close()
        return None
    runs.wait()
    return event_loop


def _finish() -> None:
    """Waits at the interpreter's exit for what is under way; reports what was not confirmed."""
    _exiting.set()
    left = _under_way.copy()
    wait_for_threads([one.answer for one in left if not one.is_stranded], timeout=EXIT_SECONDS)
    stranded = [one for one in left if one.is_stranded]
    if stranded:
        asyncio.run(_begun_again(stranded))
    given_up = [one for one in left if one.give_up()]
    event_loop = _background.get(os.getpid())
    if given_up and event_loop is not None:
        ended = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), event_loop)
        wait_for_threads([ended], timeout=EXIT_SECONDS)
    _under_way.clear()


async def _begun_again(stranded: Sequence[_Revocation[Any]]) -> None:
    """Carries out what event loops left behind that were closed before it was done."""
    for revocation in stranded:
        revocation.begin()
    await _ended(stranded, EXIT_SECONDS)


atexit.register(_finish)
