"""Connections of commands to Redis, with longer timeouts than those of requests.

A request gives Redis 50 ms to connect and 250 ms to answer. A command gives it 2 s for each: an
operator may reach Redis through a slow tunnel.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from sark_cache._core import redis_urls as urls
from sark_cache._core.errors import with_text
from sark_cache.backends._shared.defaults import URL_VARIABLE
from sark_cache.cli._exit import ExitCode, FailureError

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

CONNECT_SECONDS = 2.0
COMMAND_SECONDS = 2.0


OF_SENTINEL = re.compile(
    r"<(?:redis|valkey)\.client\..*?\bhost=([^,]+),port=(\d+).*?>\)>\)>(?= - )"
)
"""A Sentinel in an error text of the client, which lists every option of its connections."""


class TimeOuts(NamedTuple):
    """The times to wait for a connection and for a reply, in seconds."""

    connect: float
    command: float


class PrimaryClient(NamedTuple):
    """A primary server and a client for it."""

    address: str
    client: Any
    """A synchronous client that speaks to this server only."""


def of_requests(settings: "CacheSettings") -> TimeOuts:
    """Returns the timeouts of a request."""
    return TimeOuts(settings.redis_connect_timeout, settings.redis_command_timeout)


def of_commands(settings: "CacheSettings") -> TimeOuts:
    """Returns the timeouts of a command: 2 s, or those of a request if they are longer."""
    connect, command = of_requests(settings)
    return TimeOuts(max(connect, CONNECT_SECONDS), max(command, COMMAND_SECONDS))


def url_of(settings: "CacheSettings") -> str:
    """Returns the URL of Redis from the settings. It contains the password: never show it."""
    return settings.redis_url.get_secret_value() if settings.redis_url else ""


@contextmanager
def connected(settings: "CacheSettings", timeouts: TimeOuts) -> Generator[Any]:
    """Connects to Redis, provides a synchronous client for the block, and closes it afterwards.

    Raises:
        FailureError: Redis cannot be reached, its URL has an option that the client does not know,
            or no client is installed.
    """
    client: Any = None
    try:
        try:
            client = urls.connect_blocking(url_of(settings), *timeouts)
            if not is_cluster(client):  # a cluster's client has connected to all its servers
                client.ping()
        except ImportError as error:
            raise FailureError(ExitCode.MISSING, str(error)) from None
        except ValueError as error:
            raise FailureError(ExitCode.SETTINGS, f"{URL_VARIABLE}: {error}") from None
        except Exception as error:  # noqa: BLE001 - any error means that it cannot be reached
            said = without_secrets(error, settings)
            message = f"Redis at {settings.redis_address} cannot be reached: {said}"
            raise FailureError(ExitCode.UNREACHABLE, message) from None
        yield client
    finally:
        _close(client)


def is_cluster(client: Any) -> bool:  # noqa: ANN401 - of either library
    """Returns whether a client speaks to a cluster."""
    return hasattr(client, "get_primaries")


def primaries_of(client: Any) -> list[PrimaryClient]:  # noqa: ANN401 - of either library
    """Returns the primary servers that a client speaks to.

    Raises:
        Exception: An error of the client: no Sentinel knows a primary.
    """
    if is_cluster(client):
        of_node = getattr(client, "get_redis_connection", None) or client.get_valkey_connection
        nodes = sorted(client.get_primaries(), key=lambda node: str(node.name))
        return [PrimaryClient(str(node.name), of_node(node)) for node in nodes]
    pool = client.connection_pool
    if hasattr(pool, "get_master_address"):
        host, port = pool.get_master_address()
        return [PrimaryClient(f"{host}:{port}", client)]
    place = pool.connection_kwargs
    address = place.get("path") or f"{place.get('host')}:{place.get('port')}"
    return [PrimaryClient(str(address), client)]


@contextmanager
def asking(settings: "CacheSettings") -> Generator[None]:
    """Converts an error of the client in its block to a `FailureError`.

    Raises:
        FailureError: The block raised an error.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - any error of the client
        message = f"Redis at {settings.redis_address} failed: {without_secrets(error, settings)}"
        raise FailureError(ExitCode.WRONG, message) from None


def without_secrets(error: Exception, settings: "CacheSettings") -> str:
    """Returns the text of an error without passwords. A Sentinel is shown by its address."""
    said = OF_SENTINEL.sub(r"\1:\2", with_text(error))
    for secret in urls.parse(url_of(settings)).secrets:
        said = said.replace(secret, "***").replace(quote(secret, safe=""), "***")
    return said


def _close(client: Any) -> None:  # noqa: ANN401 - of either library
    """Closes a client and its connections to Sentinels."""
    pool = getattr(client, "connection_pool", None)
    sentinels = getattr(getattr(pool, "sentinel_manager", None), "sentinels", ())
    for each in (client, *sentinels):
        with suppress(Exception):  # an error does no harm: the client is not used any more
            each.close()
