"""The work of the peers: keys, copies, and the three ways to use a library."""

import copy
import json
from collections.abc import Awaitable, Callable
from typing import Any

from orjson import OPT_SORT_KEYS as SORTED
from orjson import dumps, loads

from field.subject import Context, Decision, Subject

Kind = Callable[[Callable[[Any], Any], Callable[[Any, Any], object]], Subject]
"""Makes a subject of a library's look-up and of its store."""


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


class AwaitedText:
    """Tuned: JSON as bytes, from a library whose look-up is awaited."""

    _look_up: Callable[[tuple[Any, ...]], Awaitable[bytes | None]]

    async def get(self, user, action, resource, context: Context = None):
        if context:
            text = await self._look_up((user, action, resource, dumps(context, None, SORTED)))
        else:
            text = await self._look_up((user, action, resource))
        return None if text is None else loads(text)
