"""The time limit of tests, and the stacks that are shown when a test exceeds it."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import limits

TESTS = Path(limits.__file__).parent
SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
timeout = 1
"""
HASTE = """
import limits
limits.AGAIN_SECONDS, limits.LAST_SECONDS, limits.EXIT_SECONDS = 0.5, {last}, {last}
"""
PLUGINS = (*("-p", "pytest_asyncio.plugin"), *("-p", "pytest_timeout"), *("-p", "limits"))
ENVIRONMENT = {
    "PYTHONPATH": str(TESTS),
    "PYTEST_ADDOPTS": "",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # loading plugins takes longer than the tests
}
NEXT = """
def test_the_next_one():
    pass
"""

interruptible = pytest.mark.skipif(
    not limits.HAS_SIGNALS, reason="without signals, the whole run ends"
)


@pytest.fixture
def tests(tmp_path):
    """Runs a file of tests in another process, with a limit of one second each."""
    (tmp_path / "pytest.ini").write_text(SETTINGS, "utf-8")

    def run(code, *, last=30):
        (tmp_path / "conftest.py").write_text(HASTE.format(last=last), "utf-8")
        (tmp_path / "test_it.py").write_text(textwrap.dedent(code) + NEXT, "utf-8")
        return subprocess.run(
            [sys.executable, "-m", "pytest", *PLUGINS],
            cwd=tmp_path,
            env=os.environ | ENVIRONMENT,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )

    return run


def test_this_test_has_a_limit(request):
    assert float(request.config.getini("timeout")) > 0
    if limits.HAS_SIGNALS:
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0


@interruptible
def test_a_test_that_waits_forever_fails_with_the_stacks_of_all_tasks(tests):
    ended = tests(
        """
        import asyncio

        async def innermost(event):
            await event.wait()

        async def outermost(event):
            await innermost(event)

        async def test_it():
            event = asyncio.Event()
            waiting = asyncio.create_task(outermost(event), name="the first one")
            others = [asyncio.create_task(innermost(event)) for _ in range(40)]
            await waiting
        """
    )
    assert "1 failed, 1 passed" in ended.stdout
    assert "it took longer than 1 s" in ended.stdout
    for shown in ("'the first one'", "in outermost", "in innermost", "in test_it", "and 39 more"):
        assert shown in ended.stdout


@interruptible
def test_loops_of_other_threads_and_threads_without_a_loop_are_shown(tests):
    ended = tests(
        """
        import asyncio, threading

        over = threading.Event()

        async def in_a_loop():
            await asyncio.to_thread(over.wait)

        def without_a_loop():
            over.wait()

        def test_it():
            threads = [
                threading.Thread(target=asyncio.run, args=(in_a_loop(),)),
                threading.Thread(target=without_a_loop, name="the second one"),
            ]
            for thread in threads: thread.start()
            try:
                threads[0].join()
            finally:
                over.set()
        """
    )
    assert "1 failed, 1 passed" in ended.stdout
    for shown in ("in in_a_loop", "thread the second one", "in without_a_loop"):
        assert shown in ended.stdout


@interruptible
def test_a_test_that_waits_for_a_process_fails(tests):
    ended = tests(
        """
        import subprocess, sys

        def test_it():
            subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"])
        """
    )
    assert "1 failed, 1 passed" in ended.stdout


@interruptible
def test_a_clean_up_that_hangs_fails_too_also_after_a_failure(tests):
    ended = tests(
        """
        import asyncio, threading
        import pytest

        @pytest.fixture
        async def hangs():
            yield
            for _ in range(2):
                try:
                    await asyncio.Event().wait()
                finally:
                    continue

        async def test_it(hangs):
            assert False
        """
    )
    assert "1 failed, 1 passed, 1 error" in ended.stdout


def test_compiled_code_that_does_not_return_ends_the_run_with_the_stacks_of_threads(tests):
    ended = tests(
        """
        import itertools

        def test_it():
            sum(itertools.repeat(0))
        """,
        last=1,
    )
    assert ended.returncode == 1
    assert "in test_it" in ended.stderr
    assert "passed" not in ended.stdout


def test_a_thread_that_does_not_end_does_not_keep_the_run_from_ending(tests):
    ended = tests(
        """
        import threading

        def waits_for_ever():
            threading.Event().wait()

        def test_it():
            threading.Thread(target=waits_for_ever).start()
        """,
        last=1,
    )
    assert "2 passed" in ended.stdout
    assert ended.returncode == 1
    assert "in waits_for_ever" in ended.stderr


@interruptible
def test_a_forked_child_may_have_an_alarm_of_its_own(tests):
    ended = tests(
        """
        import os, signal

        def test_it():
            child = os.fork()
            if child == 0:
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                signal.pause()
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGALRM
        """
    )
    assert "2 passed" in ended.stdout
