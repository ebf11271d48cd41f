"""What concerns all keys or several servers: walks, and whether a revocation is certain.

There is no index of what a revocation may match, so all keys are walked: SCAN on every primary,
some at a time. That it is complete is certain only if the servers stayed the same from its
beginning to its end: a primary that was replaced goes on with another's cursor, or forgets what it
was told, and a slot of a cluster that moves takes its keys past the walk. Nor is anything certain
that a replica has not got yet, which may be the primary a moment later. What is not certain is
tried again, then told.

A server that never says that a walk is over must not keep a revocation for ever: one whose cursor
comes back, or that takes far more steps than there are keys, is not certain either.

Keys may be long, and the way to the server slow, so the steps of a walk are as long as the last
ones allow: each has the time of a command, and a walk takes as long as the server answers.

A server that refuses INFO does not say which run of which server it is. There the whole revocation
uses one connection: as long as that holds, the same server answers. One that refuses ROLE and INFO
does not say how many replicas it has: there the primary confirms, and as many replicas as the
configuration names.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, TypeAlias

from sark_cache._core.tasks import cancellation_kept
from sark_cache.backends.redis import replies
from sark_cache.backends.redis.connection import (
    Command,
    GuardedConnection,
    UnavailableError,
    check_client,
)
from sark_cache.backends.redis.permissions import named, refusal
from sark_cache.backends.redis.replies import Page

KEYS_AT_ONCE = 1_000
FIRST_KEYS = 50
STEP_BYTES = 128 * 1024
"""The size of a reply or command that the next step should not exceed."""
STEP_SHARE = 0.1
"""The share of a command's time that the next step should not exceed."""
SCAN_KEYS = 1_000_000
"""The keys that the steps of a walk may ask for, before the server is asked how many there are."""
SCAN_SHARE = 16
"""How many times as many keys as there are the steps of a walk may ask for.

A table that has shrunk has more places than keys, at most 32 times as many while the server saves.
A step looks at ten places for each key that it asks for.
"""
MAX_SCAN_KEYS = 2**32
"""The keys that the steps of any walk may ask for: more than a server holds."""
SLOTS = 16_384
ATTEMPTS = 3
PAUSE_SECONDS = 0.1
"""Before another attempt."""
REPLICA_SECONDS = 60.0
"""How long a replica that was seen is waited for, where there is no Sentinel that knows better."""

Visit: TypeAlias = Callable[["Primary", list[str]], Awaitable[int]]


class UnconfirmedError(Exception):
    """A revocation that is not certain; says why."""


class RefusedError(UnconfirmedError):
    """A revocation that the server does not carry out for this user; names the command."""


