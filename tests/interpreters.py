"""Code that runs in an interpreter of its own: for forks, exits and processes side by side."""

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
"""Warnings are failures, but for the one that CPython 3.12 has about forks with threads."""


@contextmanager
def started(code, *arguments, path=None):
    """An interpreter that runs `code`; ended with its children, should it still run.

    With a `path`, packages are looked for there first.
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
    """Ends a process and, where there are process groups, its children.

    If they are `aborted`, each shows the stacks of its threads first.
    """
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGABRT if aborted else signal.SIGKILL)
    else:
        process.kill()


def run(code, *arguments, path=None, seconds=60):
    """Runs `code` to its end; the lines it prints, or a failure that shows what went wrong."""
    with started(code, *arguments, path=path) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            end(process, aborted=True)
            out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, f"ended with {process.returncode}: {err}"
    assert not err, err
    return out.splitlines()
