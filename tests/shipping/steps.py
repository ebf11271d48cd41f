"""Commands run one after the other, with the time that each took; what they say, if they fail."""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

STARTED = time.monotonic()
BETWEEN_SIGNS = 60
"""How many seconds a command may take without a word."""
MOST = 80
"""Of its characters, then."""


class StepError(Exception):
    """Something is not as it should be."""


def fail(why: str) -> NoReturn:
    """Ends it all."""
    raise StepError(why)


def say(message: str) -> None:
    """One line, with the time since the start."""
    minutes, seconds = divmod(int(time.monotonic() - STARTED), 60)
    sys.stdout.write(f"[{minutes:3}:{seconds:02}] {message}\n")
    sys.stdout.flush()


def run(
    *command: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    fails: bool = False,
) -> str:
    """What a command said on both streams, once it ended well; or badly, if it `fails`."""
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
    """What a process said; while it runs, now and then that it does."""
    with process:
        while True:
            try:
                return process.communicate(timeout=BETWEEN_SIGNS)[0]
            except subprocess.TimeoutExpired:
                say(f"  still running: {shown if len(shown) < MOST else shown[:MOST] + '...'}")
