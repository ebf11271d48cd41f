"""The way to the servers from one event loop: bounded in time, and cut while they do not answer.

A command takes at most its time-out. One that fails because nobody answers opens the circuit of
the server it went to: nothing goes there any more, and so nothing is waited for, until a probe in
the background finds that it answers again (looked for after 50 ms, then at least every 500). On a
cluster each primary has a circuit of its own.

Connections that were idle are dropped when a circuit opens: the server they lead to may be the one
that was the primary before, paused and unaware that it no longer is.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from logging import getLogger
from types import ModuleType
from typing import Any, Final, TypeAlias

from sark_cache._core.json import type_name
from sark_cache._core.tasks import cancellation_kept, end
from sark_cache.backends.redis.permissions import Findings, named, refusal

logger: Final = getLogger("sark_cache")

Command: TypeAlias = tuple[Any, ...]

MOST_AT_ONCE = 64
"""The most commands that are on their way at once; others wait their turn, within their time."""
FULL_POOL_SECONDS = 0.002
"""The pause before a pool whose connections are all in use is asked again."""
FIRST_PROBE_SECONDS = 0.05
LAST_PROBE_SECONDS = 0.5
LATE_SECONDS = 0.03
"""How much later than it was to end a time-out is taken for this event loop's own fault."""
TOPOLOGY_SECONDS = 1.0
"""The longest that a probe asks a cluster who owns what: some of those it asks may hang."""

_NOBODY_ANSWERS = (
    "ConnectionError",
    "TimeoutError",
    "ClusterDownError",
    "ReadOnlyError",
    "SlotNotCoveredError",
)


_CODES = (
    *("OOM", "WRONGPASS", "NOAUTH", "NOPERM", "READONLY", "LOADING", "MISCONF", "NOREPLICAS"),
    *("CLUSTERDOWN", "MOVED", "TRYAGAIN", "CROSSSLOT", "MASTERDOWN", "BUSY"),
)
"""What a server says is wrong; the rest of its message may name keys."""
_NAMED = {"OutOfMemoryError": "OOM", "ReadOnlyError": "READONLY", "BusyLoadingError": "LOADING"}
"""Errors whose code the clients take off their message."""


class UnavailableError(Exception):
    """A command was not answered; says by what kind of error, and never what it was about."""


