"""A limit for every test, and the stacks of all tasks and threads when one takes longer.

The limit is the setting `timeout` of pyproject.toml, a test's mark `timeout`, or `--timeout`. A
test that takes longer fails, and the next one begins. Where there are no signals (Windows), and
where a test cannot be interrupted because compiled code does not return, the whole run ends.
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
"""A test that goes on, for instance in its clean-up, is interrupted again after so many seconds."""
LAST_SECONDS = 100.0
"""The process ends this long after a limit, if its test still runs."""
EXIT_SECONDS = 60.0
"""How long the process may take to exit, once all tests are done."""
MOST_STACKS = 30
"""Different stacks that are shown of the tasks of one loop."""

HAS_SIGNALS = hasattr(signal, "setitimer")
LIMIT, RUNS = pytest.StashKey[float](), pytest.StashKey[bool]()
STDERR = pytest.StashKey[int]()


# Timers


def pytest_configure(config):
    config.stash[STDERR] = os.dup(sys.__stderr__.fileno())  # as long as it is not captured
    if HAS_SIGNALS:  # a forked child may be given a limit of its own, which ends it
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGALRM, signal.SIG_DFL))


def pytest_unconfigure(config):
    """Threads that do not end would keep the process from exiting."""
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
    """The clean-up has the same limit: after a failure, no timer runs any more."""
    if LIMIT in item.stash:
        _start(item)
    return (yield from _interruptible(item))


def _interruptible(item):
    """Notes that the test's own code runs: pytest's own must not be interrupted."""
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
    """Shows the stacks of all threads and exits with 1: done by a thread that takes no GIL."""
    if not is_debugging():
        faulthandler.dump_traceback_later(seconds, file=config.stash[STDERR], exit=True)


# Stacks


def stacks():
    """The stacks of all tasks of all event loops that are not closed, and of all threads."""
    parts = [part for loop in _loops() for part in _of_loop(loop)]
    return "\n".join([*parts, *_of_threads()])


def _loops():
    """Every event loop of this process, found as the garbage collector finds it."""
    return [
        one
        for one in gc.get_objects()
        if issubclass(type(one), asyncio.AbstractEventLoop) and not one.is_closed()
    ]


def _of_loop(loop):
    """The stacks of its tasks: those that are alike once."""
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
    """The frames of a task, outermost first: of its coroutine, and of each that this awaits."""
    awaited = task.get_coro()
    while awaited is not None:
        frame = _attribute(awaited, "cr_frame", "gi_frame", "ag_frame")
        if frame is None:
            yield f"  waits for {type(awaited).__qualname__}\n"
            return
        yield from traceback.StackSummary.extract([(frame, frame.f_lineno)]).format()
        awaited = _attribute(awaited, "cr_await", "gi_yieldfrom", "ag_await")


def _attribute(of, *names):
    """The first of these attributes that there is."""
    return next((getattr(of, name) for name in names if hasattr(of, name)), None)


def _of_threads():
    """The stacks of all threads but this one, whose traceback pytest shows."""
    threads = {thread.ident: thread for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            yield f"~~~ thread {getattr(threads.get(ident), 'name', ident)}"
            yield "".join(traceback.format_stack(frame))
