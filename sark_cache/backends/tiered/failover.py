"""The time after which a server that fell silent may be replaced by another one.

A process that is cut off together with the old primary gets no news of the new one. Its lease must
have ended before the new one records a revocation. The old primary itself finds out within
`SILENCE_SECONDS` that its replicas are gone. So the span of leases must be shorter than the time
until a failover, less these seconds.

| topology | the time until a failover |
|---|---|
| one server | none: nobody replaces it, as far as the client can see |
| Sentinel | `down-after-milliseconds`, the smallest one of the sentinels that answer |
| cluster | `cluster-node-timeout` |
"""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from sark_cache._core.arguments import MIN_MAX_STALENESS
from sark_cache._core.errors import UnavailableError, describe
from sark_cache.backends.redis import replies
from sark_cache.backends.redis.connection import RedisCommand

SILENCE_SECONDS: Final = 3.0
"""The maximum time, in seconds, for which a primary that is cut off believes in its replicas."""
FAILOVER_SETTINGS: Final = {
    "sentinel": "down-after-milliseconds",
    "cluster": "cluster-node-timeout",
}
"""The setting with the time until a failover, by topology."""
CURE: Final = "or set SARK_CACHE_TRUST_SERVER=true if you know that no failover is faster"


class UnsafeServerError(UnavailableError):
    """Another server may take over before leases have ended, or nobody can tell."""


class SilentSentinelsError(UnavailableError):
    """No sentinel answers. The connection to the primary is not affected."""


def longest_span(
    client: Any,  # noqa: ANN401 - a blocking client of either library
    ask: Callable[[RedisCommand], object],
) -> float:
    """Returns the longest span of leases, in seconds. Infinity: nobody replaces the server.

    Args:
        client: The client.
        ask: Sends a command to the primary of the log, and returns its reply or its error.

    Raises:
        UnsafeServerError: It is too short for any lease, or the time until a failover cannot be
            read. The message says what to do.
        SilentSentinelsError: No sentinel answers.
        Exception: The connection to the primary was lost, or it did not answer.
    """
    if hasattr(client, "get_node_from_key"):
        topology, seconds = "cluster", _of_cluster(ask)
    elif hasattr(client.connection_pool, "sentinel_manager"):
        pool = client.connection_pool
        topology = "sentinel"
        seconds = of_sentinels(pool.sentinel_manager.sentinels, pool.service_name)
    else:
        return math.inf
    longest = seconds - SILENCE_SECONDS
    if longest < MIN_MAX_STALENESS:
        message = (
            f"another server may take over after {seconds:g} s ({FAILOVER_SETTINGS[topology]}): "
            f"raise it to {SILENCE_SECONDS:g} s plus SARK_CACHE_MAX_STALENESS, {CURE}"
        )
        raise UnsafeServerError(message)
    return longest


def _of_cluster(ask: Callable[[RedisCommand], object]) -> float:
    name = FAILOVER_SETTINGS["cluster"]
    reply = ask(("CONFIG", "GET", name))
    if isinstance(reply, Exception):
        message = (
            f"the cluster does not show its {name} ({describe(reply)}): grant the command CONFIG "
            f"GET to the user (+config|get), {CURE}"
        )
        raise UnsafeServerError(message)
    return replies.read(_setting, reply) / 1e3


def _setting(reply: Any) -> int:  # noqa: ANN401
    _, value = reply
    return int(replies.text(value))


def of_sentinels(sentinels: Any, service: str) -> float:  # noqa: ANN401
    """Returns the shortest time until a failover, in seconds, of the sentinels that answer.

    Raises:
        SilentSentinelsError: None of them answers.
    """
    name = FAILOVER_SETTINGS["sentinel"]
    found: list[float] = []
    for sentinel in sentinels:
        with suppress(Exception):  # it is down, and another one answers
            found.append(int(sentinel.sentinel_master(service)[name]) / 1e3)
    if not found:
        message = "no sentinel answers"
        raise SilentSentinelsError(message)
    return min(found)
