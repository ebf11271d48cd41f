"""The caches that one process chooses from, linked: a revocation through any of them reaches all.

While a rollout moves, a user is served by one backend now and by another later. A decision that the
one still holds must not come back after it was revoked through the other.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from sark_cache._core import arguments
from sark_cache._core.arguments import NOT_GIVEN
from sark_cache._core.coroutines import Deferred, returns_awaitable
from sark_cache.backends.native import RustPolicyCache
from sark_cache.backends.null import NullPolicyCache
from sark_cache.backends.redis import PolicyCache
from sark_cache.types import Context

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

Peers: TypeAlias = Callable[[], Iterable["Linked"]]


class Linked:
    """Mixin of the caches of a process, placed before the cache class: it revokes in all of them.

    A revocation is in force in the native cache, and on its way to Redis, when it is called.
    """

    made_from: "CacheSettings | None" = None
    """The settings of the process when it was made, if there were any."""

    _peers: Peers = tuple

    @returns_awaitable
    def close(self) -> Coroutine[object, None, None]:
        """Drops what is idle, such as connections, and leaves it usable: others use it, too.

        `close_policy_caches` ends it.
        """
        return Deferred(self._drop_idle)

    def end(self) -> Coroutine[object, None, None]:
        """Closes it for good: the native cache at the call, the others once it is awaited."""
        backend: Any = super()
        closed: Coroutine[object, None, None] = backend.close()
        return closed

    async def _drop_idle(self) -> None:
        """Drops what is idle: here nothing."""

    def link(self, peers: Peers) -> None:
        """Takes what tells all caches of the process, at any time."""
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
        """Revokes one decision in every cache; True if one of them had it."""
        given = _given(policy=policy)
        return self._everywhere(any, "delete", user_id, action, resource, context, **given)

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
        """Revokes what matches in every cache; how many entries died in all of them."""
        names = arguments.read_revoked_tags(tags) or None
        given = _given(tags=names, policy=policy)
        return self._everywhere(sum, "invalidate", user_id, action, resource, **given)

    @returns_awaitable
    def invalidate_pattern(self, pattern: str) -> Coroutine[object, None, int]:
        """Revokes what matches a glob in every cache; how many entries died in all of them."""
        return self._everywhere(sum, "invalidate_pattern", pattern)

    @returns_awaitable
    def clear(self) -> Coroutine[object, None, bool]:
        """Revokes everything in every cache. Always True."""
        return self._everywhere(bool, "clear")

    @returns_awaitable
    def clear_all(self) -> Coroutine[object, None, bool]:
        """The same as `clear`."""
        return self.clear()

    def _everywhere(
        self,
        total: Callable[[list[Any]], Any],
        operation: str,
        *args: Any,  # noqa: ANN401 - those of the operation
        **kwargs: Any,  # noqa: ANN401
    ) -> Coroutine[object, None, Any]:
        """Revokes here and everywhere else; what it returns says how that ended.

        Raises:
            Exception: What one of them raises when it is called, once all of them were.
        """
        begun: list[Coroutine[object, None, Any]] = []
        fault: Exception | None = None
        for cache in (self, *(peer for peer in self._peers() if peer is not self)):
            try:
                begun.append(getattr(super(Linked, cache), operation)(*args, **kwargs))
            except Exception as error:  # noqa: BLE001 - it keeps no other cache from revoking
                fault = fault or error
        if fault is not None:
            raise fault
        return Deferred(lambda: _gather_revocations(total, begun))


class LinkedRustPolicyCache(Linked, RustPolicyCache):
    """The native cache of this process."""


# Those written in Python promise a coroutine of Python's own, which nobody needs to know.
class LinkedPolicyCache(Linked, PolicyCache):  # pyright: ignore[reportIncompatibleMethodOverride]
    """The Redis cache of this process."""

    async def _drop_idle(self) -> None:
        await self._connections.drop_idle()


class LinkedNullPolicyCache(Linked, NullPolicyCache):  # pyright: ignore[reportIncompatibleMethodOverride]
    """The cache that never hits, of this process."""


ProcessCache: TypeAlias = LinkedRustPolicyCache | LinkedPolicyCache | LinkedNullPolicyCache
"""One of the caches of a process."""


def _given(**named: object) -> dict[str, object]:
    """Returns the arguments that were given; to a backend, empty differs from missing."""
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