class Pace:
    """The number of keys that one step takes: adapted to the bytes and time of the last ones.

    Args:
        seconds: The time that a step should not exceed.
    """

    def __init__(self, seconds: float) -> None:
        self.keys: int = FIRST_KEYS
        self._seconds: Final = seconds

    def took(self, size: int, seconds: float) -> None:
        """Adapts to a step that was answered."""
        share = max(size / STEP_BYTES, seconds / self._seconds)
        if share > 1:
            self.keys = max(1, int(self.keys / min(share, 8)))
        elif share < 0.5:  # noqa: PLR2004 - twice as many should still do
            self.keys = min(KEYS_AT_ONCE, 2 * self.keys)

    def failed(self) -> bool:
        """Adapts to a step that was not answered in time; False: a shorter one is not possible."""
        could_be_shorter = self.keys > 1
        self.keys = max(1, self.keys // 8)
        return could_be_shorter


class Primary:
    """One server that keeps keys of its own.

    Args:
        connection: The way to it.
        node: Which node of a cluster it is; None: there is no cluster.
    """

    def __init__(self, connection: GuardedConnection, node: Any = None) -> None:  # noqa: ANN401 - of either library
        self._connection = connection
        self._node = node
        self._held: Any = None
        """The connection that all commands use; None: any of the pool."""
        self.pace: Final = Pace(STEP_SHARE * connection.command_timeout)

    async def run(self, *commands: Command, waits: float = 0.0, raises: bool = True) -> list[Any]:
        """The replies to commands, in one round trip over one connection.

        Args:
            commands: The commands.
            waits: How long the server may take over them on purpose, in seconds.
            raises: If False, an error that the server replies stands in the place of its reply.

        Raises:
            RefusedError: The server refuses one of them.
            Exception: What the client raises.
        """
        with cancellation_kept():
            async with asyncio.timeout_at(self._connection.deadline() + waits):
                answers: list[Any] = await self._connection.send_when_free(
                    lambda: self._send(commands)
                )
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, Exception) and (raises or self._connection.is_no_answer(answer)):
                raise self._refused(command, answer) or answer
        return answers

    def _refused(self, command: Command, error: Exception) -> RefusedError | None:
        said = refusal(error)
        if said is None:
            return None
        self._connection.suspect()
        return RefusedError(f"the server refuses {named(error, str(command[0]))} ({said})")

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        if self._held is not None:
            return await self._send_over(self._held, commands)
        if self._node is None:
            pipeline = self._connection.client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            sent: list[Any] = await pipeline.execute(raise_on_error=False)
            return sent
        answers = await self._send_to_node(commands)
        if any(self._connection.is_no_answer(answer) for answer in answers):
            # A connection that the server closed while it was idle is made again, once.
            answers = await self._send_to_node(commands)
        return answers

    async def _send_over(self, raw: Any, commands: Sequence[Command]) -> list[Any]:  # noqa: ANN401
        if not raw.is_connected:  # it would connect again, maybe to another server
            message = "the connection was lost, and the server does not say whether it is the same"
            raise UnconfirmedError(message)
        try:
            packed = raw.pack_commands(commands)
            await raw.send_packed_command(packed, check_health=False)
            return [await self._read(raw) for _ in commands]
        except BaseException:
            # A reply that nobody read must not be taken for an answer.
            await raw.disconnect(nowait=True)
            raise

    @staticmethod
    async def _read(raw: Any) -> Any:  # noqa: ANN401
        """A reply, or the error of a command that is refused."""
        try:
            return await raw.read_response()
        except Exception as error:
            if refusal(error) is None:
                raise
            return error

    async def _send_to_node(self, commands: Sequence[Command]) -> list[Any]:
        """Past the client's own pipeline, which would follow a key to wherever it has moved."""
        pipelined = import_module(f"{check_client(self._connection.client)}.asyncio.cluster")
        sent = [pipelined.PipelineCommand(at, *command) for at, command in enumerate(commands)]
        await self._node.execute_pipeline(sent)
        return [command.result for command in sent]

    async def hold(self) -> int:
        """Uses one connection from here on, until `release`; returns its number."""
        if self._held is None:
            pool = self._connection.client.connection_pool
            # valkey-py wants the name of a command, which redis-py deprecates.
            names = ("_",) if check_client(self._connection.client) == "valkey" else ()
            with cancellation_kept():
                async with asyncio.timeout_at(self._connection.deadline()):
                    self._held = await self._connection.send_when_free(
                        lambda: pool.get_connection(*names)
                    )
        return id(self._held)

    async def release(self) -> None:
        """Gives a connection back that was held."""
        held, self._held = self._held, None
        if held is not None:
            await self._connection.client.connection_pool.release(held)

    @property
    def takes_many_keys(self) -> bool:
        """Whether one command may have keys of several slots."""
        return self._node is None

    async def state(self) -> tuple[Any, int | None]:
        """Which run of which server this is, and how many replicas are connected to it.

        Without INFO the run is that of a connection, which is held from here on. None: the server
        does not say how many replicas there are.

        Raises:
            UnconfirmedError: It is no primary.
        """
        info, role = await self.run(("INFO", "server"), ("ROLE",), raises=False)
        if not isinstance(role, Exception):
            is_primary, replicas = text(role[0]) == "master", len(role[2])
        elif not isinstance(info, Exception) and refusal(role) == "NOPERM":
            [replication] = await self.run(("INFO", "replication"))
            is_primary, replicas = (
                replication["role"] == "master",
                int(replication["connected_slaves"]),
            )
        else:
            is_primary, replicas = await self._takes_writes(), None
        if not is_primary:
            with suppress(Exception):  # connections to it, which would be asked again and again
                await self._connection.drop_idle_connections()
            message = "the server is not the primary any more"
            raise UnconfirmedError(message)
        if not isinstance(info, Exception):
            return str(info["run_id"]), replicas
        if self._node is not None:
            raise self._refused(("INFO",), info) or info
        return await self.hold(), replicas

    async def _takes_writes(self) -> bool:
        """Whether it is a primary, where it does not say so: a replica refuses to write."""
        try:
            await self.run(("UNLINK", f"{self._connection.log}.check"))
        except Exception as error:
            if "READONLY" in str(error) or type(error).__name__ == "ReadOnlyError":
                return False
            raise
        return True

    async def slots(self) -> tuple[str, ...]:
        """The ranges of slots that a node of a cluster owns, by its own account.

        Raises:
            UnconfirmedError: One of them is being moved, or this is a replica.
        """
        [nodes] = await self.run(("CLUSTER", "NODES"))
        for line in text(nodes).splitlines():
            _, _, flags, *rest = line.split()
            if "myself" not in flags:
                continue
            ranges = tuple(rest[5:])
            if "master" not in flags:
                break
            if any(one.startswith("[") for one in ranges):
                message = "a slot of the cluster is being moved"
                raise UnconfirmedError(message)
            return ranges
        message = "a server of the cluster is not a primary any more"
        raise UnconfirmedError(message)

    async def scan_all(self, pattern: str, visit: Visit) -> int:
        """Visits every key that matches and was there all the time; the sum of what that says.

        Raises:
            UnconfirmedError: Another server answered in the middle of it, or it does not end.
            UnavailableError: A reply cannot be read.
        """
        total, cursor, first = 0, 0, None
        asked, most = 0, SCAN_KEYS
        # Brent's algorithm: a circle of cursors comes back to the one that is remembered.
        remembered, steps, next_remembered = -1, 0, 1
        while True:
            count, run, page = await self._scan_step(cursor, pattern)
            if run != (first := first or run):
                message = "another server has become the primary"
                raise UnconfirmedError(message)
            if page.keys:
                total += await visit(self, page.keys)
            cursor = page.cursor
            if cursor == 0:
                return total
            if cursor == remembered:
                message = "the walk over the keys does not get on"
                raise UnconfirmedError(message)
            steps += 1
            if steps == next_remembered:
                remembered, next_remembered = cursor, 2 * steps
            asked += count
            if asked > most and asked > (most := await self._max_scan_keys()):
                message = "the walk over the keys does not end"
                raise UnconfirmedError(message)

    async def _max_scan_keys(self) -> int:
        """How many keys the steps of a walk may ask for, by how many the server has."""
        if self._held is not None:  # it refuses INFO
            return MAX_SCAN_KEYS
        [info] = await self.run(("INFO", "keyspace"))
        wanted = max(SCAN_KEYS, SCAN_SHARE * replies.read(replies.keys_in_all, info))
        return min(wanted, MAX_SCAN_KEYS)

    async def _scan_step(self, cursor: int, pattern: str) -> tuple[int, str, Page]:
        """One step of a walk, as long as the pace allows.

        Returns:
            For how many keys it asked, which run of a server took it, and what that says.
        """
        while True:
            count = self.pace.keys
            scan = ("SCAN", cursor, "MATCH", pattern, "COUNT", count)
            commands = (scan,) if self._held is not None else (("INFO", "server"), scan)
            began = time.monotonic()
            try:
                *info, reply = await self.run(*commands)
            except replies.MISSHAPEN:  # clients read replies to SCAN and INFO, too
                raise UnavailableError(replies.UNREADABLE) from None
            except Exception as error:
                if self._held is not None or not self._is_late(error) or not self.pace.failed():
                    raise
                continue  # the cursor is good for steps of any length
            page = replies.read(replies.page, reply)
            self.pace.took(sum(map(len, page.keys)), time.monotonic() - began)
            return count, replies.read(replies.run_id, info[0]) if info else "held", page

    async def in_parts(
        self, keys: Sequence[str], visit: Callable[[Sequence[str]], Awaitable[int]]
    ) -> int:
        """The sum of what `visit` says of keys, in parts as long as the pace allows.

        A part that was not answered in time is visited again, in shorter ones: what it had done by
        then is not counted.

        Raises:
            Exception: What `visit` raises.
        """
        total, at = 0, 0
        pace = Pace(STEP_SHARE * self._connection.command_timeout)
        while at < len(keys):
            part = keys[at : at + pace.keys]
            began = time.monotonic()
            try:
                total += await visit(part)
            except Exception as error:
                if self._held is not None or not self._is_late(error) or not pace.failed():
                    raise
                continue
            pace.took(sum(map(len, part)), time.monotonic() - began)
            at += len(part)
        return total

    @staticmethod
    def _is_late(error: Exception) -> bool:
        """Whether an error says that there was no answer in time, from Python or the client."""
        return type(error).__name__ == "TimeoutError"

    async def replicated(self, replicas: int) -> None:
        """Returns when so many replicas have all that was written until now.

        Raises:
            UnconfirmedError: Some have not, in time.
        """
        # Less than the client itself may wait for a reply.
        waits = 0.8 * self._connection.command_timeout
        # WAIT waits for what was written before the last command of its connection, by anybody.
        _, reached = await self.run(
            ("SCAN", 0, "COUNT", 1), ("WAIT", replicas, max(1, int(1e3 * waits))), waits=waits
        )
        reached = replies.read(replies.count, reached)
        if reached < replicas:
            message = f"{replicas - reached} of {replicas} replicas have not confirmed it"
            raise UnconfirmedError(message)


