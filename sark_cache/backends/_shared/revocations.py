"""Revocations that run from their call on, whether or not the caller awaits them.

A revocation that is called in an event loop runs as a task of that loop. If the calling thread has
no event loop, it runs in a background event loop of the process. Cancelling the caller ends only
the caller's wait. An event loop that ends waits for its revocations.

A revocation that fails raises its error where it is awaited. If no caller awaits it, the error is
reported.
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

MAX_CANCELLATIONS: Final = 3
"""A revocation fails after this number of cancellations by its event loop."""

CHECK_SECONDS: Final = 0.5
"""The interval at which an awaited revocation checks that its event loop still runs."""

EXIT_SECONDS: Final = 2.0
"""The longest wait of the interpreter, at its exit, for running revocations."""

ErrorReporter: TypeAlias = Callable[[str, BaseException], None]
"""Takes the operation that could not be confirmed, and its error."""

FallbackLoop: TypeAlias = Callable[[], asyncio.AbstractEventLoop | None]

_running: Final[set["_Revocation[Any]"]] = set()
"""The running revocations. An event loop holds no strong reference to its tasks."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_running.clear)  # they run in the parent


class Revocations:
    """The revocations of one cache.

    Args:
        report: Called for a failed revocation that no caller awaits.
        fallback_loop: Returns the event loop for a call from a thread without one. None: there is
            none, so the revocation does not run until it is awaited.
    """

    def __init__(self, report: ErrorReporter, fallback_loop: FallbackLoop) -> None:
        self._report: Final = report
        self._fallback_loop: Final = fallback_loop

    def begin(
        self, operation: str, carry_out: Callable[[], Coroutine[Any, Any, T]]
    ) -> Coroutine[Any, Any, T]:
        """Starts a revocation. Returns an awaitable for its result.

        Args:
            operation: The name of the revocation in the log.
            carry_out: Revokes. It is called again if it was cancelled.
        """
        revocation = _Revocation(operation, carry_out, self._report, self._fallback_loop)
        revocation.begin()
        return Deferred(lambda: _deliver(revocation))

    async def settled(self, seconds: float) -> None:
        """Waits until the running revocations have ended, at most `seconds`."""
        await _wait_until_ended(
            [one for one in _running.copy() if one.report is self._report], seconds
        )


