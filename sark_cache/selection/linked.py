"""Fans revocations out: invalidating any cache of this process invalidates all of them.

While a rollout moves, a user is served by one backend now and by another later. A decision that the
first backend still holds must not be served again after it was revoked through the second.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from sark_cache._core import arguments
from sark_cache._core.arguments import NOT_GIVEN
from sark_cache._core.coroutines import Deferred, returns_awaitable
from sark_cache.types import Context

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

Peers: TypeAlias = Callable[[], Iterable["RevokesEverywhere"]]


class RevokesEverywhere:
    """A mixin of the caches of a process, placed before the cache class. Revokes in all of them.

    At the call, a revocation takes effect in the native cache, and starts in Redis.
    """

    made_from: "CacheSettings | None" = None
    """The settings that the cache was created from. None: it was created without settings."""

    _peers: Peers = tuple

    @returns_awaitable
    def close(self) -> Coroutine[object, None, None]:
        """Closes idle connections. The cache stays usable, because other callers share it.

        `close_policy_caches` closes it for good.
        """
        return Deferred(self._drop_idle)

    def end(self) -> Coroutine[object, None, None]:
        """Closes the cache for good: a native cache at the call, another cache at the `await`."""
        backend: Any = super()
        closed: Coroutine[object, None, None] = backend.close()
        return closed

    async def _drop_idle(self) -> None:
        """Closes idle connections. A cache in memory has none."""

    def covers(self, other: object) -> bool:
        """Returns whether a revocation by this cache takes effect in another one, too."""
        del other
        return False

    def begin(
        self,
        operation: str,
        *args: Any,  # noqa: ANN401 - the arguments of the operation
        alone: bool,
        **kwargs: Any,  # noqa: ANN401
    ) -> Coroutine[object, None, Any]:
        """Calls an operation of the cache class.

        Args:
            operation: The name of the method.
            args: Its arguments.
            alone: If True, only the decisions in this process have to be revoked.
            kwargs: Its arguments.
        """
        del alone
        begun: Coroutine[object, None, Any] = getattr(super(), operation)(*args, **kwargs)
        return begun

    def set_peers(self, peers: Peers) -> None:
        """Sets the function that returns the open caches of the process."""
        self._peers = peers

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
        """Revokes one decision in every cache. Returns True if a cache had stored it."""
        given = _given(policy=policy)
        return self._revoke_on_all(any, "delete", user_id, action, resource, context, **given)

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
        """Revokes matching decisions in every cache. Returns the number of entries removed."""
        names = arguments.read_revoked_tags(tags) or None
        given = _given(tags=names, policy=policy)
        return self._revoke_on_all(sum, "invalidate", user_id, action, resource, **given)

    @returns_awaitable
    def invalidate_pattern(self, pattern: str) -> Coroutine[object, None, int]:
        """Revokes decisions whose key matches a glob, in every cache.

        Returns the number of entries removed.
        """
        return self._revoke_on_all(sum, "invalidate_pattern", pattern)

    @returns_awaitable
    def clear(self) -> Coroutine[object, None, bool]:
        """Revokes everything in every cache. Returns True."""
        return self._revoke_on_all(bool, "clear")

    @returns_awaitable
    def clear_all(self) -> Coroutine[object, None, bool]:
        """Calls `clear`."""
        return self.clear()

    def _revoke_on_all(
        self,
        total: Callable[[list[Any]], Any],
        operation: str,
        *args: Any,  # noqa: ANN401 - the arguments of the operation
        **kwargs: Any,  # noqa: ANN401
    ) -> Coroutine[object, None, Any]:
        """Calls an operation on this cache and its peers. The returned coroutine awaits them.

        A peer that another cache covers is not called. A peer that covers this cache revokes only
        its own decisions.

        Raises:
            Exception: The first error of such a call. All the caches were called before.
        """
        started: list[Coroutine[object, None, Any]] = []
        fault: Exception | None = None
        caches = (self, *(peer for peer in self._peers() if peer is not self))
        for cache in caches:
            if cache is not self and any(other.covers(cache) for other in caches):
                continue
            try:
                started.append(cache.begin(operation, *args, alone=cache.covers(self), **kwargs))
            except Exception as error:  # noqa: BLE001 - the other caches revoke in any case
                fault = fault or error
        if fault is not None:
            raise fault
        return Deferred(lambda: _gather_revocations(total, started))


def _given(**named: object) -> dict[str, object]:
    """Returns the arguments that are not None. To a backend, empty differs from missing."""
    return {name: value for name, value in named.items() if value is not None}


async def _gather_revocations(
    total: Callable[[list[Any]], Any], revoked: list[Coroutine[object, None, Any]]
) -> Any:  # noqa: ANN401
    """Awaits all revocations, then returns their total. Raises the first error among them."""
    answers = await asyncio.gather(*revoked, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return total(answers)
