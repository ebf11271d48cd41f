"""cachetools."""

import cachetools
from orjson import OPT_SORT_KEYS as SORTED
from orjson import dumps, loads

from field.subject import Context, Factory
from field.work import Kind, Tuned


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
