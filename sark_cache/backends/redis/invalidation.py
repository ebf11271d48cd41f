"""Operations over all primaries: key scans, and confirmation of revocations.

There is no index of the keys that a revocation may match. So it scans all keys, with SCAN on every
primary, unless the head of the log says that there are no decisions (see `scripts`).

A revocation is confirmed if the servers were the same before and after it. A scan may miss keys if
a primary is replaced, because the new one continues with a cursor that it did not return, or does
not have the last writes. A scan also misses the keys of a cluster's slot that moves. The replicas
must have the revocation too, because one may be promoted. A revocation that is not confirmed is
tried 3 times, then raises an error.

A server that refuses ROLE and INFO does not report its replicas. Then the primary and the
configured number of replicas confirm.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sark_cache._core.tasks import cancellation_kept
from sark_cache.backends.redis.connection import GuardedConnection, RedisCommand
from sark_cache.backends.redis.primary import Primary, RefusedError, UnconfirmedError, Visit

SLOTS = 16_384
ATTEMPTS = 3
PAUSE_SECONDS = 0.1
"""The pause before the next attempt."""
REPLICA_SECONDS = 60.0
"""The time, in seconds, for which the replicas last seen are required. Not used with Sentinel."""


@dataclass(frozen=True, slots=True)
class Servers:
    """The primaries at one moment, with their state."""

    primaries: tuple[Primary, ...]
    known: tuple[tuple[Any, ...], ...]
    """The id of the run of each primary, and on a cluster its slots."""
    replicas: tuple[int, ...]
    """The number of replicas of each primary that must have its writes."""
    answer: Any = None
    """The reply to the command that was sent to the primary of the log, or its error.

    None: there is no command, or the reply is not from the server that was identified.
    """


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A confirmed revocation."""

    total: int
    """The sum of the results of its attempts."""
    answer: Any
    """The reply to the command that was sent with its confirmation. None: none was sent."""


async def scan_all(servers: Servers, pattern: Callable[[], str], visit: Visit) -> int:
    """Visits every key that matches and exists during the whole scan, on every primary.

    Args:
        servers: The servers.
        pattern: Returns the glob of the next step.
        visit: Gets the keys of each step.

    Returns:
        The sum of the results of `visit`.

    Raises:
        UnconfirmedError: Another server answered during the scan, or the scan does not end.
        Exception: An error of the client, or of `visit`.
    """
    known = zip(servers.primaries, servers.known, strict=True)
    scans = (primary.scan_all(pattern, visit, run) for primary, (run, *_) in known)
    return sum(await asyncio.gather(*scans))


async def retry_until_confirmed(
    connection: GuardedConnection,
    begins: Callable[[], RedisCommand],
    revoke: Callable[[Servers], Awaitable[int]],
    asks: Callable[[], RedisCommand | None] = lambda: None,
) -> Confirmed:
    """Calls `revoke` until the revocation is confirmed, at most 3 times.

    Args:
        connection: The connection to the servers.
        begins: Returns a command for the primary of the log. It is sent before `revoke`, in the
            round trip that identifies the servers.
        revoke: Revokes. The reply to the command is the answer of its argument.
        asks: Returns a command for the primary of the log. It is sent after `revoke`, in the round
            trip that confirms the revocation.

    Raises:
        UnconfirmedError: The servers changed during each attempt, or a replica did not confirm it.
        RefusedError: The server refuses a command.
        Exception: An error of the client.
    """
    total = 0
    for attempt in range(ATTEMPTS):
        held: list[Primary] = []
        try:
            before = await current_servers(connection, held, begins())
            total += await revoke(before)
            for primary, replicas in zip(before.primaries, before.replicas, strict=True):
                if replicas:
                    await primary.replicated(replicas)
            after = await current_servers(connection, held, asks())
            if after.known == before.known:
                return Confirmed(total, after.answer)
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
    message = "the servers changed during the revocation"
    raise UnconfirmedError(message)


async def current_servers(
    connection: GuardedConnection, held: list[Primary], also: RedisCommand | None = None
) -> Servers:
    """Returns the primaries, as they report themselves.

    Args:
        connection: The connection to the servers.
        held: The primary of an earlier call, or empty. It may hold a connection by which it is
            identified. This function puts the primary here, and the caller releases it.
        also: A command for the primary of the log, sent in the same round trip. None: there is
            none.

    Raises:
        UnconfirmedError: The servers are changing: a slot is being moved, a part of a cluster is
            down, or a replica was lost and may have been promoted.
        Exception: An error of the client.
    """
    if not connection.is_cluster:
        return await _one_server(connection, held, () if also is None else (also,))
    with cancellation_kept():
        async with asyncio.timeout_at(connection.deadline()):
            await connection.client.initialize()
            await connection.client.nodes_manager.initialize()
    nodes = sorted(connection.client.get_primaries(), key=lambda node: str(node.name))
    of_log = None if also is None else connection.client.get_node_from_key(connection.log)
    answers: list[Any] = []
    primaries: list[Primary] = []
    known: list[tuple[Any, ...]] = []
    replicas: list[int] = []
    for node in nodes:
        primary = Primary(connection, node)
        slots = await primary.slots()
        if slots:
            commands = (also,) if also is not None and node is of_log else ()
            run, connected, answered = await primary.state(*commands)
            answers += answered
            primaries.append(primary)
            known.append((run, slots))
            replicas.append(_required_replicas(connection, connected, 0))
    if sum(_slot_count(one) for _, slots in known for one in slots) != SLOTS:
        message = "a part of the cluster is down"
        raise UnconfirmedError(message)
    return Servers(tuple(primaries), tuple(known), tuple(replicas), next(iter(answers), None))


async def _one_server(
    connection: GuardedConnection, held: list[Primary], also: Sequence[RedisCommand]
) -> Servers:
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
    run, connected, answers = await primary.state(*also)
    if sentinels is None and connected is not None:
        # Without Sentinel, a failover is not announced. A lost replica may have been promoted.
        seen, when = connection.replicas_seen
        wanted = seen if time.monotonic() - when < REPLICA_SECONDS else 0
        if connected >= wanted:
            connection.replicas_seen = (connected, time.monotonic())
    required = _required_replicas(connection, connected, wanted)
    return Servers((primary,), ((run,),), (required,), next(iter(answers), None))


def primary_of_log(connection: GuardedConnection) -> Primary:
    """Returns the primary of the log, as far as the client knows it.

    Raises:
        Exception: An error of the client.
    """
    if not connection.is_cluster:
        return Primary(connection)
    return Primary(connection, connection.client.get_node_from_key(connection.log))


def _required_replicas(connection: GuardedConnection, connected: int | None, expected: int) -> int:
    """Returns the number of replicas that must have the writes.

    Args:
        connection: The connection, which has the configured number.
        connected: The number that the primary reports. None: it does not report it.
        expected: The number known from Sentinel or from an earlier call.

    Raises:
        UnconfirmedError: Fewer replicas are connected than are expected or configured.
    """
    expected = max(expected, connection.replicas or 0)
    if connected is None:
        return expected
    if connected < expected:
        message = (
            f"{expected - connected} of {expected} replicas are not connected to the primary: "
            "a failover may be in progress"
        )
        raise UnconfirmedError(message)
    return connected


def _slot_count(slots: str) -> int:
    first, _, last = slots.partition("-")
    return int(last or first) - int(first) + 1
