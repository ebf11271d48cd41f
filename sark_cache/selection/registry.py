"""The caches of this process: one of each kind, created at its first use.

They are linked: a revocation through one of them reaches all of them.
"""

from collections.abc import Callable, Coroutine, Generator
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from sark_cache._core.poller import lock_across_forks
from sark_cache.backends._shared.defaults import settings_in_force
from sark_cache.backends.native import RustPolicyCache
from sark_cache.backends.null import NullPolicyCache
from sark_cache.backends.redis import PolicyCache
from sark_cache.backends.tiered import TieredPolicyCache
from sark_cache.selection.linked import RevokesEverywhere

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings


class LinkedRustPolicyCache(RevokesEverywhere, RustPolicyCache):
    """The native cache of this process, if other processes cannot revoke its decisions."""


class LinkedTieredPolicyCache(RevokesEverywhere, TieredPolicyCache):
    """The native cache of this process, if every process can revoke its decisions."""

    def covers(self, other: object) -> bool:
        """Returns True for the Redis cache of the same settings: it has the same log."""
        return isinstance(other, LinkedPolicyCache) and other.made_from == self.made_from

    def begin(
        self,
        operation: str,
        *args: Any,  # noqa: ANN401 - the arguments of the operation
        alone: bool,
        **kwargs: Any,  # noqa: ANN401
    ) -> Coroutine[object, None, Any]:
        """Calls an operation of the cache class. If alone, calls that of the native cache."""
        if not alone:
            return super().begin(operation, *args, alone=alone, **kwargs)
        begun: Coroutine[object, None, Any] = getattr(super(TieredPolicyCache, self), operation)(
            *args, **kwargs
        )
        return begun

    async def _drop_idle(self) -> None:
        await self._revoker.drop_idle()


# The caches written in Python declare a coroutine of Python's own, a narrower type.
class LinkedPolicyCache(RevokesEverywhere, PolicyCache):  # pyright: ignore[reportIncompatibleMethodOverride]
    """The Redis cache of this process."""

    async def _drop_idle(self) -> None:
        await self._connections.drop_idle()


class LinkedNullPolicyCache(RevokesEverywhere, NullPolicyCache):  # pyright: ignore[reportIncompatibleMethodOverride]
    """The cache of this process that stores nothing."""


ProcessCache: TypeAlias = (
    LinkedRustPolicyCache | LinkedTieredPolicyCache | LinkedPolicyCache | LinkedNullPolicyCache
)
"""One of the caches of a process."""

Cache = TypeVar("Cache", bound=ProcessCache)

_caches: dict[type, ProcessCache] = {}
_lock = lock_across_forks()

_OF_ALL: Final = ("enabled", "cache_ttl", "use_optimized_ttl", "stale_while_revalidate")
_OF_NATIVE: Final = ("cache_max_size", "cache_max_bytes", "cache_eviction")
_OF_SERVERS: Final = (
    *("redis_url", "namespace", "redis_replicas", "settle", "max_staleness", "trust_server"),
    *("redis_connect_timeout", "redis_command_timeout"),
)
_OF_BACKEND: Final = {
    "native": _OF_NATIVE,
    "tiered": (*_OF_NATIVE, *_OF_SERVERS),
    "redis": _OF_SERVERS,
}
"""The settings that a cache is created from."""


def get_rust_policy_cache(
    max_size: int | None = None,
    ttl_seconds: float | None = None,
    enabled: bool = True,  # noqa: FBT001, FBT002 - the signature is SARK's
) -> RustPolicyCache:
    """Returns the native cache of this process. The first call creates it.

    It is created from the settings of the process, if there are any. If they name a server
    (`SARK_CACHE_REDIS_URL`), it is a `TieredPolicyCache`, unless `SARK_CACHE_TIERED` is false.
    `close` leaves it usable, as SARK's callers expect. `close_policy_caches` closes it for good.

    Args:
        max_size: The maximum number of entries. None: that of the settings, or 10,000.
        ttl_seconds: The default time to live of an entry, in seconds. None: that of the settings,
            or 300.
        enabled: If False, the cache neither serves nor stores. It is also disabled if the settings
            disable it.

    The arguments apply only when the cache is created. Later calls return it unchanged.

    Raises:
        RuntimeError: The compiled module is not available.
        SettingsError: A variable of the environment is wrong. The message names the variables.
    """
    for kind in (LinkedTieredPolicyCache, LinkedRustPolicyCache):
        opened = _caches.get(kind)
        if isinstance(opened, kind) and not opened.closed and not _stand_ins:
            return opened
    settings = settings_in_force()
    if settings is not None and is_tiered(settings):
        return get_or_create(
            LinkedTieredPolicyCache,
            lambda: tiered_of(settings, max_size, ttl_seconds, enabled=enabled),
        )

    def make() -> LinkedRustPolicyCache:
        if settings is None:
            return LinkedRustPolicyCache(max_size, ttl_seconds, enabled)
        return native_of(settings, max_size, ttl_seconds, enabled=enabled)

    return get_or_create(LinkedRustPolicyCache, make)


def get_policy_cache(
    ttl_seconds: float | None = None,
    enabled: bool = True,  # noqa: FBT001, FBT002 - the signature is SARK's
) -> PolicyCache:
    """Returns the Redis cache of this process. The first call creates it.

    It is created from the settings of the process, if there are any. Its server is the one that the
    settings name (`SARK_CACHE_REDIS_URL`), or else `redis://localhost:6379/0`. `close` leaves it
    usable, as SARK's callers expect. `close_policy_caches` closes it for good.

    Args:
        ttl_seconds: The default time to live of an entry, in seconds. None: that of the settings,
            or 300.
        enabled: If False, the cache neither serves nor stores. It is also disabled if the settings
            disable it.

    The arguments apply only when the cache is created. Later calls return it unchanged.

    Raises:
        ImportError: Neither redis-py nor valkey-py is installed.
        SettingsError: A variable of the environment is wrong. The message names the variables.
    """

    def make() -> LinkedPolicyCache:
        settings = settings_in_force()
        if settings is None:
            return LinkedPolicyCache(None, ttl_seconds, enabled)
        return redis_of(settings, ttl_seconds, enabled=enabled)

    return get_or_create(LinkedPolicyCache, make)


