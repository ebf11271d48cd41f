"""aiocache."""

import copy

import aiocache
from orjson import dumps

from field.subject import Context, Decision
from field.work import AwaitedText, documented_key, kept, tuned_key


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
