"""Background polling: a thread that polls at an interval while its owner exists."""

import gc
import threading
import time

import pytest

from interpreters import needs_fork, run, started
from sark_cache._core.poller import BackgroundPoller

SOON = 0.001
NEVER = 3600.0
PATIENCE = 10.0
"""The maximum number of seconds that a test waits."""


class Owner:
    """An owner of a poller whose polls the test controls."""

    def __init__(self, every=NEVER, **options):
        self.looks = 0
        self.looking = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()
        self.fails = None
        self.poller = BackgroundPoller(self, Owner.look, every, name="test", **options)

    def look(self):
        self.looks += 1
        self.looking.set()
        self.may_end.wait(PATIENCE)
        if self.fails:
            raise self.fails


@pytest.fixture
def owner():
    owner = Owner()
    yield owner
    owner.may_end.set()
    owner.poller.close()


def threads():
    return [thread for thread in threading.enumerate() if "sark-cache test poller" in thread.name]


def test_creating_a_poller_starts_nothing(owner):
    assert threads() == []


def test_the_first_call_waits_for_the_first_poll(owner):
    owner.poller.ensure_started()
    assert owner.looks == 1
    [thread] = threads()
    assert thread.daemon


def test_a_second_call_starts_nothing(owner):
    for _ in range(100):
        owner.poller.ensure_started()
    assert owner.looks == 1
    assert len(threads()) == 1


