"""A time limit for every test; when it passes, the stacks of all tasks and threads are shown.

The limit is the setting `timeout` of pyproject.toml, the mark `timeout` of a test, or `--timeout`.
A test that exceeds it fails, and the next one begins. The whole run ends where there are no signals
(Windows), and where compiled code does not return and cannot be interrupted.
"""

import asyncio
import faulthandler
import gc
import os
import signal
import sys
import threading
import traceback
from collections import defaultdict
from itertools import islice

import pytest
from pytest_timeout import is_debugging

AGAIN_SECONDS = 30.0
"""Seconds until a test that goes on, for instance in its clean-up, is interrupted again."""
LAST_SECONDS = 100.0
"""Seconds from a test's limit to the end of the process, if the test still runs."""
EXIT_SECONDS = 60.0
"""Seconds that the process may take to exit when all tests are done."""
MOST_STACKS = 30
"""The maximum number of different stacks shown for the tasks of one loop."""

HAS_SIGNALS = hasattr(signal, "setitimer")
LIMIT, RUNS = pytest.StashKey[float](), pytest.StashKey[bool]()
STDERR = pytest.StashKey[int]()


# Timers


def pytest_configure(config):
    config.stash[STDERR] = os.dup(sys.__stderr__.fileno())  # before output is captured
    if HAS_SIGNALS:  # a test may set an alarm in a forked child, which ends the child
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGALRM, signal.SIG_DFL))


def pytest_unconfigure(config):
    """Sets a limit for the exit: threads that do not end would keep the process alive."""
    _end_process_after(EXIT_SECONDS, config)


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item, settings):
    item.stash[LIMIT], item.stash[RUNS] = settings.timeout, False
    _start(item)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_cancel_timer(item):
    if HAS_SIGNALS:
        signal.setitimer(signal.ITIMER_REAL, 0)
    faulthandler.cancel_dump_traceback_later()
    return True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    return (yield from _interruptible(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item):
    return (yield from _interruptible(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item):
    """Applies the limit to the clean-up as well: after a failure, no timer is running."""
    if LIMIT in item.stash:
        _start(item)
    return (yield from _interruptible(item))


def _interruptible(item):
    """Marks the time in which the test's own code runs; pytest's code must not be interrupted."""
    item.stash[RUNS] = True
    try:
        return (yield)
    finally:
        item.stash[RUNS] = False


def _start(item):
    limit = item.stash[LIMIT]
    if not HAS_SIGNALS:
        _end_process_after(limit, item.config)
        return

    def interrupt(_number, _frame):
        __tracebackhide__ = True
        if item.stash[RUNS] and not is_debugging():
            pytest.fail(f"it took longer than {limit:g} s\n\n{stacks()}")

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, limit, AGAIN_SECONDS)
    _end_process_after(limit + LAST_SECONDS, item.config)


def _end_process_after(seconds, config):
    """Makes a C thread, which needs no GIL, print the stacks of all threads and exit with 1."""
    if not is_debugging():
        faulthandler.dump_traceback_later(seconds, file=config.stash[STDERR], exit=True)


# Stacks


def stacks():
    """Returns the stacks of all threads, and of all tasks of event loops that are not closed."""
    parts = [part for loop in _loops() for part in _of_loop(loop)]
    return "\n".join([*parts, *_of_threads()])


def _loops():
    """Returns every open event loop of this process, found through the garbage collector."""
    return [
        one
        for one in gc.get_objects()
        if issubclass(type(one), asyncio.AbstractEventLoop) and not one.is_closed()
    ]


def _of_loop(loop):
    """Yields the stacks of a loop's tasks; equal stacks are shown once."""
    alike = defaultdict(list)
    for task in asyncio.all_tasks(loop):
        alike["".join(_of_task(task))].append(task)
    runs = "runs" if loop.is_running() else "does not run"
    yield f"~~~ {loop!r}, which {runs}: {sum(map(len, alike.values()))} tasks"
    for stack, tasks in islice(alike.items(), MOST_STACKS):
        more = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
        yield f"{tasks[0]!r}{more}\n{stack}"
    if len(alike) > MOST_STACKS:
        yield f"... and {len(alike) - MOST_STACKS} more stacks"


def _of_task(task):
    """Yields the frames of a task, outermost first: of its coroutine, and of each one it awaits."""
    awaited = task.get_coro()
    while awaited is not None:
        frame = _attribute(awaited, "cr_frame", "gi_frame", "ag_frame")
        if frame is None:
            yield f"  waits for {type(awaited).__qualname__}\n"
            return
        yield from traceback.StackSummary.extract([(frame, frame.f_lineno)]).format()
        awaited = _attribute(awaited, "cr_await", "gi_yieldfrom", "ag_await")


def _attribute(of, *names):
    """Returns the first of these attributes that exists."""
    return next((getattr(of, name) for name in names if hasattr(of, name)), None)


def _of_threads():
    """Yields the stacks of all threads except this one, whose traceback pytest shows."""
    threads = {thread.ident: thread for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            yield f"~~~ thread {getattr(threads.get(ident), 'name', ident)}"
            yield "".join(traceback.format_stack(frame))
