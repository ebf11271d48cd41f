"""The field of loads: ways to keep many concurrent misses from evaluating as often.

Each caches the result of an evaluation, makes the other requests wait for it, and gives every
caller a separate decision: text by orjson, as for the tuned peers of `field`, unless the library
copies values.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import aiocache
import cachebox
import cashews
import moka_py
import theine
from orjson import dumps, loads

from field.plain_dict import Deadlines
from field.work import kept
from sark_cache import RustPolicyCache

Evaluate = Callable[[str, str, str], Awaitable[dict[str, Any]]]
"""Evaluates a user, an action and a resource."""
Factory = Callable[[Evaluate, int, float], Evaluate]
"""Adds a cache with a capacity and a TTL in seconds to an evaluation."""


def get_or_load(evaluate: Evaluate, capacity: int, ttl: float) -> Evaluate:
    cache = RustPolicyCache(capacity, ttl)

    def ask(user, action, resource):
        return cache.get_or_load(user, action, resource, lambda: evaluate(user, action, resource))

    return ask


def locked_dict(evaluate: Evaluate, capacity: int, ttl: float) -> Evaluate:
    """A plain dict and a lock for each key that is being loaded: the usual first implementation."""
    entries = Deadlines(capacity, ttl)
    locks: defaultdict[Any, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ask(*request):
        text = entries.look_up(request)
        if text is None:
            async with locks[request]:
                text = entries.look_up(request)
                if text is None:
                    text = kept(dumps(await evaluate(*request)))
                    entries.store(request, text)
            locks.pop(request, None)
        return loads(text)

    return ask


def decorated(decorator: Callable[[int, float], Callable[[Any], Any]]) -> Factory:
    """Adds a library's decorator to an evaluation that returns text."""

    def make(evaluate, capacity, ttl):
        async def text(user, action, resource):
            return kept(dumps(await evaluate(user, action, resource)))

        cached = decorator(capacity, ttl)(text)

        async def ask(user, action, resource):
            return loads(await cached(user, action, resource))

        return ask

    return make


def of_moka(capacity: int, ttl: float):
    """moka-py: concurrent requests wait for the same task."""
    return moka_py.cached(capacity, ttl=ttl, wait_concurrent=True, policy="lru")


def of_cachebox(capacity: int, ttl: float):
    """cachebox: a lock for each key, by default."""
    return cachebox.cached(cachebox.TTLCache(capacity, ttl))


def of_theine(capacity: int, ttl: float):
    """theine: with a key function, as it recommends; concurrent requests get the same awaitable."""

    def memoized(text):
        cached = theine.Memoize(capacity, timedelta(seconds=ttl), nolock=True)(text)
        cached.key(lambda *request: request)
        return cached

    return memoized


def of_cashews(capacity: int, ttl: float):
    """cashews: protection from a thundering herd in the process, by default."""
    cache = cashews.Cache()
    cache.setup(f"mem://?size={capacity}&check_interval=0")
    return cache(ttl=ttl, key="{user}:{action}:{resource}")


def of_aiocache(_capacity: int, ttl: float):
    """aiocache: its decorator against stampedes, with a lease longer than the load."""
    return aiocache.cached_stampede(
        lease=60, ttl=ttl, timeout=None, key_builder=lambda _, *request: ":".join(request)
    )


LOADING: dict[str, Factory] = {
    "RustPolicyCache.get_or_load()": get_or_load,
    "dict and asyncio.Lock, tuned": locked_dict,
    "moka-py's decorator": decorated(of_moka),
    "cachebox's decorator": decorated(of_cachebox),
    "theine's decorator": decorated(of_theine),
    "cashews' decorator": decorated(of_cashews),
    "aiocache's decorator": decorated(of_aiocache),
}
