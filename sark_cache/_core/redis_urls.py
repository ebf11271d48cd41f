"""Redis clients created from URLs: redis-py or valkey-py, for one server, Sentinel or a cluster.

| URL | server |
|---|---|
| `redis://[user:password@]host:port/0` | one server |
| `rediss://...` | one server, over TLS |
| `unix:///path/to/socket?db=0` | one server on this machine |
| `redis+sentinel://host:port,host:port/service/0` | the primary that Sentinel names |
| `redis+cluster://host:port,host:port` | a cluster, given by some of its nodes |

`rediss+sentinel` and `rediss+cluster` use TLS. `valkey` and `valkeys` can stand for `redis` and
`rediss` in all of them. Options of the client follow after `?`, such as `health_check_interval=30`
or `ssl_ca_certs=/etc/ca.pem`, and for Sentinel `sentinel_username` and `sentinel_password`. The
client's own parser reads them, so each option has the meaning that it has in `from_url`.

No error shows a part of the URL: it could be a part of an unquoted password.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from sark_cache._core import arguments

TOPOLOGIES = ("", "sentinel", "cluster")
SCHEMES = ("redis", "rediss", "valkey", "valkeys")
DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379
MAX_DIGITS = 10
"""The maximum number of digits of a port or a database number, enough for 2**31."""

_SECRETS = ("password", "sentinel_password")
"""The options whose values are secret."""


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a URL."""

    library: str
    """The preferred client library: `redis` or `valkey`."""
    topology: str
    tls: bool
    username: str | None
    password: str | None = field(repr=False)
    hosts: tuple[tuple[str, int], ...]
    path: str
    """The path of a Unix socket."""
    service: str
    """The name of the primary in Sentinel."""
    database: int
    query: str = field(repr=False)
    """The options as the URL spells them, without the database."""

    @property
    def secrets(self) -> list[str]:
        """The passwords in the login and in the options."""
        options = dict(parse_qsl(self.query))
        found = [self.password, *(options.get(name) for name in _SECRETS)]
        return [secret for secret in found if secret]


class Connected(NamedTuple):
    """A client, and the function that closes it."""

    client: Any
    close: Callable[[], Awaitable[None]]


def parse(url: str) -> Address:
    """Parses the URL of a server.

    Raises:
        TypeError: `url` is not a str.
        ValueError: `url` is not the URL of a server. The message says what to write instead. It
            shows no part of the URL.
    """
    arguments.check_text("url", url)
    split = _split(url)
    family, _, topology = split.scheme.partition("+")
    options = [(name, value) for name, value in parse_qsl(split.query) if name != "db"]
    service, database = "", "" if split.scheme == "unix" else split.path.strip("/")
    if topology == "sentinel":
        service, _, database = database.partition("/")
        if not service:
            message = "url must name the service: redis+sentinel://host:26379/mymaster"
            raise ValueError(message)
    number = _database(dict(parse_qsl(split.query)).get("db") or database or "0")
    if topology == "cluster" and number:
        message = "url must not name a database: a cluster has only one"
        raise ValueError(message)
    login, _, places = split.netloc.rpartition("@")
    username, _, password = login.partition(":")
    default = DEFAULT_SENTINEL_PORT if topology == "sentinel" else DEFAULT_PORT
    hosts = tuple(_host(place, default) for place in places.split(",") if place)
    if topology and not hosts:
        message = f"url must name a host: redis+{topology}://host:{default}"
        raise ValueError(message)
    return Address(
        library="valkey" if family.startswith("valkey") else "redis",
        topology="unix" if split.scheme == "unix" else topology,
        tls=family in {"rediss", "valkeys"},
        username=unquote(username) or None,
        password=unquote(password) or None,
        hosts=hosts,
        path=unquote(split.path),
        service=service,
        database=number,
        query=urlencode(options),
    )


def check(url: str) -> None:
    """Checks a URL, and its options if a client library is installed. Opens no connection.

    Raises:
        TypeError: `url` is not a str.
        ValueError: `parse` refuses `url`, or the client does not know an option.
    """
    parse(url)
    try:
        connect(url, 1.0, 1.0)
    except ImportError:
        return


