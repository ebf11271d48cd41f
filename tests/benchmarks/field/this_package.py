"""The caches of this package."""

from field.subject import Context, Decision, Subject
from sark_cache import AsyncCache, PolicyCache, RustPolicyCache


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


def of_redis(url: str, ttl: float) -> Subject:
    """Returns `PolicyCache` with long time-outs, as in redis-py: they are not measured here."""
    patient = {"connect_timeout": 10, "command_timeout": 10}
    return OfThisPackage(PolicyCache.from_url(url, ttl, **patient))
