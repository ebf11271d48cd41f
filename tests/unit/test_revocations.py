"""Revocations are carried out once they are called, even if the caller is cancelled."""

import asyncio
import sys
import threading

import pytest

from interpreters import run
from sark_cache.backends._shared.revocations import Revocations, background_loop


class Log:
    """Records the revocations that were carried out and the errors that were reported."""

    def __init__(self, elsewhere=background_loop):
        self.done = []
        self.unconfirmed = []
        self.revocations = Revocations(
            lambda operation, error: self.unconfirmed.append((operation, str(error))), elsewhere
        )

    def revoke(self, steps=3, error=None):
        async def carry_out():
            for _ in range(steps):
                await asyncio.sleep(0)
            if error is not None:
                raise error
            self.done.append(threading.current_thread().name)
            return 7

        return self.revocations.begin("invalidate", carry_out)


@pytest.fixture
def log():
    return Log()


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_an_awaited_revocation_returns_its_result(log):
    assert await log.revoke() == 7
    assert len(log.done) == 1


async def test_a_dropped_revocation_is_carried_out(log):
    log.revoke()
    await until(lambda: log.done)
    assert log.unconfirmed == []


async def test_a_failure_is_raised_if_awaited_and_reported_otherwise(log):
    with pytest.raises(LookupError, match="gone"):
        await log.revoke(error=LookupError("gone"))
    assert log.unconfirmed == []
    log.revoke(error=LookupError("gone"))
    await until(lambda: log.unconfirmed)
    assert log.unconfirmed == [("invalidate", "gone")]


async def test_a_failure_before_the_revocation_is_dropped_is_reported(log):
    kept = log.revoke(steps=0, error=LookupError("gone"))
    await log.revocations.settled(10)
    assert log.unconfirmed == []
    del kept
    assert log.unconfirmed == [("invalidate", "gone")]


async def test_cancelling_the_caller_does_not_cancel_the_revocation(log):
    began = asyncio.Event()

    async def call():
        revocation = log.revoke(steps=50, error=LookupError("gone"))
        began.set()
        await revocation

    caller = asyncio.create_task(call())
    await began.wait()
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    del caller
    await until(lambda: log.unconfirmed)
    assert log.unconfirmed == [("invalidate", "gone")], "it was not reported"


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_event_loop_that_ends_waits_for_its_revocations(log, steps):
    async def main():
        log.revoke()
        for _ in range(steps):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert len(log.done) == 1
    assert log.unconfirmed == []


def test_a_revocation_in_a_thread_without_an_event_loop_runs_in_the_background(log):
    log.revoke()
    assert asyncio.run(log.revoke()) == 7
    assert asyncio.run(log.revocations.settled(10)) is None
    assert log.done == ["sark-cache revocations"] * 2


def test_without_any_event_loop_a_revocation_runs_where_it_is_awaited():
    log = Log(elsewhere=lambda: None)
    assert asyncio.run(log.revoke()) == 7
    assert log.done == ["MainThread"]
    log.revoke()
    assert log.unconfirmed == [("invalidate", "no event loop carried it out")]


def test_a_revocation_of_a_closed_event_loop_runs_where_it_is_awaited(log):
    async def call():
        return log.revoke(steps=5)

    event_loop = asyncio.new_event_loop()
    left = event_loop.run_until_complete(call())
    assert log.done == []
    assert asyncio.run(left) == 7
    assert log.done == ["MainThread"]
    event_loop.run_until_complete(asyncio.sleep(0))
    for task in asyncio.all_tasks(event_loop):
        event_loop.run_until_complete(task)
    event_loop.close()


async def test_a_revocation_whose_event_loop_stops_runs_where_it_is_awaited(log):
    here, begun, over = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    elsewhere = asyncio.new_event_loop()

    async def carry_out():
        if asyncio.get_running_loop() is elsewhere:
            await asyncio.Event().wait()
        log.done.append(threading.current_thread().name)
        return 7

    async def begin():
        log.awaited = log.revocations.begin("invalidate", carry_out)
        here.call_soon_threadsafe(begun.set)

    def run_until_stopped():
        elsewhere.call_soon(elsewhere.create_task, begin())
        elsewhere.run_forever()
        over.wait()
        for task in asyncio.all_tasks(elsewhere):
            task.cancel()
        elsewhere.run_until_complete(asyncio.sleep(0.01))
        elsewhere.close()

    thread = threading.Thread(target=run_until_stopped)
    thread.start()
    await begun.wait()
    answer = asyncio.ensure_future(log.awaited)
    await asyncio.sleep(0)
    elsewhere.call_soon_threadsafe(elsewhere.stop)
    try:
        async with asyncio.timeout(10):
            assert await answer == 7
    finally:
        over.set()
        await asyncio.to_thread(thread.join)
    assert log.done == [threading.current_thread().name]