def _split(url: str) -> SplitResult:
    """Splits a URL into its parts, and checks its scheme and the end of its login.

    Raises:
        ValueError: The URL is wrong; the message shows no part of it.
    """
    try:
        split = urlsplit(url)
    except ValueError:  # the error's text shows the login
        message = "url must have a host; in a password write %5B in place of ["
        raise ValueError(message) from None
    family, _, topology = split.scheme.partition("+")
    if (family not in SCHEMES or topology not in TOPOLOGIES) and split.scheme != "unix":
        message = (
            "url must begin with redis://, rediss://, unix://, redis+sentinel:// or "
            "redis+cluster:// (or valkey for redis)"
        )
        raise ValueError(message)
    if split.fragment:
        message = "url must not have a #: in a password it is written %23"
        raise ValueError(message)
    if _has_stray_login(split):
        message = (
            "url must not have an @ after the host: in a password / is written %2F and ? is "
            "written %3F; anywhere else @ is written %40"
        )
        raise ValueError(message)
    return split


def _has_stray_login(split: SplitResult) -> bool:
    """Returns True if an `@` after the host may be the end of a login with an unquoted `/` or `?`.

    The path of a socket may contain an `@` if the URL has no login, or if the login has ended.
    """
    if split.scheme != "unix":
        return "@" in split.path + split.query
    begun = bool(split.netloc) and not split.netloc.endswith("@")
    return "@" in split.query or "@/" in split.path or (begun and "@" in split.path)


def connect(url: str, connect_timeout: float, command_timeout: float) -> Connected:
    """Creates a client for asyncio. It connects when it is first used, in that event loop.

    Raises:
        ImportError: Neither redis-py nor valkey-py is installed; the message says how to get it.
        ValueError: `parse` refuses `url`, or the client does not know an option.
    """
    client, parts = _connect(url, "asyncio", connect_timeout, command_timeout)

    async def close() -> None:
        for part in parts:
            await part.aclose()

    return Connected(client, close)


def connect_blocking(url: str, connect_timeout: float, command_timeout: float) -> Any:  # noqa: ANN401
    """Creates a synchronous client, for use in a background thread.

    The client of a cluster connects at once, others when they are first used.

    Raises:
        ImportError: Neither redis-py nor valkey-py is installed; the message says how to get it.
        ValueError: `parse` refuses `url`, or the client does not know an option.
        Exception: The client cannot reach the cluster.
    """
    client, _ = _connect(url, None, connect_timeout, command_timeout)
    return client


def _connect(
    url: str, kind: str | None, connect_timeout: float, command_timeout: float
) -> tuple[Any, list[Any]]:
    """Creates a client. Returns it, and the objects that have to be closed with it."""
    address = parse(url)
    library = _library(address.library)
    modules = f"{library}.{kind}" if kind else library
    make = {"sentinel": _through_sentinel, "cluster": _to_cluster}.get(address.topology, _to_server)
    taken = f"url has an option that {library}-py does not take"
    try:
        options = _options(library, modules, address, connect_timeout, command_timeout)
    except ValueError as error:  # names the option and not its value
        message = f"{taken}: {error}"
        raise ValueError(message) from None
    try:
        client, parts = make(modules, library.capitalize(), address, options)
        _check_connections(client)
    except TypeError as error:  # an unknown option: names it
        if any(f"{name}=" in url for name in _SECRETS):  # it may be a part of a password
            message = f"{taken}; in a password write %26 in place of &"
        else:
            message = f"{taken}: {error}"
        raise ValueError(message) from None
    except Exception as error:
        if kind is None and address.topology == "cluster":  # it connects at once
            raise
        message = f"{taken}: {type(error).__name__}"
        raise ValueError(message) from None
    return client, parts


def _check_connections(client: Any) -> None:  # noqa: ANN401
    """Creates a connection without opening it: the client checks some options only there.

    Raises:
        Exception: The client refuses an option.
    """
    pools = [getattr(client, "connection_pool", None)]
    if (sentinels := getattr(pools[0], "sentinel_manager", None)) is not None:
        pools += [sentinel.connection_pool for sentinel in sentinels.sentinels]
    for pool in pools:
        if pool is not None:
            pool.connection_class(**pool.connection_kwargs)


