"""The guarded connection to the servers from one event loop: time-outs and circuit breakers.

A command takes at most its time-out. If no server answers, the command opens the circuit of its
server. While the circuit is open, commands to that server fail at once. A probe in the background
asks the server after 50 ms, then with pauses of at most 500 ms, and closes the circuit when it
answers. On a cluster each primary has its own circuit.

No request waits for a probe, so a probe may wait longer than a command. If the time-out of a
command also bounded the probe, a busy event loop could never connect in time, and the circuit would
stay open although the server answers. A cache made from the URL of one server or of Sentinel
therefore probes with a client of its own. The time-outs of a client that was passed in belong to
the caller. The nodes of a cluster are probed with the client that knows them: a new client would
first have to ask the nodes of the URL, which may be down.

Idle connections are closed when a circuit opens. They may lead to a paused former primary, which
does not know that it was replaced.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from logging import getLogger
from types import ModuleType
from typing import Any, Final, TypeAlias

from sark_cache._core.errors import UnavailableError, describe
from sark_cache._core.json import type_name
from sark_cache._core.tasks import cancellation_kept, end
from sark_cache.backends.redis.permissions import Findings, named, refusal

logger: Final = getLogger("sark_cache")

RedisCommand: TypeAlias = tuple[Any, ...]

MOST_AT_ONCE = 64
"""The maximum number of commands in flight. Further commands wait, within their deadline."""
FULL_POOL_SECONDS = 0.002
"""The pause before a connection is requested again from an exhausted pool."""
FIRST_PROBE_SECONDS = 0.05
LAST_PROBE_SECONDS = 0.5
LATE_SECONDS = 0.03
"""The delay of a time-out, in seconds, above which this event loop was too busy to read the reply.

Such a time-out does not open the circuit.
"""
PROBE_SECONDS = 0.5
"""The minimum time-out, in seconds, of a connection and of a command of a probe."""
TOPOLOGY_SECONDS = 1.0
"""The maximum time, in seconds, that a probe spends on reading the topology of a cluster.