class GuardedConnection:
    """A client of one event loop, and what is known of the servers behind it."""

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
    ) -> None:
        self.log: Final = log
        """The key of the invalidation log."""
        self.replicas: Final = replicas
        """How many replicas have to confirm a revocation at least; None: nobody said."""
        self._examine = examine
        self._on_findings = on_findings
        self._is_examined = False
        self._examination: asyncio.Task[None] | None = None
        self._refusal: str | None = None
        """Why nothing may be served though the servers answer."""
        self._client = client
        self._close = close
        self._unusable_reason = unusable_reason
        self.is_cluster: Final[bool] = hasattr(client, "get_primaries")
        self.command_timeout = command_timeout
        self._report = report
        self.replicas_seen: tuple[int, float] = (0, 0.0)
        """How many replicas the server had when it was last well, and when that was."""
        self.pending_queries: dict[str, asyncio.Task[Any]] = {}
        """What is being asked for all who want to know it."""
        self._closed = False
        self._is_client_closed = False
        self._semaphore = asyncio.Semaphore(min(MOST_AT_ONCE, _pool_size(client)))
        self._probes: dict[str, asyncio.Task[None]] = {}
        errors = import_module(f"{check_client(client)}.exceptions")
        self._no_answer: Final = tuple(_known(errors, _NOBODY_ANSWERS))

    @property
    def client(self) -> Any:  # noqa: ANN401 - of redis-py or of valkey-py
        """The client.

        Raises:
            UnavailableError: It may not be used from this event loop.
        """
        if self._unusable_reason is not None:
            raise UnavailableError(self._unusable_reason)
        if self._closed:
            message = "this cache is closed"
            raise UnavailableError(message)
        return self._client

    def is_no_answer(self, error: object) -> bool:
        """Whether an error says that nobody answers who may; what else is raised, a server said.

        A server that may not be written to is no primary any more. Of a script Redis 6.2 says that
        in the middle of a message that the clients take for any error.
        """
        return isinstance(error, self._no_answer) or (
            isinstance(error, Exception) and "-READONLY" in str(error)
        )

    @property
    def is_unavailable(self) -> bool:
        """Whether nobody can be asked: there is but one server, and its circuit is open."""
        return (bool(self._probes) and not self.is_cluster) or bool(
            self._unusable_reason or self._refusal
        )

    @property
    def has_open_circuit(self) -> bool:
        """Whether a server is not asked because it failed."""
        return bool(self._probes)

    def is_open(self, key: str) -> bool:
        """Whether the circuit of the server that keeps a key is open."""
        return self._refusal is not None or (
            bool(self._probes) and self._server_of(key) in self._probes
        )

    def deadline(self) -> float:
        """When what begins now must have been answered, in the event loop's time."""
        return asyncio.get_running_loop().time() + self.command_timeout

    async def command(self, deadline: float, key: str, *command: Any) -> Any:  # noqa: ANN401
        """The reply to a command about one key.

        Raises:
            UnavailableError: There is none: the circuit is open, nobody answered in time, or the
                server refused the command.
        """
        async with self._guarded(deadline, key, str(command[0])):
            return await self.send_when_free(lambda: self.client.execute_command(*command))

    async def urgent(self, key: str, *command: Any) -> Any:  # noqa: ANN401
        """The reply to a command that is sent even if the circuit is open.

        Raises:
            UnavailableError: There is none.
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
        """Sends, as soon as the pool has a free connection; the caller bounds the wait.

        A pool of few connections may be in use by commands that do not wait for their turn.

        A command that ends after this connection was closed closes the client again, because a
        client connects anew to send a command once more.

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
        self, deadline: float, keys: Sequence[str], commands: Sequence[Command]
    ) -> list[Any]:
        """The replies to commands about a key each, in one round trip to every server.

        What was not answered or refused is an exception in its place.
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
        self, deadline: float, keys: Sequence[str], commands: Sequence[Command]
    ) -> list[Any]:
        if len(commands) == 1:
            return [await self.command(deadline, keys[0], *commands[0])]
        async with self._guarded(deadline, keys[0], str(commands[0][0])):
            replies: list[Any] = await self.send_when_free(lambda: self._send_all(commands))
        for key, reply in zip(keys, replies, strict=True):
            if self.is_no_answer(reply) and type(reply).__name__ != "MaxConnectionsError":
                self._trip(self._server_of(key), key, reply)
        return replies

    async def _send_all(self, commands: Sequence[Command]) -> Any:  # noqa: ANN401
        pipeline = (
            self.client.pipeline() if self.is_cluster else self.client.pipeline(transaction=False)
        )
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)

    async def answers(self) -> bool:
        """Whether the servers answer now, whatever was known."""
        try:
            with cancellation_kept():
                async with asyncio.timeout(self.command_timeout):
                    await self._ping()
                    await self._ensure_examined()
        except Exception:  # noqa: BLE001 - whatever it is, it is no answer
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
        """Ends what looks for the servers in the background, and closes a client made here."""
        self._closed = True
        asked = [query for query in self.pending_queries.values() if not query.done()]
        if self._examination is not None and not self._examination.done():
            asked.append(self._examination)
        try:
            if asked:
                await asyncio.wait(asked, timeout=self.command_timeout)
        finally:  # even if that is cancelled
            try:
                await end([*asked, *self._probes.values()], "probes")
            finally:
                await self._close_client()

    async def _close_client(self) -> None:
        """Closes a client made here. If that is cancelled, its connections are closed before."""

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
        except Exception as error:
            raise self._failed(error, server, key, began, name) from error

    def _check_circuit(self, server: str) -> None:
        """Refuses a command that would be of no use.

        Raises:
            UnavailableError: The circuit of its server is open, or nothing may be served.
        """
        if self._refusal is not None:
            raise UnavailableError(self._refusal)
        if server in self._probes:
            message = "the circuit is open"
            raise UnavailableError(message)

    async def _ensure_examined(self) -> None:
        """Returns when the servers were examined: once for all requests that wait for it.

        Raises:
            Exception: What the client raises.
        """
        if self._is_examined:
            return
        if self._examination is None or self._examination.done():
            self._examination = asyncio.create_task(
                self._examine_servers(), name="sark-cache examination"
            )
            self._examination.add_done_callback(_mark_retrieved)
        await asyncio.shield(self._examination)

    async def _examine_servers(self) -> None:
        """Finds out whether what is stored could be revoked; if not, nothing is served."""
        findings = await self._examine(self)
        self._on_findings(findings)
        needed = findings.needed(is_cluster=self.is_cluster)
        self._is_examined = True
        if not needed:
            self._refusal = None
            return
        refused = ", ".join(f"{name} ({said})" for name, said in sorted(needed.items()))
        self._refusal = f"the server refuses {refused}: what is stored could not be revoked"
        self._trip("", self.log, UnavailableError(self._refusal))

    def suspect(self) -> None:
        """Has the servers examined again before the next request: one refused a command."""
        self._is_examined = False

    def _failed(
        self, error: Exception, server: str, key: str, began: float | None, name: str
    ) -> UnavailableError:
        """What a failed command is told as; opens the circuit if the server is to blame.

        It is not where the command still waited for its turn, had little of its time left then, or
        where this event loop was too busy to look at the answer.
        """
        if isinstance(error, UnavailableError):
            return error
        if (said := refusal(error)) is not None:
            self.suspect()
            return UnavailableError(f"the server refuses {named(error, name)} ({said})")
        if self.is_no_answer(error) and type(error).__name__ != "MaxConnectionsError":
            took = 0.0 if began is None else asyncio.get_running_loop().time() - began
            waited = type(error).__name__ != "TimeoutError" or (
                self.command_timeout / 2 <= took <= self.command_timeout + LATE_SECONDS
            )
            if began is not None and waited:
                self._trip(server, key, error)
        return UnavailableError(describe(error))

    def _server_of(self, key: str) -> str:
        if not self.is_cluster:
            return ""
        with suppress(Exception):  # not known yet, or nobody's at the moment
            node = self.client.get_node_from_key(key)
            return str(node.name) if node else ""
        return ""

    def _trip(self, server: str, key: str, error: Exception) -> None:
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
                    # Each time: a connection to the same server may have become idle since.
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
        """Returns if the server that keeps a key answers now.

        Raises:
            Exception: What the client raises, or that it takes too long.
        """
        if self.is_cluster:  # another server may own the key by now
            with cancellation_kept():
                async with asyncio.timeout(TOPOLOGY_SECONDS):
                    await self.client.nodes_manager.initialize()
        with cancellation_kept():
            async with asyncio.timeout(self.command_timeout):
                await self.client.execute_command("PTTL", key)
        await self._examine_servers()
        if self._refusal is not None:
            raise UnavailableError(self._refusal)

    async def drop_idle_connections(self, server: str = "") -> None:
        """Has the next command find out anew who the primary is; on a cluster, who `server` is.

        Raises:
            Exception: What the client raises, or that it takes too long.
        """
        with cancellation_kept():
            async with asyncio.timeout(self.command_timeout):
                if not self.is_cluster:
                    await self.client.connection_pool.disconnect(inuse_connections=False)
                elif server and (node := self.client.get_node(node_name=server)) is not None:
                    await node.disconnect()


def _mark_retrieved(task: asyncio.Task[Any]) -> None:
    """Keeps asyncio from logging an error that every waiter is raised."""
    if not task.cancelled():
        task.exception()


def describe(error: BaseException) -> str:
    """An error as it may be logged: its kind, and the code the server gave it; no keys."""
    if isinstance(error, UnavailableError):
        return str(error)
    kind = type(error).__name__
    if kind == "TimeoutError":  # Python's, or the client's
        return "no answer in time"
    said = f"{_NAMED.get(kind, '')} {error}"
    code = next((code for code in _CODES if code in said), None)
    return f"{kind} ({code})" if code else kind


def library_of(client: object) -> str | None:
    """`redis` or `valkey`: the package of an asyncio client; None if it is neither's."""
    for kind in type(client).__mro__:
        package, _, rest = kind.__module__.partition(".")
        if package in {"redis", "valkey"} and rest.startswith("asyncio"):
            return package
    return None


