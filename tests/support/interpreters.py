"""Code that runs in another interpreter: for forks, exits, and several processes at once."""

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")


OPTIONS = (
    *("-P", "-X", "faulthandler"),
    *("-W", "error", "-W", "ignore:This process:DeprecationWarning"),
)
"""Options that make warnings errors, except the one of CPython 3.12 about forks with threads."""


@contextmanager
def started(code, *arguments, path=None):
    """Starts an interpreter that runs `code`; kills it with its children on leaving if it still
    runs.

    Packages are looked up in `path` first, if it is given.
    """
    process = subprocess.Popen(
        [sys.executable, *OPTIONS, "-c", textwrap.dedent(code), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **({"PYTHONPATH": str(path)} if path else {})},
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                end(process)


def end(process, *, aborted=False):
    """Kills a process and, where there are process groups, its children.

    With `aborted`, each process prints the stacks of its threads first.
    """
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGABRT if aborted else signal.SIGKILL)
    else:
        process.kill()


def run(code, *arguments, path=None, seconds=60):
    """Runs `code` until it ends and returns the lines it printed.

    Fails the test with the error output if the code fails.
    """
    with started(code, *arguments, path=path) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            end(process, aborted=True)
            out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, f"ended with {process.returncode}: {err}"
    assert not err, err
    return out.splitlines()
