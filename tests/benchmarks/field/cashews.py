"""cashews, in memory and in front of a server."""

import copy
import json
from typing import Any

import cashews
from cashews.backends.memory import Memory
from orjson import dumps

from field.subject import Context, Decision, Subject
from field.work import AwaitedText, kept, tuned_key


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


def in_memory_of_cashews(capacity: int, ttl: float) -> Subject:
    return DocumentedCashews(f"mem://?size={capacity}", ttl)


def in_front_of_redis(url: str, ttl: float) -> Subject:
    """Returns cashews as documented, its memory in front of a server that reports changes."""
    return DocumentedCashews(url, ttl, client_side=True)


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
