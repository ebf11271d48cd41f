"""The caches that one process chooses from, linked: a revocation through any of them reaches all.

While a rollout moves, a user is served by one backend now and by another later. A decision that the
one still holds must not come back after it was revoked through the other.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any, TypeAlias

from sark_cache.arguments import NOT_GIVEN, read_revoked_tags
from sark_cache.native import RustPolicyCache
from sark_cache.null import NullPolicyCache
from sark_cache.redis import PolicyCache
from sark_cache.types import Context

Peers: TypeAlias = Callable[[], Iterable["Linked"]]


class Linked:
    """What a policy cache becomes by being one of several; comes before its class."""

    _peers: Peers = tuple

    def link(self, peers: Peers) -> None:
        """Takes what tells all caches of the process, at any time."""
        self._peers = peers

    def delete(
        self, user_id: str, action: str, resource: str, context: Context | None = None
    ) -> Coroutine[object, None, bool]:
        """Revokes one decision in every cache; True if one of them had it."""
        return _told(any, self._everywhere("delete", user_id, action, resource, context))

    def invalidate(
        self,
        user_id: str | None = None,
        action: str | None = None,
        resource: str | None = None,
        *,
        tags: Collection[str] | None = NOT_GIVEN,
    ) -> Coroutine[object, None, int]:
        """Revokes what matches in every cache; how many entries died in all of them."""
        names = read_revoked_tags(tags)
        given = {"tags": names} if names else {}
        revoked = self._everywhere("invalidate", user_id, action, resource, **given)
        return _told(sum, revoked)

    def invalidate_pattern(self, pattern: str) -> Coroutine[object, None, int]:
        """Revokes what matches a glob in every cache; how many entries died in all of them."""
        return _told(sum, self._everywhere("invalidate_pattern", pattern))

    def clear(self) -> Coroutine[object, None, bool]:
        """Revokes everything in every cache. Always True."""
        return _told(bool, self._everywhere("invalidate"))

    def clear_all(self) -> Coroutine[object, None, bool]:
        """The same as `clear`."""
        return self.clear()

    def _everywhere(
        self,
        operation: str,
        *args: Any,  # noqa: ANN401 - those of the operation
        **kwargs: Any,  # noqa: ANN401
    ) -> list[Coroutine[object, None, Any]]:
        """Revokes here, and where it is in force at the call already; the rest is to be awaited."""
        caches = [self, *(peer for peer in self._peers() if peer is not self)]
        begun: list[Coroutine[object, None, Any]] = []
        try:
            for cache in caches:
                revoke = getattr(super(Linked, cache), operation)
                begun.append(revoke(*args, **kwargs))
        except BaseException:
            for revocation in begun:
                revocation.close()
            raise
        return begun


class LinkedRustPolicyCache(Linked, RustPolicyCache):
    """The native cache of this process."""


# Those written in Python promise a coroutine of Python's own, which nobody needs to know.
class LinkedPolicyCache(Linked, PolicyCache):  # pyright: ignore[reportIncompatibleMethodOverride]
    """The Redis cache of this process."""


class LinkedNullPolicyCache(Linked, NullPolicyCache):  # pyright: ignore[reportIncompatibleMethodOverride]
    """The cache that never hits, of this process."""


ProcessCache: TypeAlias = LinkedRustPolicyCache | LinkedPolicyCache | LinkedNullPolicyCache
"""One of the caches of a process."""


async def _told(
    total: Callable[[list[Any]], Any], revoked: list[Coroutine[object, None, Any]]
) -> Any:  # noqa: ANN401
    """What all of them say together, once each has ended; raises what one of them raises."""
    answers = await asyncio.gather(*revoked, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return total(answers)
