"""Clients from URLs: one server, Sentinel or a cluster, of redis-py or of valkey-py.

| URL | what is there |
|---|---|
| `redis://[user:password@]host:port/0` | one server |
| `rediss://...` | over TLS |
| `unix:///path/to/socket?db=0` | on this machine |
| `redis+sentinel://host:port,host:port/service/0` | the primary that Sentinel names |
| `redis+cluster://host:port,host:port` | a cluster, by some of its nodes |

`rediss+sentinel` and `rediss+cluster` go over TLS; `valkey` and `valkeys` may stand for `redis` and
`rediss` anywhere. Options of the client follow after `?`, such as `ssl_ca_certs=/etc/ca.pem`, and
for Sentinel `sentinel_username` and `sentinel_password`.
"""

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from sark_cache import arguments

TOPOLOGIES = ("", "sentinel", "cluster")
SCHEMES = ("redis", "rediss", "valkey", "valkeys")
DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379

_BOOLEANS = {"ssl_check_hostname", "socket_keepalive"}


class Address(NamedTuple):
    """What a URL says."""

    library: str
    """`redis` or `valkey`: which client is preferred."""
    topology: str
    tls: bool
    username: str | None
    password: str | None
    hosts: tuple[tuple[str, int], ...]
    path: str
    """Of a socket."""
    service: str
    """That sentinels watch."""
    database: int
    options: dict[str, str]


class Connected(NamedTuple):
    """A client that was made here, and how to be rid of it."""

    client: Any
    close: Callable[[], Awaitable[None]]


def parse(url: str) -> Address:
    """Reads a URL.

    Raises:
        TypeError: It is no str.
        ValueError: It is no URL of a server; the message says what is, and keeps the password.
    """
    arguments.check_text("url", url)
    split = urlsplit(url)
    family, _, topology = split.scheme.partition("+")
    if (family not in SCHEMES or topology not in TOPOLOGIES) and split.scheme != "unix":
        message = (
            f"url must begin with redis://, rediss://, unix://, redis+sentinel:// or "
            f"redis+cluster:// (or valkey for redis), not {split.scheme or 'nothing'}://"
        )
        raise ValueError(message)
    if split.fragment:
        message = "url must not have a #: in a password it is written %23"
        raise ValueError(message)
    login, _, places = split.netloc.rpartition("@")
    username, _, password = login.partition(":")
    default = DEFAULT_SENTINEL_PORT if topology == "sentinel" else DEFAULT_PORT
    hosts = tuple(_host(place, default) for place in places.split(",") if place)
    if topology and not hosts:
        message = f"url must name a host: {split.scheme}://host:{default}"
        raise ValueError(message)
    options = dict(parse_qsl(split.query))
    service, database = "", "" if split.scheme == "unix" else split.path.strip("/")
    if topology == "sentinel":
        service, _, database = database.partition("/")
        if not service:
            message = "url must name the service: redis+sentinel://host:26379/mymaster"
            raise ValueError(message)
    number = _database(database or options.pop("db", "0"))
    if topology == "cluster" and number:
        message = "url must not name a database: a cluster has but one"
        raise ValueError(message)
    return Address(
        library="valkey" if family.startswith("valkey") else "redis",
        topology="unix" if split.scheme == "unix" else topology,
        tls=family in {"rediss", "valkeys"},
        username=unquote(username) or None,
        password=unquote(password) or None,
        hosts=hosts,
        path=split.path,
        service=service,
        database=number,
        options=options,
    )


def connect(url: str, connect_timeout: float, command_timeout: float) -> Connected:
    """A client for asyncio; it connects when it is used, in that event loop.

    Raises:
        ImportError: Neither redis-py nor valkey-py is installed; the message says how to get it.
        ValueError: As `parse`, or an option that the client does not know.
    """
    client, parts = _connect(url, "asyncio", connect_timeout, command_timeout)

    async def close() -> None:
        for part in parts:
            await part.aclose()

    return Connected(client, close)


def connect_blocking(url: str, connect_timeout: float, command_timeout: float) -> Any:  # noqa: ANN401
    """A synchronous client, for threads of their own; that of a cluster connects at once.

    Raises:
        ImportError: Neither redis-py nor valkey-py is installed; the message says how to get it.
        ValueError: As `parse`, or an option that the client does not know.
        Exception: What the client raises when a cluster cannot be reached.
    """
    client, _ = _connect(url, None, connect_timeout, command_timeout)
    return client


