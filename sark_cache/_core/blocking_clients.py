"""Blocking clients for background threads, made from a URL or from a client for asyncio.

A thread cannot use a client of `redis.asyncio`: its connections belong to an event loop. So the
thread gets a client of its own that reaches the same servers with the same login.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any, Final, TypeAlias

from sark_cache._core.redis_urls import connect, connect_blocking

Connect: TypeAlias = Callable[[], Any]
"""Creates a client. The client of a cluster connects at once, others when they are first used."""

CONNECTIONS: Final = ("Connection", "SSLConnection", "UnixDomainSocketConnection")
"""The classes of connections that exist for asyncio and for threads."""
COPIED: Final = frozenset(
    {
        *("host", "port", "path", "db", "username", "password", "credential_provider"),
        *("client_name", "socket_keepalive", "socket_keepalive_options"),
    }
)
"""The options of a connection that name the server and the login, except those for TLS."""


def blocking_clients(
    servers: Any,  # noqa: ANN401 - a URL, or a client of redis-py or of valkey-py
    connect_timeout: float,
    command_timeout: float,
) -> Connect:
    """Returns a function that creates blocking clients. Opens no connection.

    Args:
        servers: A URL, or a client of `redis.asyncio` or `valkey.asyncio`.
        connect_timeout: The maximum time to connect, in seconds.
        command_timeout: The maximum time that a client waits for bytes of a reply, in seconds.

    Raises:
        ImportError: Neither redis-py nor valkey-py is installed; the message says how to get it.
        TypeError: A thread cannot connect as the client does. The message says why.
        ValueError: The URL cannot be used. The message says why.
    """
    if isinstance(servers, str):
        connect(servers, connect_timeout, command_timeout)  # raises if the URL is wrong
        return partial(connect_blocking, servers, connect_timeout, command_timeout)
    timeouts = {
        "socket_connect_timeout": connect_timeout,
        "socket_timeout": command_timeout,
        "protocol": 2,
    }
    library = type(servers).__module__.partition(".")[0]
    if hasattr(servers, "get_primaries"):
        return _cluster_of(servers, library, timeouts)
    pool = servers.connection_pool
    if hasattr(pool, "sentinel_manager"):
        return _sentinels_of(pool, library, timeouts)
    return _server_of(pool, library, timeouts)


def _server_of(pool: Any, library: str, timeouts: Mapping[str, Any]) -> Connect:  # noqa: ANN401
    kind = _blocking_class(pool.connection_class, library)
    if kind is None:
        return _refuse(f"its connections are of the class {pool.connection_class.__name__}")
    for name in ("redis_connect_func", "valkey_connect_func"):
        if pool.connection_kwargs.get(name) is not None:
            return _refuse(f"it has a {name}, which is for asyncio")
    options = {**_address(pool.connection_kwargs), **timeouts}
    own_pool = import_module(f"{library}.connection").ConnectionPool
    client = getattr(import_module(library), library.capitalize())

    def make() -> Any:  # noqa: ANN401
        return client(connection_pool=own_pool(connection_class=kind, **options))

    return make


def _sentinels_of(pool: Any, library: str, timeouts: Mapping[str, Any]) -> Connect:  # noqa: ANN401
    over_tls = "SSL" in pool.connection_class.__name__
    options = {**_address(pool.connection_kwargs), **timeouts}
    for of_one_server in ("host", "port"):
        options.pop(of_one_server, None)
    asked = [one.connection_pool for one in pool.sentinel_manager.sentinels]
    hosts = [(one.connection_kwargs["host"], one.connection_kwargs["port"]) for one in asked]
    login = {
        **_address(asked[0].connection_kwargs if asked else {}),
        **timeouts,
        "ssl": bool(asked) and "SSL" in asked[0].connection_class.__name__,
    }
    for of_one_server in ("host", "port", "db"):
        login.pop(of_one_server, None)
    make_sentinel = import_module(f"{library}.sentinel").Sentinel
    service = pool.service_name

    def make() -> Any:  # noqa: ANN401
        sentinel = make_sentinel(hosts, sentinel_kwargs=login)
        return sentinel.master_for(service, ssl=over_tls, **options)

    return make


def _cluster_of(client: Any, library: str, timeouts: Mapping[str, Any]) -> Connect:  # noqa: ANN401
    module = import_module(f"{library}.cluster")
    shared: dict[str, Any] = client.connection_kwargs
    over_tls = bool(shared.get("ssl")) or "SSL" in getattr(
        shared.get("connection_class"), "__name__", ""
    )
    options = {**_address(shared), **timeouts, "ssl": over_tls}
    for of_one_node in ("host", "port", "path", "db"):
        options.pop(of_one_node, None)
    kind_of_client = getattr(module, f"{library.capitalize()}Cluster")
    known = client.nodes_manager

    def make() -> Any:  # noqa: ANN401
        nodes = (*known.startup_nodes.values(), *known.nodes_cache.values())
        hosts = dict.fromkeys((node.host, node.port) for node in nodes)
        return kind_of_client(
            startup_nodes=[module.ClusterNode(host, port) for host, port in hosts],
            require_full_coverage=False,
            **options,
        )

    return make


def _blocking_class(of_asyncio: type, library: str) -> Any:  # noqa: ANN401
    """Returns the class of connections for threads. None: there is no such class."""
    if of_asyncio.__module__ != f"{library}.asyncio.connection":
        return None
    name = of_asyncio.__name__
    return (
        getattr(import_module(f"{library}.connection"), name, None) if name in CONNECTIONS else None
    )


def _address(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a connection that name the server and the login."""
    return {
        name: value
        for name, value in options.items()
        if (name in COPIED or name.startswith("ssl_")) and value is not None
    }


def _refuse(reason: str) -> Connect:
    message = (
        f"redis_client: a thread cannot connect as this client does, because {reason}: pass the "
        "URL of the server"
    )
    raise TypeError(message)