def native_of(
    settings: "CacheSettings",
    max_size: int | None = None,
    ttl_seconds: float | None = None,
    *,
    enabled: bool = True,
) -> LinkedRustPolicyCache:
    """Creates a native cache from settings. The given arguments take precedence."""
    cache = LinkedRustPolicyCache(
        settings.cache_max_size if max_size is None else max_size,
        settings.cache_ttl if ttl_seconds is None else ttl_seconds,
        settings.enabled and enabled,
        settings.use_optimized_ttl,
        stale_while_revalidate=settings.stale_while_revalidate,
        max_bytes=settings.cache_max_bytes,
        eviction=settings.cache_eviction,
    )
    cache.made_from = settings
    return cache


def is_tiered(settings: "CacheSettings") -> bool:
    """Returns whether the native cache of these settings is one that every process can revoke."""
    return settings.redis_url is not None and settings.tiered is not False


def tiered_of(
    settings: "CacheSettings",
    max_size: int | None = None,
    ttl_seconds: float | None = None,
    *,
    enabled: bool = True,
) -> LinkedTieredPolicyCache:
    """Creates a tiered cache from settings that name a server. The given arguments take precedence.

    Raises:
        ImportError: Neither redis-py nor valkey-py is installed.
    """
    cache = LinkedTieredPolicyCache(
        settings.redis_url.get_secret_value() if settings.redis_url else None,
        max_size=settings.cache_max_size if max_size is None else max_size,
        ttl_seconds=settings.cache_ttl if ttl_seconds is None else ttl_seconds,
        enabled=settings.enabled and enabled,
        use_optimized_ttl=settings.use_optimized_ttl,
        stale_while_revalidate=settings.stale_while_revalidate,
        max_bytes=settings.cache_max_bytes,
        eviction=settings.cache_eviction,
        max_staleness=settings.max_staleness,
        settle=settings.settle,
        connect_timeout=settings.redis_connect_timeout,
        command_timeout=settings.redis_command_timeout,
        namespace=settings.namespace,
        replicas=settings.redis_replicas,
        trust_server=settings.trust_server,
    )
    cache.made_from = settings
    return cache


def redis_of(
    settings: "CacheSettings", ttl_seconds: float | None = None, *, enabled: bool = True
) -> LinkedPolicyCache:
    """Creates a Redis cache from settings. The given arguments take precedence."""
    cache = LinkedPolicyCache(
        settings.redis_url.get_secret_value() if settings.redis_url else None,
        settings.cache_ttl if ttl_seconds is None else ttl_seconds,
        settings.enabled and enabled,
        settings.stale_while_revalidate,
        settings.use_optimized_ttl,
        connect_timeout=settings.redis_connect_timeout,
        command_timeout=settings.redis_command_timeout,
        namespace=settings.namespace,
        replicas=settings.redis_replicas,
        settle=settings.settle,
        max_staleness=settings.max_staleness,
    )
    cache.made_from = settings
    return cache


def differing(settings: "CacheSettings") -> Generator[tuple[str, list[str]]]:
    """Yields each open cache that was created from other settings.

    Each item is its backend, and the names of the settings that differ.
    """
    for cache in open_caches():
        made_from: CacheSettings | None = getattr(cache, "made_from", None)
        names = [
            name
            for name in (*_OF_ALL, *_OF_BACKEND.get(cache.backend, ()))
            if made_from is not None and getattr(made_from, name) != getattr(settings, name)
        ]
        if names:
            yield cache.backend, names


def get_or_create(kind: type[Cache], make: Callable[[], Cache]) -> Cache:
    """Returns the open cache of a kind. Creates it if there is none."""
    if _stand_ins:
        stand_in: Cache = _stand_ins[-1]
        return stand_in
    cache = _caches.get(kind)
    if isinstance(cache, kind) and not cache.closed:
        return cache
    with _lock:
        cache = _caches.get(kind)
        if not isinstance(cache, kind) or cache.closed:
            cache = make()
            # Before another thread can use it, so that its revocations reach all caches.
            cache.set_peers(open_caches)
            _caches[kind] = cache
        return cache


def open_caches() -> list[ProcessCache]:
    """Returns the open caches of this process."""
    if _stand_ins:
        return _stand_ins[-1:]
    return [cache for cache in tuple(_caches.values()) if not cache.closed]


_stand_ins: list[Any] = []
"""Caches with which tests replace all caches of the process. The last one is used."""


def has_stand_in() -> bool:
    """Returns whether a test has replaced the caches of the process."""
    return bool(_stand_ins)


@contextmanager
def standing_in(cache: object) -> Generator[None]:
    """Replaces all caches of the process by one cache, within the block. For tests of services."""
    _stand_ins.append(cache)
    try:
        yield
    finally:
        _stand_ins.remove(cache)


async def close_policy_caches() -> None:
    """Closes the caches of this process for good. The next call for a cache creates a new one."""
    async with AsyncExitStack() as closing:  # closes all of them, even if one raises
        with _lock:
            for cache in [each for each in _caches.values() if not each.closed]:
                closing.push_async_callback(_awaited, cache.end())
            _caches.clear()


async def _awaited(end: Coroutine[object, None, None]) -> None:
    await end
