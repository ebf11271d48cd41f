"""The part of a tiered cache that revokes in other processes: it appends to their log.

It is a `PolicyCache`. So the same call also revokes the decisions that processes without a tiered
cache stored on the server. It stores and serves nothing itself.
"""

from typing import Any, ClassVar, Final

from sark_cache._core.blocking_clients import blocking_clients
from sark_cache._core.keys import Scope
from sark_cache.backends.redis.cache import PolicyCache
from sark_cache.backends.tiered.own_records import OwnRecords
from sark_cache.backends.tiered.reader import Reader, reader_of
from sark_cache.errors import InvalidationError


class Revoker(PolicyCache):
    """Revokes decisions in every process that shares a log.

    Args:
        redis_client: A URL, or a client of `redis.asyncio` or `valkey.asyncio`. None: the server of
            the settings in force.
        own_records: Gets the nonce of each record before the record is sent.
        connect_timeout: The maximum time to connect, in seconds. None: that of `PolicyCache`.
        command_timeout: The maximum time of a command, in seconds. None: that of `PolicyCache`.
        namespace: The prefix of every key.
        replicas: The minimum number of replicas that must confirm a revocation.
        settle: If True, a revocation returns when no process serves the decisions any more.
        max_staleness: The span of this process, in seconds.
        trust_server: If True, no failover is taken to be faster than leases end.

    Raises:
        ImportError: Neither redis-py nor valkey-py is installed.
        TypeError, ValueError: An argument cannot be used. The message names it.
    """

    backend: ClassVar[str] = "tiered"

    def __init__(
        self,
        redis_client: Any | None,  # noqa: ANN401 - a client of either library, or a URL
        own_records: OwnRecords,
        *,
        connect_timeout: float | None,
        command_timeout: float | None,
        namespace: str,
        replicas: int | None,
        settle: bool,
        max_staleness: float,
        trust_server: bool,
    ) -> None:
        self._on_append = own_records.note
        super().__init__(
            redis_client,
            connect_timeout=connect_timeout,
            command_timeout=command_timeout,
            namespace=namespace,
            replicas=replicas,
            settle=settle,
            max_staleness=max_staleness,
        )
        self.reader: Final = self._find_reader(trusts_server=trust_server)
        """The reader of the log in this process. It is shared by all caches of the log."""
        self._store.settling = self.reader.settling

    @property
    def timeouts(self) -> tuple[float, float]:
        """The maximum times to connect and of a command, in seconds."""
        return self._connections.address[1:]

    async def drop_idle(self) -> None:
        """Closes the idle connections of the running event loop."""
        await self._connections.drop_idle()

    def revoke_replaced(self, scope: Scope) -> None:
        """Revokes one decision in the other processes, because another one takes its place here.

        It runs in the background. A failure is logged at ERROR and counted, as for a revocation
        that no caller awaits.
        """
        _ = self._begin_revocation(
            "set", lambda connection: self._store.invalidate(connection, scope, ()), int
        )

    def _note_unreadable(self, operation: str, reason: str) -> None:
        """Does nothing: the native cache has counted and logged the request."""

    def _unconfirmed(self, operation: str, reason: str) -> InvalidationError:
        return InvalidationError(
            f"{operation} could not be confirmed by the log: {reason}. The revocation is in "
            "effect in this process, but other processes may still serve the decisions: try again"
        )

    def _find_reader(self, *, trusts_server: bool) -> Reader:
        servers, connecting, command = self._connections.address
        namespace = self._store.namespace
        connect = blocking_clients(servers, connecting, command)
        key = (servers, connecting, command, namespace, trusts_server)
        return reader_of(
            key, lambda: Reader(connect, namespace, command, trusts_server=trusts_server)
        )
