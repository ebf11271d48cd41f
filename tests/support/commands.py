"""Runs of the command `sark-cache`: in a process, in this process, and on a terminal."""

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from sark_cache.cli.app import application

URL = "SARK_CACHE_REDIS_URL"

NOT_PASSED_ON = ("SARK_CACHE_", "RUST_ENABLED", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "COLUMNS")
"""Prefixes of environment variables that would change what a command does."""

COMMAND = (sys.executable, "-P", "-X", "dev", "-m", "sark_cache")
"""The command in Python's development mode, which shows every warning."""

TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a command as the foreground process of its terminal, which receives Ctrl-C."""


@dataclass(frozen=True)
class Ended:
    """The exit code and output of a command that has ended."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        """Returns the JSON document that the command wrote."""
        return json.loads(self.out)


def environment(**variables):
    """Returns the environment of a command: this one without `NOT_PASSED_ON`, and `variables`."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED_ON)}
    # The width of errors and help. GitHub Actions would make rich print colours.
    return {**ours, "TERMINAL_WIDTH": "200", "GITHUB_ACTIONS": "", **variables}


def sark_cache(*arguments, command=COMMAND, **variables):
    """Runs a command without a terminal until it ends."""
    ended = subprocess.run(
        [*command, *arguments],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def in_process(*arguments, **variables):
    """Runs a command in this process, for one that ends at once or uses a patched object."""
    ended = CliRunner().invoke(application, arguments, env=variables)
    return Ended(ended.exit_code, ended.stdout, ended.stderr)


@contextmanager
def started(*arguments, stdin=subprocess.DEVNULL, **variables):
    """Starts a command; kills it on leaving if it still runs."""
    with heeding_ctrl_c():
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environment(**variables),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def heeding_ctrl_c():
    """Makes processes that are started in this block react to SIGINT.

    A shell makes background processes ignore SIGINT, and a child inherits that. Without this block,
    the tests would fail when they run in the background.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def url_without(server, *commands):
    """Returns the URL of a server for a user who may run all commands except `commands`."""
    refused = [f"-{command}" for command in commands]
    server.command("ACL", "SETUSER", "bob", "on", ">s3cret", "~*", "+@all", *refused)
    return server.url.replace("redis://", "redis://bob:s3cret@")


class Terminal:
    """A command that runs on a terminal.

    Attributes:
        said: The output so far, with its escape sequences.
    """

    def __init__(self, *arguments, **variables):
        import pty

        self._ours, theirs = pty.openpty()
        with heeding_ctrl_c():
            self._process = subprocess.Popen(
                [sys.executable, "-c", TAKE_TERMINAL, *COMMAND, *arguments],
                env=environment(**{"TERM": "xterm-256color", **variables}),
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
            )
        os.close(theirs)
        self.said = ""

    def type(self, keys):
        """Types `keys`; Ctrl-C is `\\x03`."""
        os.write(self._ours, keys.encode())

    def wait_for(self, text):
        """Waits until the command has written `text`."""
        while text not in self.said:
            assert self._read(), f"it ended without {text!r}: {self.said}"

    def wait_for_reading(self):
        """Waits until the command sleeps, which after a question means that it reads from the
        terminal.

        CPython may miss a Ctrl-C that arrives between its last check for signals and the call that
        reads. It then needs another key to wake up.
        """
        while not self._state().startswith("S"):
            assert self._process.poll() is None, f"it ended: {self.said}"

    def _state(self):
        """Returns the state of the main thread, as `ps` names it."""
        stat = Path(f"/proc/{self._process.pid}/stat")
        if stat.exists():
            return stat.read_text(encoding="utf-8").rpartition(")")[2].strip()
        asked = ["/bin/ps", "-o", "state=", "-p", str(self._process.pid)]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()

    def code(self):
        """Waits until the command has ended and returns its exit code."""
        while self._read():
            pass
        return self._process.wait(60)

    def _read(self):
        ready, _, _ = select.select([self._ours], [], [], 60)
        assert ready, f"it says nothing: {self.said}"
        try:
            read = os.read(self._ours, 4096).decode()
        except OSError:  # how Linux reports that the other side is closed
            read = ""
        self.said += read
        return bool(read)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._ours)
