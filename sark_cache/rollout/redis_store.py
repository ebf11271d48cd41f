"""The rollout percentages in Redis or Valkey, as decimal text, shared by all processes.

The store opens its own connection to the server of the given client, with time-outs and without
retries. It never uses the connection of a parent process. One round trip reads any number of
features.
"""

import inspect
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from sark_cache._core.errors import UNREADABLE, UnavailableError

TIMEOUT_SECONDS: Final = 0.25
"""The time-out of connecting, and of each reply, in seconds."""

KEY_PREFIX: Final = "feature_flag:"

SET_LATE: Final = """
local stored, last_seen, late = redis.call('GET', KEYS[1]), tonumber(ARGV[1]), tonumber(ARGV[2])
local now = stored and tonumber(stored:match('^%s*(%d+)%s*$'))
if now and now <= 100 and now ~= last_seen and now < late then
  return now
end
redis.call('SET', KEYS[1], ARGV[2])
return late
"""
"""Sets a percentage that could not be set in time, unless a lower one was set in between.

The server runs the script atomically.
"""

ADDRESS: Final = frozenset(
    {
        *("host", "port", "path", "db", "username", "password", "credential_provider"),
        *("client_name", "protocol", "redis_connect_func", "valkey_connect_func"),
    }
)
"""The arguments of a connection that name the server and the login, except those for TLS."""


class SynchronousClient(Protocol):
    """A synchronous client of redis-py or valkey-py: for one server, Sentinel or a cluster."""

    def pipeline(self, transaction: bool = True) -> Any:  # noqa: ANN401, FBT001, FBT002 - the clients' signature
        """Collects commands for one round trip."""
        ...

    def set(self, name: str, value: str, /) -> Any:  # noqa: ANN401
        """Sets a key."""
        ...

    def close(self) -> Any:  # noqa: ANN401
        """Closes the connections."""
        ...

    def eval(self, script: str, numkeys: int, /, *keys_and_args: str) -> Any:  # noqa: ANN401
        """Runs a script on the server."""
        ...


class FlagStore:
    """Reads and writes percentages. Its methods may raise any error of the client.

    It is not thread-safe.

    Args:
        client: A client of the server.

    Raises:
        TypeError: The client is not a synchronous one.
    """

    def __init__(self, client: SynchronousClient) -> None:
        self._client: Final = checked(client)
        self._own: SynchronousClient | None = None
        self._own_process = -1

    def read(self, features: Iterable[str]) -> dict[str, object]:
        """Returns the stored value of each feature: bytes, str, None, or an error of the server."""
        return read(self._connection(), features)

    def write(self, feature: str, percentage: int) -> None:
        """Stores a percentage. Replaces a stored one."""
        write(self._connection(), feature, percentage)

    def write_late(self, feature: str, percentage: int, last_seen: int | None) -> int:
        """Stores a percentage that could not be stored in time. Returns the stored percentage.

        The server keeps its percentage if another process has set it since `last_seen` and it is
        lower. So in doubt fewer users get the feature.
        """
        expected = "" if last_seen is None else str(last_seen)
        key = KEY_PREFIX + feature
        stands = self._connection().eval(SET_LATE, 1, key, expected, str(percentage))
        if type(stands) is not int or not 0 <= stands <= 100:  # noqa: PLR2004
            raise UnavailableError(UNREADABLE)
        return stands

    def close(self) -> None:
        """Closes this process's own connection."""
        own, self._own = self._own, None
        if own is None or own is self._client or self._own_process != os.getpid():
            return
        pool = getattr(own, "connection_pool", None)
        if pool is None:
            own.close()
        else:
            pool.disconnect()

    def _connection(self) -> SynchronousClient:
        """Returns this process's client. A forked child must not use its parent's connection."""
        if self._own is None or self._own_process != os.getpid():
            self._own = own_client(self._client)
            self._own_process = os.getpid()
        return self._own