def _connect(
    url: str, kind: str | None, connect_timeout: float, command_timeout: float
) -> tuple[Any, list[Any]]:
    """A client, and what has to be closed with it."""
    address = parse(url)
    library = _library(address.library)
    modules = f"{library}.{kind}" if kind else library
    options = _options(library, modules, address, connect_timeout, command_timeout)
    make = {"sentinel": _through_sentinel, "cluster": _to_cluster}.get(address.topology, _to_server)
    try:
        return make(modules, library.capitalize(), address, options)
    except TypeError as error:
        message = f"url has an option that {library}-py does not take: {error}"
        raise ValueError(message) from None


def _to_server(
    modules: str, name: str, address: Address, options: dict[str, Any]
) -> tuple[Any, list[Any]]:
    if address.topology == "unix":
        place: dict[str, Any] = {"unix_socket_path": address.path}
    else:
        host, port = address.hosts[0] if address.hosts else ("localhost", DEFAULT_PORT)
        place = {"host": host, "port": port, "ssl": address.tls}
    options.update(_without_time_out(modules))
    client = getattr(import_module(modules), name)(**place, db=address.database, **options)
    return client, [client]


def _through_sentinel(
    modules: str, _name: str, address: Address, options: dict[str, Any]
) -> tuple[Any, list[Any]]:
    timeouts = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout")}
    options.update(_without_time_out(modules))
    logins = {
        name: options.pop(f"sentinel_{name}")
        for name in ("username", "password")
        if f"sentinel_{name}" in options
    }
    sentinel = import_module(f"{modules}.sentinel").Sentinel(
        address.hosts, sentinel_kwargs={**timeouts, **logins, "ssl": address.tls}, **options
    )
    client = sentinel.master_for(address.service, ssl=address.tls, db=address.database)
    return client, [client, *sentinel.sentinels]


def _to_cluster(
    modules: str, name: str, address: Address, options: dict[str, Any]
) -> tuple[Any, list[Any]]:
    module = import_module(f"{modules}.cluster")
    nodes = [module.ClusterNode(host, port) for host, port in address.hosts]
    # A part of the cluster is better than none: what is not covered is a miss.
    client = getattr(module, f"{name}Cluster")(
        startup_nodes=nodes, require_full_coverage=False, ssl=address.tls, **options
    )
    return client, [client]


def _options(
    library: str, modules: str, address: Address, connect_timeout: float, command_timeout: float
) -> dict[str, Any]:
    retry = import_module(f"{modules}.retry").Retry
    backoff = import_module(f"{library}.backoff").NoBackoff
    options: dict[str, Any] = {
        "username": address.username,
        "password": address.password,
        "socket_connect_timeout": connect_timeout,
        "socket_timeout": command_timeout,
        # A connection that the server closed while it was idle is made again, once.
        "retry": retry(backoff(), 1),
        "protocol": 2,
    }
    for name, value in address.options.items():
        options[name] = value.lower() in {"1", "true", "yes"} if name in _BOOLEANS else value
    return options


def _without_time_out(modules: str) -> dict[str, Any]:
    """For asyncio none of the client's own: with one it sends through `asyncio.wait_for`.

    That drops cancellations on CPython 3.11, and with them the time-out of whoever asks. A cluster
    and sentinels keep theirs: of several servers the first one asked may hang.
    """
    return {"socket_timeout": None} if modules.endswith(".asyncio") else {}


def _library(preferred: str) -> str:
    """The name of a client library that is installed."""
    for name in (preferred, "redis", "valkey"):
        try:
            return import_module(name).__name__
        except ImportError:
            continue
    message = (
        "a Redis client is not installed: pip install 'sark-cache[redis]', or valkey for Valkey's"
    )
    raise ImportError(message)


def _host(place: str, default: int) -> tuple[str, int]:
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):  # [::1] has colons of its own
        host, port = place, str(default)
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        message = f"url must have a port between 1 and 65535 after {host!r}"
        raise ValueError(message)
    return host.strip("[]"), int(port)


def _database(text: str) -> int:
    if not text.isdecimal():
        message = "url must end in the number of a database; in a password / is written %2F"
        raise ValueError(message)
    return int(text)
