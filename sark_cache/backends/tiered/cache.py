"""`TieredPolicyCache`: decisions cached in this process, and revoked by every process."""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar, Final, Literal, TypeVar

from sark_cache._core import arguments
from sark_cache._core.arguments import NOT_GIVEN
from sark_cache._core.coroutines import Deferred, returns_awaitable
from sark_cache._core.keys import Scope
from sark_cache.backends._shared.background_refresh import running_loop
from sark_cache.backends._shared.defaults import settings_in_force
from sark_cache.backends.base import BasePolicyCache
from sark_cache.backends.native import RustPolicyCache
from sark_cache.backends.tiered.own_records import OwnRecords
from sark_cache.backends.tiered.reader import EXIT_SECONDS
from sark_cache.backends.tiered.revoker import Revoker
from sark_cache.backends.tiered.thread import Asked, ReaderThread
from sark_cache.metrics import SETTLE_BOUNDS_SECONDS, CacheMetrics, LatencyHistogram
from sark_cache.types import Context

T = TypeVar("T")

WAIT_SECONDS: Final = 0.05
"""The longest wait of a request for a confirmation, in seconds."""
CONFIRM_TRIES: Final = 4
"""The number of round trips that `confirm` waits for, and one connection."""


class TieredPolicyCache(RustPolicyCache):
    """A native cache that every process with the same Redis or Valkey server can revoke.

    A hit costs what it costs in a `RustPolicyCache`, and does not leave the calling thread. A
    revocation is recorded in a log on the server, and a thread of this process applies the records
    of all processes. The thread asks the server for news at least twice per `max_staleness`. So no
    process serves a decision longer than `max_staleness` seconds after its revocation was recorded.
    A process that cannot reach the server for that long serves nothing, and each request evaluates.

    The thread starts when the cache is first used. All caches of a process with the same server and
    namespace share it. Otherwise the cache is like a `RustPolicyCache`: `invalidate` has taken
    effect in this process when it returns its awaitable. The numbers of entries that revocations
    return are those of this process.

    Args:
        redis_client: A URL, or a client of `redis.asyncio` or `valkey.asyncio`. A thread connects
            as the client does, so the client must not have a connection class or connect function
            of its own. None: the server comes from the settings in force, and so do the namespace,
            time-outs, `replicas` and `max_staleness`, unless they are given. If the settings name
            no server, it is `redis://localhost:6379/0`.
        max_size: The maximum number of entries, at least 1.
        ttl_seconds: The time to live of entries for which `set` gives none, in seconds. None: 300.
        enabled: If False, `get` returns None, `set` returns False, and no metric changes.
        use_optimized_ttl: If True, a `sensitivity` limits the time to live to its value in
            `OPTIMIZED_TTL`.
        stale_while_revalidate: If True, a hit on a stale entry refreshes it in the background with
            the callback, if one is set.
        max_bytes: The maximum size in bytes. None: no limit.
        eviction: The entry that a full cache evicts first: `"lru"` or `"tiny_lfu"`.
        max_staleness: The maximum time, in seconds, for which a process that cannot be reached may
            serve a revoked decision, 0.05 to 60. Use the same in all processes. None: 1.
        settle: If True, a revocation returns when no process serves the decisions any more. That
            takes some milliseconds, and up to 1.1 times `max_staleness` if a process does not
            answer, or if this process has just started. If False, it returns when the server has
            confirmed it.
        connect_timeout: The maximum time to connect, in seconds. None: 0.05.
        command_timeout: The maximum time of a command, in seconds. None: 0.25.
        namespace: The prefix of every key. Services with different namespaces on one server share
            no revocations. At most 64 letters, digits and characters of `._:/-`.
        replicas: The minimum number of replicas that must confirm a revocation, on a cluster for
            each primary. None: the number that the primary reports.
        trust_server: If True, the cache follows the server even if a failover may take less time
            than `max_staleness` plus 3 seconds, or if that time cannot be read. A process that is
            cut off together with the old primary can then serve a revoked decision for some
            seconds.

    Raises:
        ImportError: Neither redis-py nor valkey-py is installed. The message says how to install
            one.
        RuntimeError: The compiled module is not available.
        TypeError, ValueError: An argument cannot be used. The message names it.
    """

    backend: ClassVar[str] = "tiered"

    def __init__(
        self,
        redis_client: Any | None = None,  # noqa: ANN401 - a client of either library, or a URL
        *,
        max_size: int | None = BasePolicyCache.DEFAULT_MAX_SIZE,
        ttl_seconds: float | None = BasePolicyCache.DEFAULT_TTL_SECONDS,
        enabled: bool = True,
        use_optimized_ttl: bool = True,
        stale_while_revalidate: bool = True,
        max_bytes: int | None = None,
        eviction: Literal["lru", "tiny_lfu"] = "lru",
        max_staleness: float | None = None,
        settle: bool = True,
        connect_timeout: float | None = None,
        command_timeout: float | None = None,
        namespace: str = "",
        replicas: int | None = None,
        trust_server: bool = False,
    ) -> None:
        if max_staleness is None:
            settings = settings_in_force() if redis_client is None else None
            max_staleness = (
                arguments.DEFAULT_MAX_STALENESS if settings is None else settings.max_staleness
            )
        self._max_staleness: Final = arguments.read_max_staleness(max_staleness)
        own_records = OwnRecords()
        self._revoker: Final = Revoker(
            redis_client,
            own_records,
            connect_timeout=connect_timeout,
            command_timeout=command_timeout,
            namespace=namespace,
            replicas=replicas,
            settle=settle,
            max_staleness=self._max_staleness,
            trust_server=trust_server,
        )
        self._reader: Final = self._revoker.reader
        self._lease = self._reader.lease
        super().__init__(
            max_size,
            ttl_seconds,
            enabled,
            use_optimized_ttl,
            stale_while_revalidate=stale_while_revalidate,
            max_bytes=max_bytes,
            eviction=eviction,
        )
        self._reader.attach(self, own_records, self._max_staleness)

    # The lease

    @property
    def max_staleness(self) -> float:
        """The maximum time, in seconds, for which this process may serve a revoked decision."""
        return self._max_staleness

    @property
    def lease(self) -> float:
        """The time, in seconds, for which hits may still be served without news. 0.0: none."""
        return self._reader.lease.remaining()

    @property
    def record_lag(self) -> float:
        """The age of the last revocation in the log when this process read it, in seconds.

        It compares the server's clock with that of this machine. 0.0: no revocation was read yet.
        """
        return self._reader.follower.record_lag

    def follow(self) -> None:
        """Starts the thread that follows the log, if it does not run. So does the first use."""
        self._reader.ask()

    @property
    def refused(self) -> str | None:
        """The reason why this process cannot follow the log. None: no reason is known.

        There is a reason if the server refuses a command, or if a failover may happen before leases
        end. Then the cache serves nothing, and keeps trying.
        """
        return self._reader.refused

    async def confirm(self) -> bool:
        """Asks the log for news now, and applies it. Returns True if hits may be served.

        Call it where the machine may have been paused from outside, because no clock shows such a
        pause: for example, in the first line of a function on a platform that freezes processes.
        Takes one round trip. Returns False if the server does not answer.
        """
        if self.closed:
            return False
        connecting, command = self._revoker.timeouts
        asked = self._reader.ask()
        return asked is not None and await _ended(asked, connecting + CONFIRM_TRIES * command)

    async def health_check(self) -> bool:
        """Returns True if hits may be served. Asks the log if there is no lease."""
        return not self.closed and (self.lease > 0 or await self.confirm())

    # Revocations

    @returns_awaitable
    def delete(
        self,
        user_id: str,
        action: str,
        resource: str,
        context: Context | None = None,
        *,
        policy: str | None = None,
    ) -> Coroutine[object, None, bool]:
        """Revokes the decision for a request in every process.

        Other processes may revoke the decisions for all contexts of the request.

        Returns:
            True if this process had one.

        Raises:
            TypeError: An argument has the wrong type. The message names it.
            InvalidationError: The server did not confirm the revocation. It is in effect in this
                process.
        """
        here = super().delete(user_id, action, resource, context, policy=policy)
        return _both(here, self._revoker.delete(user_id, action, resource, context, policy=policy))

    @returns_awaitable
    def invalidate(
        self,
        user_id: str | None = None,
        action: str | None = None,
        resource: str | None = None,
        *,
        tags: Collection[str] | None = NOT_GIVEN,
        policy: str | None = None,
    ) -> Coroutine[object, None, int]:
        """Revokes, in every process, all decisions that match every given field.

        Without fields it revokes all decisions, and logs a warning; `clear` does the same without
        a warning. The revocation is in effect in this process when the call returns its awaitable.
        It is carried out even if it is not awaited. If it is not awaited and the server does not
        confirm it, the failure is logged at ERROR and counted.

        Args:
            user_id: Only decisions for this user.
            action: Only decisions for this action.
            resource: Only decisions for this resource.
            tags: Only decisions with at least one of these tags. None: the same as not given.
            policy: Only decisions of this policy. `""`: only decisions that were stored without a
                policy. None: all policies.

        Returns:
            The number of entries removed from this process.

        Raises:
            TypeError: An argument has the wrong type. The message names it.
            ValueError: `tags` is empty, or has more than 10,000 tags.
            InvalidationError: The server did not confirm the revocation. It is in effect in this
                process.
        """
        names = arguments.read_revoked_tags(tags)
        named: dict[str, Any] = {"tags": names} if names else {}
        here = super().invalidate(user_id, action, resource, policy=policy, **named)
        if names or any(part is not None for part in (user_id, action, resource, policy)):
            everywhere: Coroutine[object, None, object] = self._revoker.invalidate(
                user_id, action, resource, policy=policy, **named
            )
        else:
            everywhere = self._revoker.clear()  # the warning is logged above
        return _both(here, everywhere)

    @returns_awaitable
    def invalidate_pattern(self, pattern: str) -> Coroutine[object, None, int]:
        """Revokes, in every process, all decisions whose text key matches a Redis glob.

        Returns:
            The number of entries removed from this process.

        Raises:
            TypeError: The pattern is not a `str`.
            ValueError: The pattern has more than 1,024 bytes, or is not UTF-8.
            InvalidationError: The server did not confirm the revocation. It is in effect in this
                process.
        """
        here = super().invalidate_pattern(pattern)
        return _both(here, self._revoker.invalidate_pattern(pattern))

    @returns_awaitable
    def clear(self) -> Coroutine[object, None, bool]:
        """Revokes all decisions in every process. Returns True.

        Raises:
            InvalidationError: The server did not confirm the revocation. It is in effect in this
                process.
        """
        here = super().clear()
        return _both(here, self._revoker.clear())

    # Upkeep

    @property
    def metrics(self) -> CacheMetrics:
        """A snapshot of the counters. Takes some microseconds."""
        numbers, of_revoker = super().metrics, self._revoker.metrics
        return replace(
            numbers,
            total_requests=0,  # computed again
            errors=numbers.errors + of_revoker.errors,
            unconfirmed_revocations=of_revoker.unconfirmed_revocations,
        )

    def reset_metrics(self) -> None:
        """Sets every counter and histogram to zero."""
        super().reset_metrics()
        self._revoker.reset_metrics()

    def settle_histogram(self, bounds: Sequence[float] = SETTLE_BOUNDS_SECONDS) -> LatencyHistogram:
        """Returns the times that revocations took to settle after their confirmation."""
        return self._revoker.settle_histogram(bounds)

    @property
    def circuit_open(self) -> bool:
        """True while the circuit is open: the server failed, and no revocation is sent to it."""
        return self._revoker.circuit_open

    @returns_awaitable
    def close(self) -> Coroutine[object, None, None]:
        """Closes the cache: removes all entries at the call, and ends what runs in the background.

        Waits up to 1 s for running revocations, and up to 2 s for the thread that follows the log,
        unless another cache needs it.
        """
        here = super().close()
        thread = self._reader.detach(self)
        return Deferred(lambda: self._end(here, thread))

    async def _end(self, here: Coroutine[object, None, None], thread: ReaderThread | None) -> None:
        await here
        await self._revoker.close()
        if thread is not None:
            await _wait(thread.ended, EXIT_SECONDS)
            if thread.ended.done():
                thread.thread.join()  # it has nothing left to do

    # For the compiled base

    def _lapsed(
        self, again: Callable[[], Any], otherwise: Coroutine[object, None, Any] | None
    ) -> Coroutine[object, None, Any] | None:
        """Lets a request without a lease wait for a confirmation that all such requests share.

        None: the request does not wait, because the last confirmation failed, or there is no event
        loop or no thread to wait for.

        Args:
            again: Looks the request up again.
            otherwise: Evaluates it. None: the result is a miss.
        """
        asked = self._reader.ask()
        if asked is None or self._reader.has_failed or running_loop() is None:
            return None
        return Deferred(lambda: self._look_up_again(asked, again, otherwise))

    async def _look_up_again(
        self,
        asked: Asked,
        again: Callable[[], Any],
        otherwise: Coroutine[object, None, Any] | None,
    ) -> Any:  # noqa: ANN401 - what the lookup returns
        limit = min(WAIT_SECONDS, self._revoker.timeouts[1])
        await _ended(asked, asked.asked_at + limit - time.monotonic())
        found = again()
        if otherwise is None:
            return found
        if found is None:
            return await otherwise
        otherwise.close()
        return found

    def _replaced(
        self, policy: str, user_id: str, action: str, resource: str, context: str
    ) -> None:
        """Revokes a decision in the other processes, because another one takes its place here.

        Args:
            policy: The policy of the decision.
            user_id: The user of its request.
            action: The action of its request.
            resource: The resource of its request.
            context: All digits of its context's hash, or `none`.
        """
        self._revoker.revoke_replaced(Scope(user_id, action, resource, policy, context))


def _both(
    here: Coroutine[object, None, T], everywhere: Coroutine[object, None, object]
) -> Coroutine[object, None, T]:
    """Returns an awaitable that waits for both, and returns the result of the first one."""

    async def wait() -> T:
        await everywhere
        return await here

    return Deferred(wait)


async def _ended(asked: Asked, seconds: float) -> bool:
    """Waits for a confirmation, at most `seconds`. Returns whether the lease was extended."""
    await _wait(asked, seconds)
    return asked.done() and asked.result()


async def _wait(future: Future[Any], seconds: float) -> None:
    """Waits for a future of another thread, at most `seconds`."""
    if future.done() or seconds <= 0:
        return
    waiting = asyncio.wrap_future(future)
    try:
        await asyncio.wait([waiting], timeout=seconds)
    finally:
        with suppress(asyncio.CancelledError):
            waiting.cancel()