def read(client: SynchronousClient, features: Iterable[str]) -> dict[str, object]:
    """Returns the stored value of each feature: bytes, str, None, or an error of the server.

    Takes one round trip. May raise any error of the client.
    """
    named = list(features)
    pipeline = client.pipeline(transaction=False)
    for feature in named:
        pipeline.get(KEY_PREFIX + feature)
    return dict(zip(named, pipeline.execute(raise_on_error=False), strict=True))


def write(client: SynchronousClient, feature: str, percentage: int) -> None:
    """Stores a percentage. Replaces a stored one. May raise any error of the client.

    Raises:
        UnavailableError: The server sent another reply than that of the command.
    """
    if client.set(KEY_PREFIX + feature, str(percentage)) is not True:
        raise UnavailableError(UNREADABLE)


def percentage_in(stored: object) -> int | None:
    """Returns the percentage in a stored text. None: the text is not a percentage.

    Space around the number is allowed: `echo 25 | redis-cli -x set feature_flag:rust_cache` stores
    a newline.
    """
    if isinstance(stored, bytes):
        stored = stored.decode("ascii", "replace")
    if not isinstance(stored, str):
        return None
    digits = stored.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len("100")):
        return None
    return percentage if (percentage := int(digits)) <= 100 else None  # noqa: PLR2004


def checked(client: SynchronousClient) -> SynchronousClient:
    """Returns the client.

    Raises:
        TypeError: The client is not a synchronous one.
    """
    asynchronous = inspect.iscoroutinefunction(getattr(client, "execute_command", None))
    if asynchronous or not callable(getattr(client, "pipeline", None)):
        message = (
            "redis_client must be a synchronous client, such as redis.Redis.from_url(url), "
            "valkey.Valkey.from_url(url), a RedisCluster or sentinel.master_for(name), not "
            f"{type(client).__module__}.{type(client).__qualname__}: flags are read in a thread"
        )
        raise TypeError(message)
    return client


def own_client(client: Any) -> SynchronousClient:  # noqa: ANN401 - of either library
    """Returns a client of the same kind and server that shares no connection with the given one.

    This works for clients of one server, of Sentinel and of a cluster. Any other client is returned
    unchanged, with its own time-outs and retries.
    """
    own: SynchronousClient
    if hasattr(client, "nodes_manager"):
        own = _own_cluster(client)
    elif hasattr(client, "connection_pool"):
        own = type(client)(connection_pool=_own_pool(client.connection_pool))
    else:
        own = client
    return own


def _own_cluster(client: Any) -> Any:  # noqa: ANN401
    shared = client.get_connection_kwargs()
    arguments = _address(shared)
    for of_one_node in ("host", "port", "path", "db", "redis_connect_func", "valkey_connect_func"):
        arguments.pop(of_one_node, None)
    # In a client made from a URL, only the class of its connections shows TLS: `SSLConnection`.
    over_tls = shared.get("ssl") or "SSL" in getattr(shared.get("connection_class"), "__name__", "")
    return type(client)(
        startup_nodes=[type(node)(node.host, node.port) for node in client.get_nodes()],
        require_full_coverage=False,  # if slots are missing, the other flags can still be read
        address_remap=client.nodes_manager.address_remap,
        ssl=bool(over_tls),
        **arguments,
    )


def _own_pool(pool: Any) -> Any:  # noqa: ANN401
    sentinel = (pool.service_name, pool.sentinel_manager) if hasattr(pool, "service_name") else ()
    arguments = _address(pool.connection_kwargs)
    return type(pool)(*sentinel, connection_class=pool.connection_class, **arguments)


def _address(arguments: Mapping[str, object]) -> dict[str, Any]:
    """Returns the arguments for the server and the login, with time-outs and without retries."""
    return {
        **{
            name: value
            for name, value in arguments.items()
            if name in ADDRESS or name.startswith("ssl_")
        },
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
    }
