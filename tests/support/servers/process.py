"""One server: its process, its configuration, and commands to it."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

import pytest

from servers.host import HOST, fields_by_line, free_port, server_binary, wait_until

ELSEWHERE = "SARK_CACHE_TEST_SERVER"
COMMAND_SECONDS = 2.0
"""Seconds that a command, or its connection, may take."""

Word = str | int | float | bool | Path
Setting = Word | tuple[Word, ...] | list[tuple[Word, ...]]
"""The value of a directive: one word, several words, or a list for a repeated directive."""

DEFAULTS: dict[str, Setting] = {
    "bind": HOST,
    "daemonize": False,
    "save": "",
    "appendonly": False,
    "rdb_del_sync_files": True,  # and no copy of what a replica was sent: a server restarts empty
    "repl_diskless_sync": True,
    "repl_diskless_sync_delay": 0,  # a replica need not wait: no other replica will come
}


class Server:
    """A server that runs from its construction on; as a context manager, until the block is left.

    Directives are keyword arguments, with `_` for `-`: `Server(maxmemory="1mb")`. A bool becomes
    yes or no, a tuple several words (`replicaof=(other.host, other.port)`), a list of tuples a
    repeated directive. A relative `unixsocket` is placed in `directory`. With `sentinel` directives
    the server runs as a sentinel.

    Attributes:
        port: The TCP port, the same after each `start`.
        directory: Holds the configuration, the log and all other files; removed by `stop`.
        url: `redis://127.0.0.1:PORT/0`, with the password if `requirepass` sets one.
        unix_url: The same for `unixsocket`, or None.
    """

    host = HOST

    def __init__(self, **config: Setting) -> None:
        self._binary = server_binary()
        port = config.setdefault("port", free_port())
        assert isinstance(port, int), "a port is a number"
        self.port = port
        self.directory = Path(tempfile.mkdtemp(prefix="sark-cache-"))
        self._log = self.directory / "log"
        self._configuration = self.directory / "configuration"
        self._configuration.write_text(_configuration(config), encoding="utf-8")
        self._is_sentinel = "sentinel" in config
        self._run: _ServerRun | None = None

        self.password = str(config["requirepass"]) if "requirepass" in config else None
        credentials = f":{quote(self.password, safe='')}@" if self.password else ""
        self.url = f"redis://{credentials}{HOST}:{self.port}/0"
        self.unix_url: str | None = None
        if "unixsocket" in config:
            path = self.directory / str(config["unixsocket"])
            self.unix_url = f"unix://{credentials}{path}?db=0"

        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Returns the id of the server's process, which is another one after each `start`."""
        return self._running().pid

    def start(self) -> None:
        """Starts the server again with its configuration and waits until it answers.

        Raises:
            RuntimeError: It runs already, or ended at once; the message has the end of its log.
            TimeoutError: It did not answer within 20 s; the message has the end of its log.
        """
        if self._runs:
            message = f"the server on port {self.port} runs already: kill or terminate it first"
            raise RuntimeError(message)
        self._end_run(signal.SIGKILL)
        arguments = [self._binary, str(self._configuration)]
        if self._is_sentinel:
            arguments.append("--sentinel")
        self._run = _ServerRun(arguments, self.directory, self._log)
        wait_until(self._answers, f"the server on port {self.port} answers", [self])

    def command(self, *words: str | float | bytes) -> Any:
        """Sends one command over a new connection and returns the reply in RESP 2 form.

        Strings are returned as `str`, bytes that are not UTF-8 as surrogate escapes. Sent back,
        they are the same bytes.

        Raises:
            redis.ResponseError: The server's error.
            redis.ConnectionError: The server cannot be reached.
            redis.TimeoutError: It took more than 2 s.
        """
        (reply,) = self.commands(words)
        return reply

    def commands(self, *commands: tuple[str | float | bytes, ...]) -> list[Any]:
        """Sends commands one by one over one connection, up to the first error; see `command`."""
        import redis

        connect: Any = redis.Connection
        connection = connect(
            host=self.host,
            port=self.port,
            password=self.password,
            socket_timeout=COMMAND_SECONDS,
            socket_connect_timeout=COMMAND_SECONDS,
            decode_responses=True,
            encoding_errors="surrogateescape",
            protocol=2,
        )
        try:
            replies: list[Any] = []
            for words in commands:
                connection.send_command(*words)
                replies.append(connection.read_response())
            return replies
        finally:
            connection.disconnect()

    def info(self, section: str) -> dict[str, str]:
        """Returns the fields of one section of INFO."""
        return fields_by_line(self.command("INFO", section))

    def flush(self) -> None:
        """Deletes all keys and scripts."""
        self.commands(("FLUSHALL",), ("SCRIPT", "FLUSH"))

    def kill(self) -> None:
        """Kills the server (SIGKILL) and waits until it has ended."""
        self._end_run(signal.SIGKILL)

    def terminate(self) -> None:
        """Terminates the server (SIGTERM), kills it after 2 s, and waits until it has ended."""
        self._end_run(signal.SIGTERM)

    def pause(self) -> None:
        """Suspends the server (SIGSTOP): it accepts connections and answers nothing."""
        self._running().pause()

    def resume(self) -> None:
        """Resumes a suspended server (SIGCONT)."""
        self._running().resume()

    def revive(self) -> None:
        """Starts or resumes the server, whichever it needs."""
        if self._runs:
            self.resume()
        else:
            self.start()

    def stop(self) -> None:
        """Terminates the server for good and removes its directory."""
        self.terminate()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log_tail(self, lines: int = 15) -> str:
        """Returns the last lines of the server's log, under a heading that names the server."""
        log = self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""
        return "\n".join(
            [f"the log of the server on port {self.port} ends:", *log.splitlines()[-lines:]]
        )

    def _answers(self) -> bool:
        pid = self.pid
        self.command("PING")
        # Another server may answer, if it holds the port that this one is about to fail to bind.
        return self.info("server")["process_id"] == str(pid)

    @property
    def _runs(self) -> bool:
        return self._run is not None and self._run.status is None

    def _running(self) -> "_ServerRun":
        if self._run and self._run.status is None:
            return self._run
        ended = f"ended with status {self._run.status}" if self._run else "was not started"
        message = f"the server on port {self.port} {ended}\n{self.log_tail()}"
        raise RuntimeError(message)

    def _end_run(self, by: signal.Signals) -> None:
        if self._run:
            self._run.end(by)
        self._run = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"


