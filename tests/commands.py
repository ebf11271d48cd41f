"""The command `sark-cache`, run as who uses it runs it: in a process of its own."""

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
"""The variables of the environment that would have a say, by how they begin."""

COMMAND = (sys.executable, "-P", "-X", "dev", "-m", "sark_cache")
"""In Python's development mode, in which every warning is shown."""

TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a command as the one that a terminal's Ctrl-C goes to."""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        """What it wrote as JSON."""
        return json.loads(self.out)


def environment(**variables):
    """The environment of a command: this one, but for what would have a say, and `variables`."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED_ON)}
    # How wide errors and help are; and GitHub's pages show colours, which are not text.
    return {**ours, "TERMINAL_WIDTH": "200", "GITHUB_ACTIONS": "", **variables}


def sark_cache(*arguments, command=COMMAND, **variables):
    """Runs a command to its end, without a terminal."""
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
    """Runs a command in this process: one that ends at once, or has something put in its place."""
    ended = CliRunner().invoke(application, arguments, env=variables)
    return Ended(ended.exit_code, ended.stdout, ended.stderr)


@contextmanager
def started(*arguments, stdin=subprocess.DEVNULL, **variables):
    """A command that runs; killed in the end, should it still run."""
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
    """A process that is started in this block can be interrupted.

    Otherwise it could not where these tests cannot: a shell lets what runs in the background ignore
    SIGINT, and a process inherits that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def url_without(server, *commands):
    """The URL of a server for a user who may run all commands but these."""
    refused = [f"-{command}" for command in commands]
    server.command("ACL", "SETUSER", "bob", "on", ">s3cret", "~*", "+@all", *refused)
    return server.url.replace("redis://", "redis://bob:s3cret@")


class Terminal:
    """A command that runs on a terminal.

    Attributes:
        said: What it has written there so far, escapes and all.
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
        """Types; Ctrl-C is `\\x03`."""
        os.write(self._ours, keys.encode())

    def wait_for(self, text):
        """Waits until it has said something."""
        while text not in self.said:
            assert self._read(), f"it ended without {text!r}: {self.said}"

    def wait_for_reading(self):
        """Waits until it sleeps, which after a question means that it reads what is typed.

        CPython may sleep through a Ctrl-C that comes between its last look at signals and the call
        that reads: then it takes another key to wake it.
        """
        while not self._state().startswith("S"):
            assert self._process.poll() is None, f"it ended: {self.said}"

    def _state(self):
        """The state of its main thread, as `ps` names it."""
        stat = Path(f"/proc/{self._process.pid}/stat")
        if stat.exists():
            return stat.read_text(encoding="utf-8").rpartition(")")[2].strip()
        asked = ["/bin/ps", "-o", "state=", "-p", str(self._process.pid)]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()

    def code(self):
        """Its exit code, once it has ended."""
        while self._read():
            pass
        return self._process.wait(60)

    def _read(self):
        ready, _, _ = select.select([self._ours], [], [], 60)
        assert ready, f"it says nothing: {self.said}"
        try:
            read = os.read(self._ours, 4096).decode()
        except OSError:  # how Linux says that the other side is gone
            read = ""
        self.said += read
        return bool(read)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._ours)