class _Revocation(Generic[T]):
    """One revocation, its result, and whether a caller has received the result."""

    def __init__(
        self,
        operation: str,
        carry_out: Callable[[], Coroutine[Any, Any, T]],
        report: ErrorReporter,
        fallback_loop: FallbackLoop,
    ) -> None:
        self.operation: Final = operation
        self.carry_out: Final = carry_out
        self.report: Final = report
        self.answer: Final[Future[T]] = Future()
        self.answer.set_running_or_notify_cancel()  # from now on it cannot be cancelled
        self.is_delivered = False
        self._fallback_loop: Final = fallback_loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Starts the revocation in this thread's event loop, or otherwise in the fallback loop."""
        here = running_loop()
        if here is not None:
            self._begin_in(here)
            return
        loop = self._fallback_loop()
        if loop is not None:
            self._loop = loop
            _running.add(self)
            loop.call_soon_threadsafe(self._begin_in, loop)

    @property
    def is_stranded(self) -> bool:
        """True if the revocation does not run: it never started, or its event loop ended."""
        return not self.answer.done() and (self._loop is None or not self._loop.is_running())

    def end(self, answer: T) -> None:
        """Sets the result of the confirmed revocation."""
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: BaseException) -> None:
        """Sets the error of the unconfirmed revocation."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def give_up(self) -> bool:
        """Ends the revocation unconfirmed, because the interpreter exits.

        Returns False if it has already ended.
        """
        if self.answer.done():
            return False
        self.fail(InvalidationError("the interpreter exits"))
        if self._task is not None and self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._task.cancel)
        return True

    def _begin_in(self, event_loop: asyncio.AbstractEventLoop) -> None:
        self._loop = event_loop
        _running.add(self)
        name = f"sark-cache {self.operation}"
        self._task = event_loop.create_task(_run(self), name=name)
        self._task.add_done_callback(self._on_task_end)

    def _on_task_end(self, task: "asyncio.Task[None]") -> None:
        """Starts it in the fallback loop if its event loop cancelled the task before it ran."""
        del task
        self._task = None
        if self.answer.done():
            return
        loop = self._fallback_loop()
        if loop is None or loop is self._loop:
            _running.discard(self)
            self.fail(InvalidationError("its event loop ended"))
        else:
            self._loop = loop
            loop.call_soon_threadsafe(self._begin_in, loop)

    def __del__(self) -> None:
        if self.is_delivered or sys.is_finalizing():
            return
        if self.answer.done():
            error = self.answer.exception()
        else:
            error = InvalidationError("no event loop carried it out")
        if error is not None:
            self.report(self.operation, error)


async def _wait_until_ended(revocations: Sequence[_Revocation[Any]], seconds: float) -> None:
    """Waits until all revocations have ended, at most `seconds`. Delivers no results."""
    answers = [asyncio.wrap_future(one.answer) for one in revocations]
    if not answers:
        return
    try:
        await asyncio.wait(answers, timeout=seconds)
    finally:
        for answer in answers:
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # else asyncio logs that the exception was never retrieved


async def _deliver(revocation: _Revocation[T]) -> T:
    """Returns the result of a revocation, or raises its error.

    Restarts the revocation in this event loop if the event loop that runs it stops.
    """
    ended = asyncio.wrap_future(revocation.answer)
    try:
        while not ended.done():
            if revocation.is_stranded:
                revocation.begin()
            await asyncio.wait([ended], timeout=CHECK_SECONDS)
        answer = ended.result()
        revocation.is_delivered = True
    except asyncio.CancelledError:  # the caller was cancelled and did not receive the result
        raise
    except BaseException:
        revocation.is_delivered = True
        raise
    else:
        return answer
    finally:
        ended.cancel()
        del revocation  # the traceback of its error would hold it


async def _run(revocation: _Revocation[Any]) -> None:
    """Runs a revocation. An event loop that ends cancels its tasks, and waits for them."""
    try:
        for _ in range(MAX_CANCELLATIONS):
            try:
                revocation.end(await revocation.carry_out())
            except asyncio.CancelledError:
                _uncancel()
                if revocation.answer.done():  # `give_up` has ended it
                    return
            else:
                return
        message = f"{revocation.operation} was cancelled {MAX_CANCELLATIONS} times"
        revocation.fail(InvalidationError(message))
    except Exception as error:  # noqa: BLE001 - any error is raised where it is awaited
        revocation.fail(error)
    except GeneratorExit:  # its event loop was closed, and another one carries it out
        raise
    except BaseException as error:
        revocation.fail(error)
        raise
    finally:
        if revocation.answer.done():
            _running.discard(revocation)
        del revocation  # if no caller awaits it, this is the last reference: it is reported now


def _uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


# The event loop for threads without one

_background: Final[dict[int, asyncio.AbstractEventLoop]] = {}
"""The event loops by process id: a forked child must neither use nor close its parent's loop."""
_lock: Final = lock_across_forks()
_exiting: Final = threading.Event()


def background_loop() -> asyncio.AbstractEventLoop | None:
    """Returns the background event loop of this process, started if necessary.

    None: the interpreter exits, or no thread can be started. The next call tries again.
    """
    with _lock:
        event_loop = _background.get(os.getpid())
        if event_loop is None and not _exiting.is_set():
            event_loop = _start_loop()
            if event_loop is not None:
                _background[os.getpid()] = event_loop
        return None if _exiting.is_set() else event_loop


def _start_loop() -> asyncio.AbstractEventLoop | None:
    """Starts an event loop in a new thread. None: no thread can be started."""
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


def _at_exit() -> None:
    """Waits for running revocations at the interpreter's exit. Reports the unconfirmed ones."""
    _exiting.set()
    left = _running.copy()
    wait_for_threads([one.answer for one in left if not one.is_stranded], timeout=EXIT_SECONDS)
    stranded = [one for one in left if one.is_stranded]
    if stranded:
        asyncio.run(_run_again(stranded))
    given_up = [one for one in left if one.give_up()]
    event_loop = _background.get(os.getpid())
    if given_up and event_loop is not None:
        ended = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), event_loop)
        wait_for_threads([ended], timeout=EXIT_SECONDS)
    _running.clear()


async def _run_again(stranded: Sequence[_Revocation[Any]]) -> None:
    """Runs revocations whose event loops were closed before the revocations ended."""
    for revocation in stranded:
        revocation.begin()
    await _wait_until_ended(stranded, EXIT_SECONDS)


atexit.register(_at_exit)
