"""The caches of this process: one of each kind, made when first asked for, and linked."""

import os
from collections.abc import Callable
from typing import TypeVar, cast

from sark_cache.linked import (
    LinkedNullPolicyCache,
    LinkedPolicyCache,
    LinkedRustPolicyCache,
    ProcessCache,
)
from sark_cache.native import RustPolicyCache
from sark_cache.redis import PolicyCache
from sark_cache.watch import lock_across_forks

URL_VARIABLE = "SARK_CACHE_REDIS_URL"

Cache = TypeVar("Cache", LinkedRustPolicyCache, LinkedPolicyCache, LinkedNullPolicyCache)

_caches: dict[type, ProcessCache] = {}
_makers: dict[type, Callable[[], ProcessCache]] = {}
"""How each of them was made."""
_lock = lock_across_forks()


def get_rust_policy_cache(
    max_size: int | None = None,
    ttl_seconds: float | None = None,
    enabled: bool = True,  # noqa: FBT001, FBT002 - the signature is SARK's
) -> RustPolicyCache:
    """The native cache of this process, made at the first call, and anew once it was closed.

    Args:
        max_size: The most entries; None: 10,000.
        ttl_seconds: How long an entry lives by default, in seconds; None: 300.
        enabled: Whether it serves.

    The arguments count when the cache is made; later calls return it as it is.

    Raises:
        RuntimeError: The compiled module is not available.
    """
    return one(LinkedRustPolicyCache, lambda: LinkedRustPolicyCache(max_size, ttl_seconds, enabled))


def get_policy_cache(
    ttl_seconds: float | None = None,
    enabled: bool = True,  # noqa: FBT001, FBT002 - the signature is SARK's
) -> PolicyCache:
    """The Redis cache of this process, made at the first call, and anew once it was closed.

    It is on the server that the environment variable `SARK_CACHE_REDIS_URL` names, or else on
    `redis://localhost:6379/0`.

    Args:
        ttl_seconds: How long an entry lives by default, in seconds; None: 300.
        enabled: Whether it serves.

    The arguments count when the cache is made; later calls return it as it is.

    Raises:
        ImportError: Neither redis-py nor valkey-py is installed.
        ValueError: The variable holds no URL of a server.
    """
    url = os.environ.get(URL_VARIABLE)
    return one(LinkedPolicyCache, lambda: LinkedPolicyCache(url, ttl_seconds, enabled))


def one(kind: type[Cache], make: Callable[[], Cache]) -> Cache:
    """The cache of this kind, made if there is none that is open."""
    cache = _caches.get(kind)
    if isinstance(cache, kind) and not cache.closed:
        return cache
    with _lock:
        cache = _caches.get(kind)
        if not isinstance(cache, kind) or cache.closed:
            cache = _caches[kind] = make()
            _makers[kind] = make
            cache.link(reached)
        return cache


def caches() -> list[ProcessCache]:
    """The caches of this process that are open."""
    return [cache for cache in tuple(_caches.values()) if not cache.closed]


def reached() -> list[ProcessCache]:
    """The caches that a revocation has to reach: those that are open, and Redis in any case.

    A native cache that was closed holds nothing any more. What was stored in Redis is still there,
    so a Redis cache that was closed is made again.
    """
    if LinkedPolicyCache in _makers:
        one(LinkedPolicyCache, cast("Callable[[], LinkedPolicyCache]", _makers[LinkedPolicyCache]))
    return caches()


async def close_policy_caches() -> None:
    """Closes the caches of this process; the next to ask makes new ones."""
    closing = caches()
    with _lock:
        _caches.clear()
        _makers.clear()
    for cache in closing:
        await cache.close()
