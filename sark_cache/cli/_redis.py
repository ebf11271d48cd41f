"""The servers that a command speaks to, over a client that is more patient than a request is.

A request gives Redis 50 ms to connect and 250 ms to answer; who waits at a terminal may be at the
far end of a tunnel.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from sark_cache._core import redis_urls as urls
from sark_cache.backends._shared.defaults import URL_VARIABLE
from sark_cache.cli._exit import ExitCode, FailureError

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

CONNECT_SECONDS = 2.0
COMMAND_SECONDS = 2.0


OF_SENTINEL = re.compile(
    r"<(?:redis|valkey)\.client\..*?\bhost=([^,]+),port=(\d+).*?>\)>\)>(?= - )"
)
"""A Sentinel as an error of the client shows it: with every option of its connections."""


class TimeOuts(NamedTuple):
    """How long to wait, in seconds."""

    connect: float
    command: float


class Primary(NamedTuple):
    """A server that keeps keys of its own."""

    address: str
    client: Any
    """A synchronous client of this server alone."""


def of_requests(settings: "CacheSettings") -> TimeOuts:
    """How long a request waits."""
    return TimeOuts(settings.redis_connect_timeout, settings.redis_command_timeout)


def of_commands(settings: "CacheSettings") -> TimeOuts:
    """How long a command waits: at least as long as a request."""
    connect, command = of_requests(settings)
    return TimeOuts(max(connect, CONNECT_SECONDS), max(command, COMMAND_SECONDS))


def url_of(settings: "CacheSettings") -> str:
    """The URL of the server that the settings name, password and all: not to be shown."""
    return settings.redis_url.get_secret_value() if settings.redis_url else ""


@contextmanager
def connected(settings: "CacheSettings", timeouts: TimeOuts) -> Generator[Any]:
    """A synchronous client of a server that answers, closed afterwards.

    Raises:
        FailureError: The server cannot be reached, its URL has an option that the client does not
            know, or no client is installed.
    """
    client: Any = None
    try:
        try:
            client = urls.connect_blocking(url_of(settings), *timeouts)
            if not is_cluster(client):  # which has connected, to as many servers as there are
                client.ping()
        except ImportError as error:
            raise FailureError(ExitCode.MISSING, str(error)) from None
        except ValueError as error:
            raise FailureError(ExitCode.SETTINGS, f"{URL_VARIABLE}: {error}") from None
        except Exception as error:  # noqa: BLE001 - whatever it is, it cannot be reached
            message = f"Redis at {settings.redis_address} cannot be reached: {why(error, settings)}"
            raise FailureError(ExitCode.UNREACHABLE, message) from None
        yield client
    finally:
        _close(client)


def is_cluster(client: Any) -> bool:  # noqa: ANN401 - of either library
    """Whether a client is that of a cluster."""
    return hasattr(client, "get_primaries")


def primaries_of(client: Any) -> list[Primary]:  # noqa: ANN401 - of either library
    """The servers behind a client that keep keys of their own.

    Raises:
        Exception: What the client raises when no sentinel knows a primary.
    """
    if is_cluster(client):
        of_node = getattr(client, "get_redis_connection", None) or client.get_valkey_connection
        nodes = sorted(client.get_primaries(), key=lambda node: str(node.name))
        return [Primary(str(node.name), of_node(node)) for node in nodes]
    pool = client.connection_pool
    if hasattr(pool, "get_master_address"):
        host, port = pool.get_master_address()
        return [Primary(f"{host}:{port}", client)]
    place = pool.connection_kwargs
    address = place.get("path") or f"{place.get('host')}:{place.get('port')}"
    return [Primary(str(address), client)]


@contextmanager
def asking(settings: "CacheSettings") -> Generator[None]:
    """Makes a `FailureError` of what a client raises when the server does not do its part."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever the client raises
        message = f"Redis at {settings.redis_address} failed: {why(error, settings)}"
        raise FailureError(ExitCode.WRONG, message) from None


def why(error: Exception, settings: "CacheSettings") -> str:
    """Returns what an error says, without passwords, and with a Sentinel by its address."""
    named = OF_SENTINEL.sub(r"\1:\2", str(error))
    said = f"{type(error).__name__}: {named}"
    for secret in urls.parse(url_of(settings)).secrets:
        said = said.replace(secret, "***").replace(quote(secret, safe=""), "***")
    return said


def _close(client: Any) -> None:  # noqa: ANN401 - of either library
    """Closes a client and what it asks where the primary is."""
    pool = getattr(client, "connection_pool", None)
    sentinels = getattr(getattr(pool, "sentinel_manager", None), "sentinels", ())
    for one in (client, *sentinels):
        with suppress(Exception):  # whatever it is, the client is not used any more
            one.close()
