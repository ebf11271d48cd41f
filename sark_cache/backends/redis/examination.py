"""The examination of the servers: checks that stored decisions can be revoked there."""

import asyncio
from dataclasses import replace
from typing import Any

from sark_cache._core.errors import UnavailableError
from sark_cache._core.tasks import cancellation_kept
from sark_cache.backends.redis import replies
from sark_cache.backends.redis.connection import GuardedConnection
from sark_cache.backends.redis.permissions import CHECK, Findings, findings
from sark_cache.backends.redis.primary import Primary

MOST_KEYS = 1_000
"""The maximum number of keys to try for one that a given node of a cluster stores."""


async def examine(connection: GuardedConnection) -> Findings:
    """Tries every command that the cache sends, on every primary.

    On a cluster, a node is skipped if it does not answer within half of the time-out of a command.
    It has its own circuit, and is examined when that closes.

    Raises:
        ConnectionError: The server is a replica.
        Exception: An error of the client.
    """
    if not connection.is_cluster:
        return await _examine(connection, Primary(connection), f"{connection.log}.check")
    with cancellation_kept():
        async with asyncio.timeout_at(connection.deadline()):
            await connection.client.initialize()
    nodes = connection.client.get_primaries()
    bounded = (_bounded(connection, node) for node in nodes)
    found = [one for one in await asyncio.gather(*bounded) if one is not None]
    refused = {name: said for one in found for name, said in one.refused.items()}
    return Findings(refused, max((one.replicas for one in found), default=0))


async def _bounded(connection: GuardedConnection, node: Any) -> Findings | None:  # noqa: ANN401 - of either library
    try:
        with cancellation_kept():
            async with asyncio.timeout(connection.command_timeout / 2):
                return await _examine(
                    connection, Primary(connection, node), _key_of(connection, node)
                )
    except Exception:  # noqa: BLE001 - any error, because it is not a refusal
        return None


async def _examine(connection: GuardedConnection, primary: Primary, key: str) -> Findings:
    others: dict[str, tuple[Any, ...]] = {
        "SCAN": ("SCAN", 0, "MATCH", key, "COUNT", 1),
        "INFO": ("INFO", "server"),
        "ROLE": ("ROLE",),
        "WAIT": ("WAIT", 0, 1),
    }
    if not primary.takes_many_keys:
        others["CLUSTER"] = ("CLUSTER", "NODES")
    said, *answers = await primary.run(("EVAL", CHECK, 1, key), *others.values(), raises=False)
    by_name = dict(zip(others, answers, strict=True))
    found = findings(said, by_name)
    return replace(found, replicas=max(_connected(by_name["ROLE"]), connection.replicas or 0))


def _connected(role: object) -> int:
    """Returns the number of replicas in a reply to ROLE. 0: it is an error, or unreadable."""
    try:
        return replies.read(replies.role, role).replicas
    except UnavailableError:
        return 0


def _key_of(connection: GuardedConnection, node: Any) -> str:  # noqa: ANN401
    """Returns an unused key that a node stores."""
    keys = (f"{connection.log}.check.{number}" for number in range(MOST_KEYS))
    return next(key for key in keys if connection.client.get_node_from_key(key) is node)