@dataclass(frozen=True, slots=True)
class Servers:
    """The primaries at one moment."""

    primaries: tuple[Primary, ...]
    known: tuple[tuple[Any, ...], ...]
    """For each: which run of which server it is, and which slots are its own."""
    replicas: tuple[int, ...]
    """For each: how many replicas have to have what is written to it."""


async def scan_all(servers: Servers, pattern: str, visit: Visit) -> int:
    """Visits every key that matches and was there all the time, on every primary.

    Raises:
        UnconfirmedError: Another server answered in the middle of it.
        Exception: What the client raises.
    """
    scans = (primary.scan_all(pattern, visit) for primary in servers.primaries)
    return sum(await asyncio.gather(*scans))


async def retry_until_confirmed(
    connection: GuardedConnection, revoke: Callable[[Servers], Awaitable[int]]
) -> int:
    """Revokes, until it is certain; the sum of what `revoke` says.

    Raises:
        UnconfirmedError: It is not certain: the servers change, or replicas have not got it.
        Exception: What the client raises.
    """
    total = 0
    for attempt in range(ATTEMPTS):
        held: list[Primary] = []
        try:
            before = await current_servers(connection, held)
            total += await revoke(before)
            for primary, replicas in zip(before.primaries, before.replicas, strict=True):
                if replicas:
                    await primary.replicated(replicas)
            if (await current_servers(connection, held)).known == before.known:
                return total
        except RefusedError:
            raise
        except Exception as error:
            again = isinstance(error, UnconfirmedError) or connection.is_no_answer(error)
            if not again or attempt == ATTEMPTS - 1:
                raise
        finally:
            for primary in held:
                await primary.release()
        await asyncio.sleep(PAUSE_SECONDS)
    message = "the servers changed meanwhile"
    raise UnconfirmedError(message)