Some of the nodes that the client asks may hang.
"""

_NO_ANSWER = (
    "ConnectionError",
    "TimeoutError",
    "ClusterDownError",
    "ReadOnlyError",
    "SlotNotCoveredError",
)


class GuardedConnection:
    """A client of one event loop, with a circuit breaker for each server.

    A command that a server does not answer in time opens the circuit of that server. While it is
    open, commands fail at once, and a probe in the background asks until the server answers.
    """

    def __init__(
        self,
        client: Any,  # noqa: ANN401 - of redis-py or of valkey-py
        close: Callable[[], Awaitable[None]],
        command_timeout: float,
        report: Callable[[str, str], None],
        unusable_reason: str | None = None,
        *,
        log: str,
        examine: Callable[["GuardedConnection"], Awaitable[Findings]],
        on_findings: Callable[[Findings], None],
        replicas: int | None = None,
        connect_patiently: Callable[[], "GuardedConnection"] | None = None,
    ) -> None:
        self.log: Final = log
        """The key of the invalidation log."""
        self.replicas: Final = replicas
        """The configured number of replicas that must confirm a revocation. None: not set."""
        self._connect_patiently = connect_patiently
        """Creates the connection of one probe. None: probes use the client of this connection.

        Not used on a cluster.
        """
        self._examine = examine
        self._on_findings = on_findings
        self._is_examined = False
        self._examination: asyncio.Task[None] | None = None
        self._refusal: str | None = None
        """The reason to serve nothing although the servers answer. None: there is none."""
        self._client = client
        self._close = close
        self._unusable_reason = unusable_reason
        self.is_cluster: Final[bool] = hasattr(client, "get_primaries")
        self.command_timeout = command_timeout
        self._report = report
        self.replicas_seen: tuple[int, float] = (0, 0.0)
        """The number of replicas at the last complete count, and its `time.monotonic()`."""
        self.pending_queries: dict[str, asyncio.Task[Any]] = {}
        """Queries that are running, by key. Concurrent callers share one query."""
        self._closed = False
        self._is_client_closed = False
        self._semaphore = asyncio.Semaphore(min(MOST_AT_ONCE, _pool_size(client)))
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._answered_at: dict[str, float] = {}
        """The event loop's time of the last reply of each server."""
        errors = import_module(f"{check_client(client)}.exceptions")
        self._no_answer: Final = tuple(_known(errors, _NO_ANSWER))

    @property
    def client(self) -> Any:  # noqa: ANN401 - of redis-py or of valkey-py
        """The client.

        Raises:
            UnavailableError: The client is of another event loop, or the cache is closed.
        """
        if self._unusable_reason is not None:
            raise UnavailableError(self._unusable_reason)
        if self._closed:
            message = "this cache is closed"
            raise UnavailableError(message)
        return self._client

    def is_no_answer(self, error: object) -> bool:
        """Returns whether an error means that no primary answered. Other errors are replies.

        A server that refuses writes is no longer a primary. In a script's error, Redis 6.2 puts
        READONLY in the middle of the message, where the clients do not recognize it.
        """
        return isinstance(error, self._no_answer) or (
            isinstance(error, Exception) and "-READONLY" in str(error)
        )

    @property
    def is_unavailable(self) -> bool:
        """True if no command can be sent: the circuit of the only server is open, for example."""
        return (bool(self._probes) and not self.is_cluster) or bool(
            self._unusable_reason or self._refusal
        )

    @property
    def has_open_circuit(self) -> bool:
        """True if the circuit of any server is open."""
        return bool(self._probes)

    def is_open(self, key: str) -> bool:
        """Returns whether the circuit of the server that stores a key is open."""
        return self._refusal is not None or (
            bool(self._probes) and self._server_of(key) in self._probes
        )

    def deadline(self) -> float:
        """Returns the deadline of an operation that starts now, in the event loop's time."""
        return asyncio.get_running_loop().time() + self.command_timeout

    async def command(self, deadline: float, key: str, *command: Any) -> Any:  # noqa: ANN401
        """Sends a command about one key and returns the reply.

        Raises:
            UnavailableError: The circuit is open, no server answered in time, or the server
                refused the command.
        """
        async with self._guarded(deadline, key, str(command[0])):
            return await self.send_when_free(lambda: self.client.execute_command(*command))

    async def urgent(self, key: str, *command: Any) -> Any:  # noqa: ANN401
        """Sends a command even if the circuit is open, and returns the reply.

        Raises:
            UnavailableError: No server answered in time, or the server refused the command.
        """
        began = asyncio.get_running_loop().time()
        try:
            with cancellation_kept():
                async with asyncio.timeout(self.command_timeout):
                    return await self.send_when_free(lambda: self.client.execute_command(*command))
        except Exception as error:
            server = self._server_of(key)
            raise self._failed(error, server, key, began, str(command[0])) from error

    async def send_when_free(self, send: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401
        """Calls `send` until the pool has a free connection. The caller bounds the wait.

        Urgent commands bypass the limit of commands in flight, and can exhaust a small pool.

        A command that ends after this connection was closed closes the client again, because a
        client reconnects to send a command once more.

        Raises:
            Exception: The error that `send` raises.
        """
        try:
            while True:
                try:
                    return await send()
                except Exception as error:
                    if type(error).__name__ != "MaxConnectionsError":
                        raise
                await asyncio.sleep(FULL_POOL_SECONDS)
        finally:
            if self._is_client_closed:
                await self._close_client()

    async def commands(
        self, deadline: float, keys: Sequence[str], commands: Sequence[RedisCommand]
    ) -> list[Any]:
        """Sends one command for each key and returns the replies: one round trip to each server.

        The reply to a command that failed is an exception.
        """
        reachable = [at for at, key in enumerate(keys) if self._server_of(key) not in self._probes]
        replies: list[Any] = [UnavailableError("the circuit is open")] * len(keys)
        if not reachable:
            return replies
        try:
            answered = await self._pipelined(
                deadline, [keys[at] for at in reachable], [commands[at] for at in reachable]
            )
        except UnavailableError as error:
            answered = [error] * len(reachable)
        for at, reply in zip(reachable, answered, strict=True):
            replies[at] = reply
        return replies

    async def _pipelined(
        self, deadline: float, keys: Sequence[str], commands: Sequence[RedisCommand]
    ) -> list[Any]:
        if len(commands) == 1:
            return [await self.command(deadline, keys[0], *commands[0])]
        async with self._guarded(deadline, keys[0], str(commands[0][0])):
            replies: list[Any] = await self.send_when_free(lambda: self._send_all(commands))
        for key, reply in zip(keys, replies, strict=True):
            if self.is_no_answer(reply) and type(reply).__name__ != "MaxConnectionsError":
                self._trip(self._server_of(key), key, reply)
        return replies

    async def _send_all(self, commands: Sequence[RedisCommand]) -> Any:  # noqa: ANN401
        pipeline = (
            self.client.pipeline() if self.is_cluster else self.client.pipeline(transaction=False)
        )
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)

    async def answers(self) -> bool:
        """Asks the servers, even those of an open circuit. Returns whether all can serve now."""
        try:
            with cancellation_kept():
                async with asyncio.timeout(self.command_timeout):
                    await self._ping()
                    await self._ensure_examined()
        except Exception:  # noqa: BLE001 - any error means that the servers do not answer
            return False
        return self._refusal is None

    async def _ping(self) -> None:
        if not self.is_cluster:
            await self.client.execute_command("PING")
            return
        with cancellation_kept():
            await self.client.initialize()
        for primary in self.client.get_primaries():
            with cancellation_kept():
                await primary.execute_command("PING")

    async def close(self) -> None:
        """Cancels the background tasks and closes the client, unless it was passed in."""
        self._closed = True
        asked = [query for query in self.pending_queries.values() if not query.done()]
        if self._examination is not None and not self._examination.done():
            asked.append(self._examination)
        try:
            if asked:
                await asyncio.wait(asked, timeout=self.command_timeout)
        finally:  # even if the wait is cancelled
            try:
                await end([*asked, *self._probes.values()], "probes")
            finally:
                await self._close_client()

    async def _close_client(self) -> None:
        """Closes the client, unless it was passed in. A cancellation is raised after that."""

        async def close() -> None:
            self._is_client_closed = True
            # The client is not used any more, whatever it raises.
            with suppress(Exception), cancellation_kept():
                async with asyncio.timeout(self.command_timeout):
                    await self._close()

        closing = asyncio.create_task(close(), name="sark-cache closing")
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await asyncio.wait([closing])
            raise

    @asynccontextmanager
    async def _guarded(self, deadline: float, key: str, name: str) -> AsyncGenerator[None]:
        server = self._server_of(key)
        self._check_circuit(server)
        began: float | None = None
        try:
            async with asyncio.timeout_at(deadline), self._semaphore:
                began = asyncio.get_running_loop().time()
                if not self._is_examined:
                    await self._ensure_examined()
                    self._check_circuit(server)
                with cancellation_kept():
                    yield
            self._answered_at[server] = asyncio.get_running_loop().time()
        except Exception as error:
            raise self._failed(error, server, key, began, name) from error

    def _check_circuit(self, server: str) -> None:
        """Checks that a server may be asked.

        Raises:
            UnavailableError: Its circuit is open, or the servers refuse a needed command.
        """
        if self._refusal is not None:
            raise UnavailableError(self._refusal)
        if server in self._probes:
            message = "the circuit is open"
            raise UnavailableError(message)

    async def _ensure_examined(self) -> None:
        """Waits until the servers are examined. Concurrent requests share one examination.

        Raises:
            Exception: An error of the client.
        """
        if self._is_examined:
            return
        if self._examination is None or self._examination.done():
            self._examination = asyncio.create_task(
                self._examine_servers(), name="sark-cache examination"
            )
            self._examination.add_done_callback(mark_retrieved)
        await asyncio.shield(self._examination)

    async def _examine_servers(self) -> None:
        """Examines whether stored decisions can be revoked. If not, nothing is served."""
        self._judge(await self._examine(self))

    def _judge(self, findings: Findings) -> None:
        """Decides from the findings whether decisions may be served. If not, opens the circuit."""
        self._on_findings(findings)
        needed = findings.needed(is_cluster=self.is_cluster)
        self._is_examined = True
        if not needed:
            self._refusal = None
            return
        refused = ", ".join(f"{name} ({said})" for name, said in sorted(needed.items()))
        self._refusal = f"the server refuses {refused}: stored decisions could not be revoked"
        self._trip("", self.log, UnavailableError(self._refusal))

    def suspect(self) -> None:
        """Makes the next request examine the servers again, because one refused a command."""
        self._is_examined = False

    def _failed(
        self, error: Exception, server: str, key: str, began: float | None, name: str
    ) -> UnavailableError:
        """Converts a failed command's error, and opens the circuit if the server caused it.

        The server did not cause a time-out if it answered another command in that time, if the
        command was never sent or had less than half of its time left when it was sent, or if this
        event loop was too busy to read the reply.
        """
        if isinstance(error, UnavailableError):
            return error
        if (said := refusal(error)) is not None:
            self.suspect()
            return UnavailableError(f"the server refuses {named(error, name)} ({said})")
        if (
            began is not None
            and self.is_no_answer(error)
            and self._is_of_server(error, server, began)
        ):
            self._trip(server, key, error)
        return UnavailableError(describe(error))

    def _is_of_server(self, error: Exception, server: str, began: float) -> bool:
        kind = type(error).__name__
        if kind != "TimeoutError":
            return kind != "MaxConnectionsError"
        took = asyncio.get_running_loop().time() - began
        return (
            self.command_timeout / 2 <= took <= self.command_timeout + LATE_SECONDS
            and self._answered_at.get(server, 0.0) <= began
        )

    def _server_of(self, key: str) -> str:
        if not self.is_cluster:
            return ""
        with suppress(Exception):  # the topology is unknown, or no node owns the slot now
            node = self.client.get_node_from_key(key)
            return str(node.name) if node else ""
        return ""

    def _trip(self, server: str, key: str, error: Exception) -> None:
        self._answered_at.pop(server, None)  # it may be a node that left the cluster
        if server in self._probes or self._closed:
            return
        self._probes[server] = asyncio.get_running_loop().create_task(
            self._probe(server, key), name="sark-cache probe"
        )
        self._report("connection", f"{describe(error)}; misses until the server answers again")

    async def _probe(self, server: str, key: str) -> None:
        try:
            delay = FIRST_PROBE_SECONDS
            while not self._closed:
                with suppress(Exception):
                    # Repeated, because other connections may have become idle since the last time.
                    await self.drop_idle_connections(server)
                await asyncio.sleep(delay)
                delay = min(2 * delay, LAST_PROBE_SECONDS)
                with suppress(Exception):
                    await self._check_server(key)
                    logger.info("redis cache: the server answers again")
                    return
        finally:
            self._probes.pop(server, None)

    async def _check_server(self, key: str) -> None:
        """Checks that the server that stores a key answers and can serve.

        Raises:
            Exception: An error of the client, a time-out, or a refused command.
        """
        if self.is_cluster:  # another server may own the key now
            with cancellation_kept():
                async with asyncio.timeout(TOPOLOGY_SECONDS):
                    await self.client.nodes_manager.initialize()
        if self.is_cluster or self._connect_patiently is None:
            findings = await self.ask_and_examine(key)
        else:
            patient = self._connect_patiently()
            try:
                findings = await patient.ask_and_examine(key)
            finally:
                await patient.close()
        self._judge(findings)
        if self._refusal is not None:
            raise UnavailableError(self._refusal)

    async def ask_and_examine(self, key: str) -> Findings:
        """Asks the server that stores a key, and returns the findings about all servers.

        Raises:
            Exception: An error of the client, or a time-out.
        """
        with cancellation_kept():
            async with asyncio.timeout(self.command_timeout):
                await self.client.execute_command("PTTL", key)
        return await self._examine(self)

    async def drop_idle_connections(self, server: str = "") -> None:
        """Closes idle connections, so that the next command connects to the current primary.

        On a cluster, closes only the idle connections to the node named `server`.

        Raises:
            Exception: An error of the client, or a time-out.
        """
        with cancellation_kept():
            async with asyncio.timeout(self.command_timeout):
                if not self.is_cluster:
                    await self.client.connection_pool.disconnect(inuse_connections=False)
                elif server and (node := self.client.get_node(node_name=server)) is not None:
                    await node.disconnect()


