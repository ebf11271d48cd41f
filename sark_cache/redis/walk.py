"""Walks over all keys, for what cannot be looked up: SCAN on every primary, some at a time.

On a cluster a walk counts only if every slot was owned by the same primary from its beginning to
its end, and none was being moved: a key that moves behind the walk would be missed. Nor does it
count if what it removed has not reached the replicas that are connected, one of which may be the
primary soon.
"""

import asyncio
from binascii import crc_hqx
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from typing import Any, TypeAlias

from sark_cache.redis.link import Command, Link, check_client

KEYS_AT_ONCE = 1_000
SLOTS = 16_384
ATTEMPTS = 3
PAUSE_SECONDS = 0.1
"""Before another attempt on a cluster, when slots were moving or a server did not answer."""

Visit: TypeAlias = Callable[["Primary", list[str]], Awaitable[int]]


class UnconfirmedError(Exception):
    """A walk that may have missed something; says why."""


class Primary:
    """One server that keeps keys of its own."""

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
        async with asyncio.timeout_at(self._link.deadline() + waits):
            replies = await self._sent(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def _sent(self, commands: Sequence[Command]) -> list[Any]:
        client = self._link.client
        if self._node is None:
            pipeline = client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            return replies
        replies = await self._sent_to_node(commands)
        if any(isinstance(reply, self._link.no_answer) for reply in replies):
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

    async def walk(self, pattern: str, visit: Visit) -> int:
        """Visits every key that matches and was there all the time; the sum of what that says."""
        total, cursor = 0, 0
        while True:
            [reply] = await self.run(("SCAN", cursor, "MATCH", pattern, "COUNT", KEYS_AT_ONCE))
            cursor = int(reply[0])
            if reply[1]:
                total += await visit(self, [text(key) for key in reply[1]])
            if cursor == 0:
                return total

    async def replicated(self, marker: str) -> None:
        """Returns when the connected replicas have all that was written until now.

        Raises:
            UnconfirmedError: Some have not, in time; or this is a replica itself.
        """
        [role] = await self.run(("ROLE",))
        if text(role[0]) != "master":
            message = "the server is not the primary any more"
            raise UnconfirmedError(message)
        replicas = len(role[2])
        if replicas:
            # Less than the client itself waits for a reply.
            waits = 0.8 * self._link.command_timeout
            wait = ("WAIT", replicas, max(1, int(1e3 * waits)))
            # A write of this connection's own: WAIT waits for that, and what came before it.
            _, reached = await self.run(("SET", marker, 1, "PX", 1), wait, waits=waits)
            if reached < replicas:
                message = f"{replicas - reached} of {replicas} replicas have not confirmed it"
                raise UnconfirmedError(message)

    async def slots(self) -> tuple[str, ...]:
        """The ranges of slots that it owns, by its own account.

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


async def walk(link: Link, pattern: str, visit: Visit, marker: str | None = None) -> int:
    """Visits every key that matches and was there all the time, on every primary.

    With a marker, returns only when the connected replicas have all that was written.

    Raises:
        UnconfirmedError: On a cluster whose slots were moving; or replicas have not confirmed.
        Exception: What the client raises.
    """
    if not link.is_cluster:
        primary = Primary(link)
        total = await primary.walk(pattern, visit)
        if marker is not None:
            await primary.replicated(marker)
        return total
    total = 0
    for attempt in range(ATTEMPTS):
        try:
            owned = await _owned(link)
            walks = (primary.walk(pattern, visit) for primary, _ in owned)
            total += sum(await asyncio.gather(*walks))
            if marker is not None:
                for primary, slots in owned:
                    await primary.replicated(_in_slot(marker, int(slots[0].partition("-")[0])))
            if [slots for _, slots in await _owned(link)] == [slots for _, slots in owned]:
                return total
        except (UnconfirmedError, *link.no_answer):
            if attempt == ATTEMPTS - 1:
                raise
        await asyncio.sleep(PAUSE_SECONDS)
    message = "slots of the cluster moved meanwhile"
    raise UnconfirmedError(message)


async def replicated(link: Link, marker: str, *keys: str) -> None:
    """Returns when the connected replicas have what was written to these keys until now.

    Raises:
        UnconfirmedError: Some have not, in time.
    """
    if not link.is_cluster:
        await Primary(link).replicated(marker)
        return
    for key in keys:
        primary = Primary(link, link.client.get_node_from_key(key))
        await primary.replicated(_in_slot(marker, link.client.keyslot(key)))


async def _owned(link: Link) -> list[tuple[Primary, tuple[str, ...]]]:
    """The primaries of a cluster that have slots, with these; all slots together."""
    async with asyncio.timeout_at(link.deadline()):
        await link.client.initialize()
        await link.client.nodes_manager.initialize()
    nodes = sorted(link.client.get_primaries(), key=lambda node: str(node.name))
    primaries = [Primary(link, node) for node in nodes]
    owned = list(zip(primaries, [await primary.slots() for primary in primaries], strict=True))
    if sum(_size(one) for _, slots in owned for one in slots) != SLOTS:
        message = "a part of the cluster is down"
        raise UnconfirmedError(message)
    return [(primary, slots) for primary, slots in owned if slots]


def _size(slots: str) -> int:
    first, _, last = slots.partition("-")
    return int(last or first) - int(first) + 1


def _in_slot(key: str, slot: int) -> str:
    """A key that is in a slot: by a tag between braces, found within some milliseconds."""
    tag = next(n for n in range(10**7) if crc_hqx(str(n).encode(), 0) % SLOTS == slot)
    return f"{key}{{{tag}}}"


def text(reply: str | bytes) -> str:
    """A reply as text, whether or not the client decodes what it reads."""
    return reply if isinstance(reply, str) else reply.decode()