def check_client(client: object) -> str:
    """The package of an asyncio client.

    Raises:
        TypeError: It is not an asyncio client of either; the message says what to pass.
    """
    library = library_of(client)
    # A pipeline is a client by its class, but queues what it is asked.
    if library is not None and hasattr(client, "pipeline") and not hasattr(client, "command_stack"):
        return library
    if hasattr(client, "connection_class") and hasattr(client, "connection_kwargs"):
        message = (
            f"redis_client is a connection pool ({type_name(client)}): pass a client that uses it, "
            "redis.asyncio.Redis(connection_pool=pool), or valkey.asyncio.Valkey for one of valkey"
        )
        raise TypeError(message)
    message = (
        "redis_client must be a URL or a client of redis.asyncio or valkey.asyncio, not "
        f"{type_name(client)}: pass redis.asyncio.Redis.from_url(url), for example"
    )
    raise TypeError(message)


def _pool_size(client: Any) -> int:  # noqa: ANN401
    """How many connections a client may have at once, to one server."""
    pool = getattr(client, "connection_pool", None)
    size = getattr(pool, "max_connections", None)
    return size if isinstance(size, int) and size > 0 else MOST_AT_ONCE


def _known(errors: ModuleType, names: Sequence[str]) -> list[type[Exception]]:
    on_findings = [getattr(errors, name) for name in names if hasattr(errors, name)]
    return [*on_findings, OSError, TimeoutError]