async def current_servers(connection: GuardedConnection, held: list[Primary]) -> Servers:
    """The primaries, by their own account.

    Args:
        connection: The way to them.
        held: The primary that was found before, if it has no more than a connection to be known
            by; it is added here. The caller releases it.

    Raises:
        UnconfirmedError: They are changing: a slot is being moved, a part of a cluster is down, or
            a replica is gone, which may be the primary by now.
    """
    if not connection.is_cluster:
        return await _one_server(connection, held)
    with cancellation_kept():
        async with asyncio.timeout_at(connection.deadline()):
            await connection.client.initialize()
            await connection.client.nodes_manager.initialize()
    nodes = sorted(connection.client.get_primaries(), key=lambda node: str(node.name))
    primaries: list[Primary] = []
    known: list[tuple[Any, ...]] = []
    replicas: list[int] = []
    for node in nodes:
        primary = Primary(connection, node)
        slots = await primary.slots()
        if slots:
            run, connected = await primary.state()
            primaries.append(primary)
            known.append((run, slots))
            replicas.append(_required_replicas(connection, connected, 0))
    if sum(_slot_count(one) for _, slots in known for one in slots) != SLOTS:
        message = "a part of the cluster is down"
        raise UnconfirmedError(message)
    return Servers(tuple(primaries), tuple(known), tuple(replicas))


async def _one_server(connection: GuardedConnection, held: list[Primary]) -> Servers:
    pool = connection.client.connection_pool
    sentinels = getattr(pool, "sentinel_manager", None)
    wanted = 0
    if sentinels is not None:
        with cancellation_kept():
            async with asyncio.timeout_at(connection.deadline()):
                # Drops idle connections to another primary than the present one.
                await pool.get_master_address()
                wanted = len(await sentinels.discover_slaves(pool.service_name))
    primary = held[0] if held else Primary(connection)
    held[:] = [primary]
    run, connected = await primary.state()
    if sentinels is None and connected is not None:
        # Who promotes a replica here is not known; that one is gone may mean it was promoted.
        seen, when = connection.replicas_seen
        wanted = seen if time.monotonic() - when < REPLICA_SECONDS else 0
        if connected >= wanted:
            connection.replicas_seen = (connected, time.monotonic())
    return Servers((primary,), ((run,),), (_required_replicas(connection, connected, wanted),))


def _required_replicas(connection: GuardedConnection, connected: int | None, expected: int) -> int:
    """The number of replicas that have to have what is written.

    Args:
        connection: Says how many the configuration names.
        connected: How many the primary counts; None: it does not say.
        expected: How many are known of from elsewhere.

    Raises:
        UnconfirmedError: Fewer are connected than there are.
    """
    expected = max(expected, connection.replicas or 0)
    if connected is None:
        return expected
    if connected < expected:
        message = (
            f"{expected - connected} of {expected} replicas are not connected to the primary: "
            "a failover may be under way"
        )
        raise UnconfirmedError(message)
    return connected


def _slot_count(slots: str) -> int:
    first, _, last = slots.partition("-")
    return int(last or first) - int(first) + 1


def text(reply: str | bytes) -> str:
    """A reply as text, whether or not the client decodes what it reads."""
    return reply if isinstance(reply, str) else reply.decode()