async def test_a_revocation_that_is_cancelled_repeatedly_ends(log):
    tries = []

    async def never():
        tries.append(asyncio.current_task())
        await asyncio.Event().wait()

    revocation = log.revocations.begin("invalidate", never)
    for count in (1, 2, 3):
        await until(lambda count=count: len(tries) == count)
        tries[-1].cancel()
    with pytest.raises(Exception, match="cancelled 3 times"):
        await revocation


PRELUDE = """
import asyncio, os, sys
from sark_cache.backends._shared.revocations import Revocations, background_loop

def report(operation, error):
    print("unconfirmed:", operation, error, flush=True)

revocations = Revocations(report, background_loop)

async def slowly():
    await asyncio.sleep(0.05)
    os.write(1, b"done\\n")  # in one step, because other threads print, too

async def never():
    await asyncio.Event().wait()
"""


def test_the_interpreter_waits_at_exit_for_background_revocations():
    assert run(PRELUDE + "revocations.begin('delete', slowly)") == ["done"]


@pytest.mark.skipif(sys.platform != "linux", reason="threads are limited this way on Linux")
def test_without_threads_a_revocation_runs_where_it_is_awaited_and_later_ones_in_the_background():
    assert run(
        """
import asyncio, os, resource, threading, time
from sark_cache.backends._shared.revocations import Revocations, background_loop

done = []
revocations = Revocations(lambda operation, error: print(operation, error), background_loop)

async def carry_out():
    done.append(threading.current_thread().name)
    return len(done)

most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
is_root = os.getuid() == 0
if is_root:
    os.setresuid(65534, 65534, 0)  # the limit is not for root
resource.setrlimit(resource.RLIMIT_NPROC, (1, most))
print(asyncio.run(revocations.begin("awaited", carry_out)), done)
revocations.begin("dropped", carry_out)
resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
revocations.begin("in the background", carry_out)
while len(done) < 2:
    time.sleep(0.01)
print(done[1:])
if is_root:
    os.setresuid(0, 0, 0)  # a measurement of the coverage is written at the exit
"""
    ) == [
        "1 ['MainThread']",
        "dropped no event loop carried it out",
        "['sark-cache revocations']",
    ]


def test_the_interpreter_carries_out_revocations_of_a_closed_event_loop():
    assert run(
        PRELUDE
        + """
async def call():
    revocations.begin("delete", slowly)

event_loop = asyncio.new_event_loop()
event_loop.run_until_complete(call())
event_loop.set_exception_handler(lambda *_: None)
event_loop.close()
"""
    ) == ["done"]


def test_the_task_of_a_closed_event_loop_does_not_end_the_revocation_when_it_is_collected():
    assert run(
        PRELUDE
        + """
import gc

tasks = []

async def collecting():
    tasks.append(id(asyncio.current_task()))
    if len(tasks) == 2:
        gc.collect()
    await slowly()

async def call():
    revocations.begin("delete", collecting)

event_loop = asyncio.new_event_loop()
event_loop.run_until_complete(call())
event_loop.set_exception_handler(lambda *_: None)
event_loop.close()
"""
    ) == ["done"]


def test_the_interpreter_exits_in_time_and_reports_unconfirmed_revocations():
    assert run(PRELUDE + "revocations.begin('delete', never)", seconds=30) == [
        "unconfirmed: delete the interpreter exits"
    ]


def test_a_forked_child_does_not_repeat_revocations_of_its_parent():
    assert (
        run(
            PRELUDE
            + """
revocations.begin("delete", slowly)
child = os.fork()
if child == 0:
    asyncio.run(revocations.settled(10))
    print("child", flush=True)
    asyncio.run(revocations.begin("delete", slowly))
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
"""
        ).count("done")
        == 2
    )