def _to_server(
    modules: str, name: str, address: Address, options: dict[str, Any]
) -> tuple[Any, list[Any]]:
    if address.topology == "unix":
        place: dict[str, Any] = {"unix_socket_path": address.path}
    else:
        host, port = address.hosts[0] if address.hosts else ("localhost", DEFAULT_PORT)
        place = {"host": host, "port": port, "ssl": address.tls}
    client = getattr(import_module(modules), name)(**place, db=address.database, **options)
    return client, [client]


def _through_sentinel(
    modules: str, _name: str, address: Address, options: dict[str, Any]
) -> tuple[Any, list[Any]]:
    named = [name for name in options if name.startswith("sentinel_")]
    of_sentinels = {name.removeprefix("sentinel_"): options.pop(name) for name in named}
    shared = {
        name: value
        for name, value in options.items()
        if name == "socket_connect_timeout" or name.startswith("ssl_")
    }
    sentinel = import_module(f"{modules}.sentinel").Sentinel(
        address.hosts, sentinel_kwargs={**shared, **of_sentinels, "ssl": address.tls}, **options
    )
    client = sentinel.master_for(address.service, ssl=address.tls, db=address.database)
    return client, [client, *sentinel.sentinels]


def _to_cluster(
    modules: str, name: str, address: Address, options: dict[str, Any]
) -> tuple[Any, list[Any]]:
    module = import_module(f"{modules}.cluster")
    nodes = [module.ClusterNode(host, port) for host, port in address.hosts]
    # A cluster that covers only some slots is still used: requests to the other slots are misses.
    client = getattr(module, f"{name}Cluster")(
        startup_nodes=nodes, require_full_coverage=False, ssl=address.tls, **options
    )
    return client, [client]


def _options(
    library: str, modules: str, address: Address, connect_timeout: float, command_timeout: float
) -> dict[str, Any]:
    """Returns the options of a client. Options of the URL override those of this package.

    Raises:
        ValueError: The client does not accept the value of an option; the message names it.
    """
    retry = import_module(f"{modules}.retry").Retry
    backoff = import_module(f"{library}.backoff").NoBackoff
    options: dict[str, Any] = {
        "socket_connect_timeout": connect_timeout,
        "socket_timeout": command_timeout,
        # Reconnects once if the server closed an idle connection.
        "retry": retry(backoff(), 1),
        "protocol": 2,
    }
    if address.topology == "sentinel":
        options["sentinel_socket_timeout"] = command_timeout
    if modules.endswith(".asyncio") and address.topology != "cluster":
        # With a time-out, the client sends through `asyncio.wait_for`. On CPython 3.11 that drops
        # cancellations, and with them the time-out of the request. A cluster and sentinels keep
        # their time-out: the first of several servers may hang.
        options["socket_timeout"] = None
    parse_options = import_module(f"{modules}.connection").parse_url
    options |= parse_options(f"redis://?{address.query}")
    login = {"username": address.username, "password": address.password}
    return options | {name: value for name, value in login.items() if value is not None}


def _library(preferred: str) -> str:
    """Returns the name of an installed client library, the preferred one if it is installed."""
    for name in (preferred, "redis", "valkey"):
        try:
            return import_module(name).__name__
        except ImportError:
            continue
    message = (
        "a Redis client is not installed: install redis-py with pip install 'sark-cache[redis]', "
        "or valkey-py with pip install valkey"
    )
    raise ImportError(message)


def _host(place: str, default: int) -> tuple[str, int]:
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):  # the colons of [::1] precede no port
        host, port = place, str(default)
    is_ipv6 = host.startswith("[") and host.endswith("]")
    if not is_ipv6 and any(sign in host for sign in ":[]"):
        message = "url must name a host as host:port or [::1]:port, after user:password@ if any"
        raise ValueError(message)
    if not (_is_number(port) and 0 < int(port) < 2**16):
        message = "url must have a port between 1 and 65535 after the host"
        raise ValueError(message)
    return unquote(host.strip("[]")) or "localhost", int(port)


def _database(text: str) -> int:
    if not _is_number(text):
        message = "url must end in the number of a database; in a password / is written %2F"
        raise ValueError(message)
    return int(text)


def _is_number(text: str) -> bool:
    """Returns True for a decimal number of at most `MAX_DIGITS` ASCII digits."""
    return text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS
