"""The field: other ways for a Python service to cache decisions, each doing the same work.

The work: build the key from user, action, resource and context; look it up, with a TTL; return a
decision that the caller may change without harm. All calls are awaited, as a service calls one
interface for all caches.

Each peer comes twice. *As documented*: decisions are stored as dicts, deep-copied on the way in and
out, with the context as text by `json`. *Tuned*: decisions are stored as orjson's bytes, the
fastest way to a copy of any JSON (marshal and pickle take twice as long); the context is orjson's
text with sorted keys, which distinguishes `1` from `True`; every avoidable call is removed. The key
is a tuple wherever the library accepts one: it hashes and compares its strings in C and copies
none.

*Bare* is the look-up without that work: the key is ready-made, and the stored object itself is
returned.
"""

import asyncio
import copy
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from itertools import islice
from time import monotonic
from typing import Any, Protocol

import aiocache
import cachebox
import cachetools
import cashews
import moka_py
import redis.asyncio
import theine
from cashews.backends.memory import Memory
from orjson import OPT_SORT_KEYS as SORTED
from orjson import dumps, loads

from sark_cache import AsyncCache, PolicyCache, RustPolicyCache

Context = dict[str, Any] | None
Decision = Mapping[str, Any]


class Subject(Protocol):
    """A measured cache of decisions."""

    get: Callable[..., Awaitable[Decision | None]]
    """`get(user, action, resource, context=None)`"""
    set: Callable[..., Awaitable[object]]
    """`set(user, action, resource, decision, context=None)`"""
    close: Callable[[], Awaitable[object]]


Factory = Callable[[int, float], Subject]
"""Makes a subject with a capacity and a TTL in seconds."""


# The caches of this package


class OfThisPackage:
    """A policy cache, called without a wrapper."""

    def __init__(self, cache: RustPolicyCache | PolicyCache):
        self.get, self.set, self.close = cache.get, cache.set, cache.close


class Shared(OfThisPackage):
    """A policy cache that returns one immutable decision: nothing needs to be copied."""

    def __init__(self, cache: RustPolicyCache):
        super().__init__(cache)
        self.get = cache.get_decision


def general_key(user, action, resource, context: Context):
    return (user, action, resource, context) if context else (user, action, resource)


class General:
    """The general cache: the request is its key, and it copies values."""

    def __init__(self, capacity: int, ttl: float):
        self._cache = AsyncCache(capacity, ttl)

    async def get(self, user, action, resource, context: Context = None):
        return await self._cache.get(general_key(user, action, resource, context))

    async def set(self, user, action, resource, decision: Decision, context: Context = None):
        await self._cache.set(general_key(user, action, resource, context), decision)

    async def close(self):
        await self._cache.clear()


class InThread:
    """The design that this package replaces: the same native call in a thread, and JSON text.

    The awaitable is polled once by hand: the shortest way to a blocking call.
    """

    def __init__(self, capacity: int, ttl: float):
        self._cache = AsyncCache(capacity, ttl)

    async def get(self, user, action, resource, context: Context = None):
        key = general_key(user, action, resource, context)
        text = await asyncio.to_thread(self._poll, self._cache.get, key)
        return None if text is None else json.loads(text)

    async def set(self, user, action, resource, decision: Decision, context: Context = None):
        key = general_key(user, action, resource, context)
        await asyncio.to_thread(self._poll, self._cache.set, key, json.dumps(decision))

    async def close(self):
        await self._cache.clear()

    @staticmethod
    def _poll(method: Callable[..., Any], *arguments: Any):
        try:
            method(*arguments).send(None)
        except StopIteration as ready:
            return ready.value
        raise AssertionError


# Common parts of the peers


def documented_key(user, action, resource, context: Context):
    return user, action, resource, json.dumps(context, sort_keys=True) if context else None


def tuned_key(user, action, resource, context: Context):
    """Returns the key of an entry; look-ups have it inlined, which saves a call."""
    if context:
        return user, action, resource, kept(dumps(context, None, SORTED))
    return user, action, resource


def kept(text: bytes) -> bytes:
    """Returns a copy to store: orjson's own bytes keep the kilobytes alive that they were written
    into."""
    return b"".join((text, b""))


class _Synchronous:
    """A library whose look-up returns None on a miss, and is called, not awaited."""

    def __init__(self, look_up: Callable[[Any], Any], store: Callable[[Any, Any], object]):
        self._look_up, self._store = look_up, store

    async def close(self):
        pass


class Documented(_Synchronous):
    async def get(self, user, action, resource, context: Context = None):
        decision = self._look_up(documented_key(user, action, resource, context))
        return None if decision is None else copy.deepcopy(decision)

    async def set(self, user, action, resource, decision: Decision, context: Context = None):
        self._store(documented_key(user, action, resource, context), copy.deepcopy(decision))


class Tuned(_Synchronous):
    async def get(self, user, action, resource, context: Context = None):
        if context:
            text = self._look_up((user, action, resource, dumps(context, None, SORTED)))
        else:
            text = self._look_up((user, action, resource))
        return None if text is None else loads(text)

    async def set(self, user, action, resource, decision: Decision, context: Context = None):
        self._store(tuned_key(user, action, resource, context), kept(dumps(decision)))


class Bare(_Synchronous):
    """The resource is the key, and every caller gets the same object."""

    async def get(self, _user, _action, resource, _context: Context = None):
        return self._look_up(resource)

    async def set(self, _user, _action, resource, decision: Decision, _context: Context = None):
        self._store(resource, decision)


Kind = Callable[[Callable[[Any], Any], Callable[[Any, Any], object]], Subject]


# The peers, one by one


def of_moka(kind: Kind, **policy: str) -> Factory:
    """Returns moka-py, used as in its README. Tuned, it uses LRU, which has the faster look-up."""

    def make(capacity, ttl):
        cache = moka_py.Moka(capacity, ttl, **policy)
        return kind(cache.get, cache.set)

    return make


def of_cachebox(kind: Kind) -> Factory:
    """Returns cachebox: `TTLCache`, one TTL for all; no type with a TTL has a faster look-up.

    `insert` is what its documentation prefers to an assignment.
    """

    def make(capacity, ttl):
        cache = cachebox.TTLCache(capacity, ttl)
        return kind(cache.get, cache.insert)

    return make


def of_cachetools(kind: Kind) -> Factory:
    """Returns cachetools: `TTLCache`, used as a mapping."""

    def make(capacity, ttl):
        cache = cachetools.TTLCache(capacity, ttl)
        return kind(cache.get, cache.__setitem__)

    return make


class TunedCachetools(Tuned):
    """cachetools tuned: one look-up, where `get` checks for the key and then reads it."""

    def __init__(self, capacity: int, ttl: float):
        cache = cachetools.TTLCache(capacity, ttl)
        super().__init__(cache.__getitem__, cache.__setitem__)

    async def get(self, user, action, resource, context: Context = None):
        try:
            if context:
                return loads(self._look_up((user, action, resource, dumps(context, None, SORTED))))
            return loads(self._look_up((user, action, resource)))
        except KeyError:
            return None


class DocumentedTheine:
    """theine as documented: a look-up returns the value and whether it was there."""

    def __init__(self, capacity: int, ttl: float):
        self._cache, self._ttl = theine.Cache(capacity), timedelta(seconds=ttl)

    async def get(self, user, action, resource, context: Context = None):
        decision, found = self._cache.get(documented_key(user, action, resource, context))
        return copy.deepcopy(decision) if found else None

    async def set(self, user, action, resource, decision: Decision, context: Context = None):
        key = documented_key(user, action, resource, context)
        self._cache.set(key, copy.deepcopy(decision), self._ttl)

    async def close(self):
        self._cache.close()


class TunedTheine(DocumentedTheine):
    """theine tuned: without its locks, which one event loop does not need."""

    def __init__(self, capacity: int, ttl: float):
        self._cache, self._ttl = theine.Cache(capacity, nolock=True), timedelta(seconds=ttl)
        self._look_up = self._cache.get

    async def get(self, user, action, resource, context: Context = None):
        if context:
            text, found = self._look_up((user, action, resource, dumps(context, None, SORTED)))
        else:
            text, found = self._look_up((user, action, resource))
        return loads(text) if found else None

    async def set(self, user, action, resource, decision: Decision, context: Context = None):
        key = tuned_key(user, action, resource, context)
        self._cache.set(key, kept(dumps(decision)), self._ttl)