def mark_retrieved(task: asyncio.Task[Any]) -> None:
    """Retrieves a task's error, so that asyncio does not log it. Every waiter gets the error."""
    if not task.cancelled():
        task.exception()


def library_of(client: object) -> str | None:
    """Returns the package of an asyncio client, `redis` or `valkey`. None: any other object."""
    for kind in type(client).__mro__:
        package, _, rest = kind.__module__.partition(".")
        if package in {"redis", "valkey"} and rest.startswith("asyncio"):
            return package
    return None


def check_client(client: object) -> str:
    """Returns the package of an asyncio client, `redis` or `valkey`.

    Raises:
        TypeError: The object is not such a client. The message says what to pass.
    """
    library = library_of(client)
    # A pipeline is a subclass of the client, but queues commands instead of sending them.
    if library is not None and hasattr(client, "pipeline") and not hasattr(client, "command_stack"):
        return library
    if hasattr(client, "connection_class") and hasattr(client, "connection_kwargs"):
        message = (
            f"redis_client is a connection pool ({type_name(client)}): pass a client that uses it, "
            "redis.asyncio.Redis(connection_pool=pool) or valkey.asyncio.Valkey(...) for valkey-py"
        )
        raise TypeError(message)
    message = (
        "redis_client must be a URL or a client of redis.asyncio or valkey.asyncio, not "
        f"{type_name(client)}: pass redis.asyncio.Redis.from_url(url), for example"
    )
    raise TypeError(message)


def _pool_size(client: Any) -> int:  # noqa: ANN401
    """Returns the maximum number of connections of a client to one server."""
    pool = getattr(client, "connection_pool", None)
    size = getattr(pool, "max_connections", None)
    return size if isinstance(size, int) and size > 0 else MOST_AT_ONCE


def _known(errors: ModuleType, names: Sequence[str]) -> list[type[Exception]]:
    on_findings = [getattr(errors, name) for name in names if hasattr(errors, name)]
    return [*on_findings, OSError, TimeoutError]
