"""Runs commands one after the other and prints the time of each, and the output of failed ones."""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

STARTED = time.monotonic()
BETWEEN_SIGNS = 60
"""Seconds that a command may run before a sign of life is printed."""
MOST = 80
"""The maximum number of characters of the command that the sign shows."""


class StepError(Exception):
    """A step failed."""


def fail(why: str) -> NoReturn:
    """Ends the run with an error."""
    raise StepError(why)


def say(message: str) -> None:
    """Prints one line with the time since the start."""
    minutes, seconds = divmod(int(time.monotonic() - STARTED), 60)
    sys.stdout.write(f"[{minutes:3}:{seconds:02}] {message}\n")
    sys.stdout.flush()


def run(
    *command: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    fails: bool = False,
) -> str:
    """Runs a command and returns its output; the command must succeed, or fail if `fails`."""
    shown = " ".join(str(part) for part in command)
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    said = _awaited(process, shown)
    if (process.returncode != 0) != fails:
        ending = "ended well" if fails else f"ended with {process.returncode}"
        fail(f"{shown} {ending}:\n{said[-8_000:]}")
    return said


def _awaited(process: subprocess.Popen[str], shown: str) -> str:
    """Returns the output of a process; prints now and then that it still runs."""
    with process:
        while True:
            try:
                return process.communicate(timeout=BETWEEN_SIGNS)[0]
            except subprocess.TimeoutExpired:
                say(f"  still running: {shown if len(shown) < MOST else shown[:MOST] + '...'}")
