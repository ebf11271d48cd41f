"""redis-py, without a cache."""

import redis.asyncio
from orjson import OPT_SORT_KEYS as SORTED
from orjson import dumps, loads

from field.subject import Context, Decision


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
