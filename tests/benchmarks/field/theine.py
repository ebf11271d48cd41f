"""theine."""

import copy
from datetime import timedelta

import theine
from orjson import OPT_SORT_KEYS as SORTED
from orjson import dumps, loads

from field.subject import Context, Decision
from field.work import documented_key, kept, tuned_key


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