class BareTheine(TunedTheine):
    async def get(self, _user, _action, resource, _context: Context = None):
        return self._look_up(resource)[0]

    async def set(self, _user, _action, resource, decision: Decision, _context: Context = None):
        self._cache.set(resource, decision, self._ttl)


class Deadlines(dict[Any, tuple[float, Any]]):
    """A plain dict whose values have deadlines; it evicts the oldest 16th at a time.

    One at a time would be slow: to find its first key, a dict passes all that were removed.
    """

    def __init__(self, capacity: int, ttl: float):
        super().__init__()
        self._capacity, self._ttl = capacity, ttl

    def look_up(self, key: Any):
        entry = self.get(key)
        return None if entry is None or entry[0] <= monotonic() else entry[1]

    def store(self, key: Any, value: Any):
        if len(self) >= self._capacity and key not in self:
            for oldest in list(islice(self, self._capacity // 16 + 1)):
                del self[oldest]
        self[key] = monotonic() + self._ttl, value


def of_dict(kind: Kind) -> Factory:
    """Returns a plain dict, the usual first implementation."""

    def make(capacity, ttl):
        entries = Deadlines(capacity, ttl)
        return kind(entries.look_up, entries.store)

    return make


class TunedDict(Tuned):
    """A plain dict tuned: the check of the deadline is inlined, which saves a call."""

    def __init__(self, capacity: int, ttl: float):
        entries = Deadlines(capacity, ttl)
        super().__init__(entries.get, entries.store)

    async def get(self, user, action, resource, context: Context = None):
        if context:
            entry = self._look_up((user, action, resource, dumps(context, None, SORTED)))
        else:
            entry = self._look_up((user, action, resource))
        return None if entry is None or entry[0] <= monotonic() else loads(entry[1])


class DocumentedCashews:
    """cashews as documented: configured by a URL, keys from a template.

    A `:` within a field can make two requests equal; nothing prevents it.
    """

    def __init__(self, url: str, ttl: float, **settings: Any):
        self._cache, self._ttl = cashews.Cache(), ttl
        self._cache.setup(url, **settings)

    async def get(self, user, action, resource, context: Context = None):
        decision = await self._cache.get(self._key(user, action, resource, context))
        return None if decision is None else copy.deepcopy(decision)

    async def set(self, user, action, resource, decision: Decision, context: Context = None):
        key = self._key(user, action, resource, context)
        await self._cache.set(key, copy.deepcopy(decision), expire=self._ttl)

    async def close(self):
        await self._cache.close()

    @staticmethod
    def _key(user, action, resource, context: Context):
        if context:
            return f"{user}:{action}:{resource}:{json.dumps(context, sort_keys=True)}"
        return f"{user}:{action}:{resource}"


class AwaitedText:
    """Tuned: JSON as bytes, from a library whose look-up is awaited."""

    _look_up: Callable[[tuple[Any, ...]], Awaitable[bytes | None]]

    async def get(self, user, action, resource, context: Context = None):
        if context:
            text = await self._look_up((user, action, resource, dumps(context, None, SORTED)))
        else:
            text = await self._look_up((user, action, resource))
        return None if text is None else loads(text)


class TunedCashews(AwaitedText):
    """cashews tuned: its memory is called directly, without middlewares, so that keys may be
    tuples.

    No task removes expired entries in between: a look-up does, and the size is limited.
    """

    def __init__(self, capacity: int, ttl: float):
        self._cache, self._ttl = Memory(size=capacity, check_interval=0), ttl
        self._look_up = self._cache.get

    async def set(self, user, action, resource, decision: Decision, context: Context = None):
        key = tuned_key(user, action, resource, context)
        await self._cache.set(key, kept(dumps(decision)), expire=self._ttl)

    async def close(self):
        await self._cache.clear()


class DocumentedAiocache:
    """aiocache as documented: every call has a time-out of 5 s. Its size is not limited."""

    def __init__(self, _capacity: int, ttl: float):
        self._cache = aiocache.Cache(aiocache.Cache.MEMORY, ttl=ttl)

    async def get(self, user, action, resource, context: Context = None):
        decision = await self._cache.get(documented_key(user, action, resource, context))
        return None if decision is None else copy.deepcopy(decision)

    async def set(self, user, action, resource, decision: Decision, context: Context = None):
        key = documented_key(user, action, resource, context)
        await self._cache.set(key, copy.deepcopy(decision))

    async def close(self):
        await self._cache.clear()


class TunedAiocache(AwaitedText, DocumentedAiocache):
    """aiocache tuned: without the time-out, which memory does not need and a hit pays for."""

    def __init__(self, _capacity: int, ttl: float):
        self._cache = aiocache.Cache(aiocache.Cache.MEMORY, ttl=ttl, timeout=None)
        self._look_up = self._cache.get

    async def set(self, user, action, resource, decision: Decision, context: Context = None):
        await self._cache.set(tuned_key(user, action, resource, context), kept(dumps(decision)))


def in_memory_of_cashews(capacity: int, ttl: float) -> Subject:
    return DocumentedCashews(f"mem://?size={capacity}", ttl)


OURS: dict[str, Factory] = {
    "RustPolicyCache.get()": lambda *size: OfThisPackage(RustPolicyCache(*size)),
    "RustPolicyCache.get_decision()": lambda *size: Shared(RustPolicyCache(*size)),
    "AsyncCache.get()": General,
}
DOCUMENTED: dict[str, Factory] = {
    "moka-py, as documented": of_moka(Documented),
    "cachebox, as documented": of_cachebox(Documented),
    "theine, as documented": DocumentedTheine,
    "cachetools, as documented": of_cachetools(Documented),
    "cashews, as documented": in_memory_of_cashews,
    "aiocache, as documented": DocumentedAiocache,
    "dict, deep copies": of_dict(Documented),
}
TUNED: dict[str, Factory] = {
    "moka-py, tuned": of_moka(Tuned, policy="lru"),
    "cachebox, tuned": of_cachebox(Tuned),
    "theine, tuned": TunedTheine,
    "cachetools, tuned": TunedCachetools,
    "cashews, tuned": TunedCashews,
    "aiocache, tuned": TunedAiocache,
    "dict, tuned": TunedDict,
}
BARE: dict[str, Factory] = {
    "moka-py, bare look-up": of_moka(Bare, policy="lru"),
    "cachebox, bare look-up": of_cachebox(Bare),
    "theine, bare look-up": BareTheine,
    "cachetools, bare look-up": of_cachetools(Bare),
    "dict, bare look-up": of_dict(Bare),
}
FIELD: dict[str, Factory] = {**OURS, **DOCUMENTED, **TUNED}
"""All caches that do the same work on the caller's thread."""
UNBOUNDED = {"aiocache, as documented", "aiocache, tuned"}
"""Caches that never evict: their capacity is not kept."""


# With a thread or a server


class Client:
    """The minimum for a decision on a server: redis-py, one command, orjson."""

    def __init__(self, url: str, ttl: float):
        self._client, self._ttl_ms = redis.asyncio.Redis.from_url(url), int(ttl * 1000)
        self.close = self._client.aclose

    async def get(self, user, action, resource, context: Context = None):
        key = dumps((user, action, resource, context or None), None, SORTED)
        text = await self._client.get(key)
        return None if text is None else loads(text)

    async def set(self, user, action, resource, decision: Decision, context: Context = None):
        key = dumps((user, action, resource, context or None), None, SORTED)
        await self._client.set(key, dumps(decision), px=self._ttl_ms)


def of_redis(url: str, ttl: float) -> Subject:
    """Returns `PolicyCache` with long time-outs, as in redis-py: they are not measured here."""
    patient = {"connect_timeout": 10, "command_timeout": 10}
    return OfThisPackage(PolicyCache.from_url(url, ttl, **patient))


def in_front_of_redis(url: str, ttl: float) -> Subject:
    """Returns cashews as documented, its memory in front of a server that reports changes."""
    return DocumentedCashews(url, ttl, client_side=True)


THREADED: dict[str, Factory] = {"asyncio.to_thread and json": InThread}
REMOTE: dict[str, Callable[[str, float], Subject]] = {
    "PolicyCache.get()": of_redis,
    "redis-py and orjson": Client,
    "cashews, client-side": in_front_of_redis,
}
"""Caches on a server, made from its URL and a TTL in seconds."""
NOT_BY_UNIX_SOCKET = {"cashews, client-side"}
"""Caches that accept no URL of a unix socket."""