def test_many_first_calls_at_once_start_one_thread(owner):
    asking = [threading.Thread(target=owner.poller.ensure_started) for _ in range(20)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert owner.looks == 1
    assert len(threads()) == 1


def test_a_hanging_poll_delays_the_first_call_a_moment_and_no_other():
    owner = Owner(first_poll_seconds=0.05)
    owner.may_end.clear()
    owner.poller.ensure_started()
    assert owner.looks == 1
    asked = time.monotonic()
    for _ in range(1000):
        owner.poller.ensure_started()
    assert time.monotonic() - asked < 0.05
    owner.may_end.set()
    owner.poller.close()


def test_it_polls_repeatedly():
    owner = Owner(every=SOON)
    owner.poller.ensure_started()
    for _ in range(5):
        owner.looking.clear()
        assert owner.looking.wait(PATIENCE)
    owner.poller.close()


def test_it_polls_at_once_when_woken(owner):
    owner.poller.ensure_started()
    assert owner.poller.poll_now().wait(PATIENCE)
    assert owner.looks == 2


def test_waking_starts_the_poller(owner):
    assert owner.poller.poll_now().wait(PATIENCE)
    assert owner.looks >= 1


def test_a_poll_that_had_started_before_does_not_count(owner):
    owner.may_end.clear()
    begun = threading.Thread(target=owner.poller.poll_now)
    begun.start()
    assert owner.looking.wait(PATIENCE)
    asked_for = [owner.poller.poll_now() for _ in range(3)]
    assert not any(ended.is_set() for ended in asked_for)
    owner.may_end.set()
    assert all(ended.wait(PATIENCE) for ended in asked_for)
    assert owner.looks == 2, "one look is enough for all waiters"
    begun.join()


def test_a_failing_poll_is_logged_once_and_polling_continues(owner, caplog):
    owner.fails = ConnectionError("nobody there")
    for _ in range(3):
        assert owner.poller.poll_now().wait(PATIENCE)
    assert owner.looks >= 3
    [record] = caplog.records
    assert "ConnectionError: nobody there" in record.message


def test_closing_ends_the_thread(owner):
    owner.poller.ensure_started()
    owner.poller.close()
    assert threads() == []


def test_a_closed_poller_does_not_start_again(owner):
    owner.poller.ensure_started()
    owner.poller.close()
    owner.poller.close()
    owner.poller.ensure_started()
    assert not owner.poller.poll_now().is_set()
    assert threads() == []
    assert owner.looks == 1


def test_a_poller_that_never_started_can_be_closed(owner):
    owner.poller.close()
    owner.poller.ensure_started()
    assert owner.looks == 0


def test_closing_waits_for_a_running_poll_for_a_limited_time(owner):
    owner.may_end.clear()
    owner.poller.poll_now()
    assert owner.looking.wait(PATIENCE)
    owner.poller.close(timeout=SOON)
    [thread] = threads()
    owner.may_end.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_the_thread_runs_the_closing_function_at_its_end_and_logs_its_failure(caplog):
    ended_by = []

    def end():
        ended_by.append(threading.current_thread())
        message = "closed already"
        raise OSError(message)

    owner = Owner(at_end=end)
    owner.poller.ensure_started()
    [thread] = threads()
    assert ended_by == []
    owner.poller.close()
    assert ended_by == [thread]
    assert "OSError: closed already" in caplog.text


def test_a_poll_may_close_its_own_poller():
    class Once(Owner):
        def look(self):
            self.poller.close()

    owner = Once()
    owner.poller = BackgroundPoller(owner, Once.look, SOON, name="test")
    owner.poller.ensure_started()
    owner.poller.close()
    assert threads() == []


def test_the_thread_ends_with_its_owner():
    owner = Owner()
    owner.poller.ensure_started()
    [thread] = threads()
    del owner
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_deleted_owner_is_not_polled():
    owner = Owner()
    poller = owner.poller
    del owner
    gc.collect()
    poller.poll_now()
    for thread in threads():
        thread.join(PATIENCE)
    assert threads() == []


OWNER = """
import os, resource, signal, sys, threading, time
from sark_cache._core.poller import BackgroundPoller

class Owner:
    looks = 0
    def __init__(self, every=3600.0):
        self.poller = BackgroundPoller(self, Owner.look, every, name="test")
    def look(self):
        self.looks += 1

owner = Owner()
"""


@needs_fork
def test_a_forked_child_starts_its_own_thread_and_can_fork_again():
    assert run(
        OWNER
        + """
def child(depth):
    pid = os.fork()
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
        return
    signal.alarm(20)
    before = owner.looks
    assert threading.active_count() == 1
    owner.poller.ensure_started()
    assert owner.looks == before + 1
    assert owner.poller.poll_now().wait(10)
    if depth:
        child(depth - 1)
    os._exit(0)

owner.poller.ensure_started()
child(1)
print(owner.looks, threading.active_count())
"""
    ) == ["1 2"]


@needs_fork
def test_a_poller_that_a_child_closes_stays_open_in_the_parent():
    assert run(
        OWNER
        + """
owner.poller.ensure_started()
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    owner.poller.close()
    owner.poller.ensure_started()
    os._exit(threading.active_count() - 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), owner.poller.poll_now().wait(10))
"""
    ) == ["0 True"]


@needs_fork
def test_a_child_forked_at_any_moment_can_start_its_poller():
    assert run(
        OWNER
        + """
done = threading.Event()

def begin_and_end():
    while not done.is_set():
        one = Owner(0.0001)
        one.poller.ensure_started()
        one.poller.close()

threads = [threading.Thread(target=begin_and_end) for _ in range(2)]
for thread in threads: thread.start()
codes = []
for _ in range(50):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        owner.poller.ensure_started()
        os._exit(0 if owner.poller.poll_now().wait(10) else 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
done.set()
for thread in threads: thread.join()
print(codes == [0] * 50)
"""
    ) == ["True"]


@needs_fork
@pytest.mark.skipif("sys.platform != 'linux'", reason="threads are limited this way on Linux")
def test_without_threads_calls_still_work_and_it_is_logged_once():
    code = (
        OWNER
        + """
import logging
logging.basicConfig(stream=sys.stdout, format="%(message)s")
soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
uid = os.getuid()
resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
if uid == 0:
    os.setresuid(65534, 65534, 0)  # the limit is not for root
owner.poller.ensure_started()
owner.poller.ensure_started()
print(owner.looks, owner.poller.poll_now().wait(0.01))
if uid == 0:
    os.setresuid(0, 0, 0)
resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
owner.poller.ensure_started()
print(owner.looks)
"""
    )
    logged, without, again = run(code)
    assert "starting the poller failed: can't start new thread" in logged
    assert (without, again) == ("0 False", "1")


@pytest.mark.parametrize("look", ["time.sleep(3600)", "os.read(os.pipe()[0], 1)", "pass"])
def test_the_interpreter_exits_at_once_whatever_a_poll_waits_for(look):
    code = (
        OWNER
        + f"""
class Busy(Owner):
    def look(self):
        {look}

busy = Busy()
busy.poller = BackgroundPoller(busy, Busy.look, 0.0001, name="test")
busy.poller.ensure_started()
print("leaving", flush=True)
"""
    )
    with started(code) as process:
        assert process.stdout.readline() == "leaving\n"
        _, err = process.communicate(timeout=2)
    assert (process.returncode, err) == (0, "")
