"""What concerns all keys or several servers: walks, and whether a revocation is certain.

There is no index of what a revocation may match, so all keys are walked: SCAN on every primary,
some at a time. That it is complete is certain only if the servers stayed the same from its
beginning to its end: a primary that was replaced goes on with another's cursor, or forgets what it
was told, and a slot of a cluster that moves takes its keys past the walk. Nor is anything certain
that a replica has not got yet, which may be the primary a moment later. What is not certain is
tried again, then told.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeAlias

from sark_cache.redis.link import Command, Link, check_client
from sark_cache.tasks import cancellation_kept

KEYS_AT_ONCE = 1_000
SLOTS = 16_384
ATTEMPTS = 3
PAUSE_SECONDS = 0.1
"""Before another attempt."""
REPLICA_SECONDS = 60.0
"""How long a replica that was seen is waited for, where there is no Sentinel that knows better."""

Visit: TypeAlias = Callable[["Primary", list[str]], Awaitable[int]]


class UnconfirmedError(Exception):
    """A revocation that is not certain; says why."""


class Primary:
    """One server that keeps keys of its own.

    Args:
        link: The way to it.
        node: Which node of a cluster it is; None: there is no cluster.
    """

    def __init__(self, link: Link, node: Any = None) -> None:  # noqa: ANN401 - of either library
        self._link = link
        self._node = node

    async def run(self, *commands: Command, waits: float = 0.0) -> list[Any]:
        """The replies to commands, in one round trip over one connection.

        Args:
            commands: The commands.
            waits: How long the server may take over them on purpose, in seconds.

        Raises:
            Exception: What the client raises, for any of them.
        """
        with cancellation_kept():
            async with asyncio.timeout_at(self._link.deadline() + waits):
                replies = await self._sent(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def _sent(self, commands: Sequence[Command]) -> list[Any]:
        if self._node is None:
            pipeline = self._link.client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            return replies
        replies = await self._sent_to_node(commands)
        if any(self._link.is_no_answer(reply) for reply in replies):
            # A connection that the server closed while it was idle is made again, once.
            replies = await self._sent_to_node(commands)
        return replies

    async def _sent_to_node(self, commands: Sequence[Command]) -> list[Any]:
        """Past the client's own pipeline, which would follow a key to wherever it has moved."""
        pipelined = import_module(f"{check_client(self._link.client)}.asyncio.cluster")
        sent = [pipelined.PipelineCommand(at, *command) for at, command in enumerate(commands)]
        await self._node.execute_pipeline(sent)
        return [command.result for command in sent]

    @property
    def takes_many_keys(self) -> bool:
        """Whether one command may have keys of several slots."""
        return self._node is None

    async def state(self) -> tuple[str, int]:
        """Which run of which server this is, and how many replicas are connected to it.

        Raises:
            UnconfirmedError: It is no primary.
        """
        info, role = await self.run(("INFO", "server"), ("ROLE",))
        if text(role[0]) != "master":
            with suppress(Exception):  # connections to it, which would be asked again and again
                await self._link.drop_idle_connections()
            message = "the server is not the primary any more"
            raise UnconfirmedError(message)
        return str(info["run_id"]), len(role[2])

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

    async def walk(self, pattern: str, visit: Visit) -> int:
        """Visits every key that matches and was there all the time; the sum of what that says.

        Raises:
            UnconfirmedError: Another server answered in the middle of it.
        """
        total, cursor, first = 0, 0, None
        while True:
            scan = ("SCAN", cursor, "MATCH", pattern, "COUNT", KEYS_AT_ONCE)
            info, reply = await self.run(("INFO", "server"), scan)
            if info["run_id"] != (first := first or info["run_id"]):
                message = "another server has become the primary"
                raise UnconfirmedError(message)
            cursor = int(reply[0])
            if reply[1]:
                total += await visit(self, [text(key) for key in reply[1]])
            if cursor == 0:
                return total

    async def replicated(self, replicas: int) -> None:
        """Returns when so many replicas have all that was written until now.

        Raises:
            UnconfirmedError: Some have not, in time.
        """
        # Less than the client itself may wait for a reply.
        waits = 0.8 * self._link.command_timeout
        # WAIT waits for what was written before the last command of its connection, by anybody.
        _, reached = await self.run(
            ("ROLE",), ("WAIT", replicas, max(1, int(1e3 * waits))), waits=waits
        )
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