class Elsewhere(Server):
    """A server of somebody else, given by its URL: a service of CI, or another version.

    Tests that would stop or pause it are skipped.
    """

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self.host = address.hostname or HOST
        self.port = address.port or 6379
        self.password = unquote(address.password) if address.password else None
        self.url = url
        self.unix_url = None
        wait_until(lambda: self.command("PING") == "PONG", f"{ELSEWHERE} answers")

    def revive(self) -> None:
        """Does nothing: the server was never stopped or paused."""

    def stop(self) -> None:
        """Does nothing: the server keeps running."""

    def _not_ours(self) -> Any:
        pytest.skip(f"the server of {ELSEWHERE} is not ours to end or pause")

    start = kill = terminate = pause = resume = _not_ours


def _configuration(config: dict[str, Setting]) -> str:
    """Returns the text of a configuration file, which sentinels make servers rewrite."""
    lines: list[str] = []
    for name, setting in {**DEFAULTS, **config}.items():
        given = setting if isinstance(setting, list) else [setting]
        for words in given:
            several = words if isinstance(words, tuple) else (words,)
            lines.append(" ".join([name.replace("_", "-"), *map(_quoted, several)]))
    return "\n".join([*lines, ""])


def _quoted(word: Word) -> str:
    if isinstance(word, bool):
        return "yes" if word else "no"
    text = str(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


class _ServerRun:
    """The processes of one run: the server, and a guard that kills it when this process has ended.

    The guard waits for the end of its input, whose other end only this process holds. It comes with
    any kind of exit, also after SIGKILL. Linux's PDEATHSIG would not do: it follows the end of the
    *thread* that forked.
    """

    GUARD = 'read -r _; kill -KILL "$1"; rm -rf "$2"'

    def __init__(self, arguments: list[str], directory: Path, log: Path) -> None:
        with log.open("ab") as output:
            self._server = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**os.environ, "LC_ALL": "C"},  # servers refuse a locale that is not installed
                start_new_session=True,  # Ctrl-C is for the tests, which then stop the server
            )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", self.GUARD, "guard", str(self.pid), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath},
            start_new_session=True,
        )
        self._is_paused = False

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def status(self) -> int | None:
        """Returns the server's exit status, None while it runs."""
        return self._server.poll()

    def pause(self) -> None:
        if not self._is_paused:
            self._server.send_signal(signal.SIGSTOP)
            os.waitpid(self.pid, os.WUNTRACED)  # returns once the server is suspended
            self._is_paused = True

    def resume(self) -> None:
        self._server.send_signal(signal.SIGCONT)
        self._is_paused = False

    def end(self, by: signal.Signals) -> None:
        self._server.send_signal(by)
        self.resume()  # a suspended process reacts to SIGKILL only
        try:
            self._server.wait(2)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._guard.kill()
        with self._guard:  # closes its input and waits for its end
            pass
