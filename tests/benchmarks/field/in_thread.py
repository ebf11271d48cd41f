"""The design that this package replaces."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from field.subject import Context, Decision
from field.this_package import general_key
from sark_cache import AsyncCache


class InThread:
    """The same native call as in `General`, in a thread, and JSON text.

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