async def walk(servers: Servers, pattern: str, visit: Visit) -> int:
    """Visits every key that matches and was there all the time, on every primary.

    Raises:
        UnconfirmedError: Another server answered in the middle of it.
        Exception: What the client raises.
    """
    walks = (primary.walk(pattern, visit) for primary in servers.primaries)
    return sum(await asyncio.gather(*walks))


async def confirmed(link: Link, revoke: Callable[[Servers], Awaitable[int]]) -> int:
    """Revokes, until it is certain; the sum of what `revoke` says.

    Raises:
        UnconfirmedError: It is not certain: the servers change, or replicas have not got it.
        Exception: What the client raises.
    """
    total = 0
    for attempt in range(ATTEMPTS):
        try:
            before = await current_servers(link)
            total += await revoke(before)
            for primary, replicas in zip(before.primaries, before.replicas, strict=True):
                if replicas:
                    await primary.replicated(replicas)
            if (await current_servers(link)).known == before.known:
                return total
        except Exception as error:
            again = isinstance(error, UnconfirmedError) or link.is_no_answer(error)
            if not again or attempt == ATTEMPTS - 1:
                raise
        await asyncio.sleep(PAUSE_SECONDS)
    message = "the servers changed meanwhile"
    raise UnconfirmedError(message)


async def current_servers(link: Link) -> Servers:
    """The primaries, by their own account.

    Raises:
        UnconfirmedError: They are changing: a slot is being moved, a part of a cluster is down, or
            a replica is gone, which may be the primary by now.
    """
    if not link.is_cluster:
        return await _one_server(link)
    with cancellation_kept():
        async with asyncio.timeout_at(link.deadline()):
            await link.client.initialize()
            await link.client.nodes_manager.initialize()
    nodes = sorted(link.client.get_primaries(), key=lambda node: str(node.name))
    primaries: list[Primary] = []
    known: list[tuple[Any, ...]] = []
    replicas: list[int] = []
    for node in nodes:
        primary = Primary(link, node)
        slots = await primary.slots()
        if slots:
            run, connected = await primary.state()
            primaries.append(primary)
            known.append((run, slots))
            replicas.append(connected)
    if sum(_size(one) for _, slots in known for one in slots) != SLOTS:
        message = "a part of the cluster is down"
        raise UnconfirmedError(message)
    return Servers(tuple(primaries), tuple(known), tuple(replicas))


async def _one_server(link: Link) -> Servers:
    pool = link.client.connection_pool
    sentinels = getattr(pool, "sentinel_manager", None)
    wanted = 0
    if sentinels is not None:
        with cancellation_kept():
            async with asyncio.timeout_at(link.deadline()):
                # Drops idle connections to another primary than the present one.
                await pool.get_master_address()
                wanted = len(await sentinels.discover_slaves(pool.service_name))
    primary = Primary(link)
    run, connected = await primary.state()
    if sentinels is None:
        # Who promotes a replica here is not known; that one is gone may mean it was promoted.
        seen, when = link.replicas_seen
        wanted = seen if time.monotonic() - when < REPLICA_SECONDS else 0
        if connected >= wanted:
            link.replicas_seen = (connected, time.monotonic())
    if connected < wanted:
        message = (
            f"{wanted - connected} of {wanted} replicas are not connected to the primary: "
            "a failover may be under way"
        )
        raise UnconfirmedError(message)
    return Servers((primary,), ((run,),), (connected,))


def _size(slots: str) -> int:
    first, _, last = slots.partition("-")
    return int(last or first) - int(first) + 1


def text(reply: str | bytes) -> str:
    """A reply as text, whether or not the client decodes what it reads."""
    return reply if isinstance(reply, str) else reply.decode()
