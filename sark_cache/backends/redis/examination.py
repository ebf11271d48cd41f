"""The examination of the servers: checks that stored decisions can be revoked there."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sark_cache._core.errors import UnavailableError
from sark_cache._core.tasks import cancellation_kept
from sark_cache.backends.redis import replies
from sark_cache.backends.redis.connection import GuardedConnection, RedisCommand
from sark_cache.backends.redis.permissions import CHECK, Findings, findings
from sark_cache.backends.redis.primary import Primary
from sark_cache.backends.redis.settle import Settling

MOST_KEYS = 1_000
"""The maximum number of keys to try for one that a given node of a cluster stores."""


async def examine(
    connection: GuardedConnection, prefix: str, settling: Settling | None = None
) -> Findings:
    """Tries every command that the cache sends, on every primary.

    On a cluster, a node is skipped if it does not answer within half of the time-out of a command.
    It has its own circuit, and is examined when that closes.

    Args:
        connection: The connection to the servers.
        prefix: The beginning of all keys of decisions.
        settling: Gets the state of the log from the primary of the log. None: it is not needed.

    Raises:
        ConnectionError: The server is a replica.
        Exception: An error of the client.
    """
    if not connection.is_cluster:
        keys = (f"{prefix}.check", f"{connection.log}.check")
        return await _examine(connection, Primary(connection), keys, settling)
    with cancellation_kept():
        async with asyncio.timeout_at(connection.deadline()):
            await connection.client.initialize()
    nodes = connection.client.get_primaries()
    bounded = (_bounded(connection, node, prefix, settling) for node in nodes)
    found = [one for one in await asyncio.gather(*bounded) if one is not None]
    refused = {name: said for one in found for name, said in one.refused.items()}
    return Findings(refused, max((one.replicas for one in found), default=0))


async def _bounded(
    connection: GuardedConnection,
    node: Any,  # noqa: ANN401 - of either library
    prefix: str,
    settling: Settling | None,
) -> Findings | None:
    try:
        with cancellation_kept():
            async with asyncio.timeout(connection.command_timeout / 2):
                keys = _keys_of(connection, node, prefix)
                has_log = len(keys) > 1
                primary = Primary(connection, node)
                return await _examine(connection, primary, keys, settling if has_log else None)
    except Exception:  # noqa: BLE001 - any error, because it is not a refusal
        return None


async def _examine(
    connection: GuardedConnection,
    primary: Primary,
    keys: Sequence[str],
    settling: Settling | None,
) -> Findings:
    others: dict[str, RedisCommand] = {
        "SCAN": ("SCAN", 0, "MATCH", keys[0], "COUNT", 1),
        "INFO": ("INFO", "server"),
        "ROLE": ("ROLE",),
        "WAIT": ("WAIT", 0, 1),
    }
    if not primary.takes_many_keys:
        others["CLUSTER"] = ("CLUSTER", "NODES")
    checks: list[RedisCommand] = [("EVAL", CHECK, 1, key) for key in keys]
    question = None if settling is None else settling.question()
    asked = () if question is None else (question.command,)
    answers = await primary.run(*checks, *others.values(), *asked, raises=False)
    if settling is not None and question is not None:
        settling.begin(question, answers.pop())
    by_name = dict(zip(others, answers[len(keys) :], strict=True))
    found = findings(answers[0], by_name)
    for answer in answers[1 : len(keys)]:
        found = replace(found, refused=found.refused | findings(answer, {}).refused)
    return replace(found, replicas=max(_connected(by_name["ROLE"]), connection.replicas or 0))


def _connected(role: object) -> int:
    """Returns the number of replicas in a reply to ROLE. 0: it is an error, or unreadable."""
    try:
        return replies.read(replies.role, role).replicas
    except UnavailableError:
        return 0


def _keys_of(connection: GuardedConnection, node: Any, prefix: str) -> list[str]:  # noqa: ANN401
    """Returns unused keys that a node stores: one of decisions, and one of the log if it has it."""
    node_of = connection.client.get_node_from_key
    numbered = (f"{prefix}.check.{number}" for number in range(MOST_KEYS))
    keys = [next(key for key in numbered if node_of(key) is node)]
    of_log = f"{connection.log}.check"
    return [*keys, of_log] if node_of(of_log) is node else keys
