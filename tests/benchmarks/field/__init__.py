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

from collections.abc import Callable

from field.aiocache import DocumentedAiocache, TunedAiocache
from field.cachebox import of_cachebox
from field.cachetools import TunedCachetools, of_cachetools
from field.cashews import TunedCashews, in_front_of_redis, in_memory_of_cashews
from field.in_thread import InThread
from field.moka import of_moka
from field.plain_dict import TunedDict, of_dict
from field.redis_client import Client
from field.subject import Factory, Subject
from field.theine import BareTheine, DocumentedTheine, TunedTheine
from field.this_package import General, OfThisPackage, Shared, of_redis
from field.work import Bare, Documented, Tuned
from sark_cache import RustPolicyCache

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

THREADED: dict[str, Factory] = {"asyncio.to_thread and json": InThread}
REMOTE: dict[str, Callable[[str, float], Subject]] = {
    "PolicyCache.get()": of_redis,
    "redis-py and orjson": Client,
    "cashews, client-side": in_front_of_redis,
}
"""Caches on a server, made from its URL and a TTL in seconds."""
NOT_BY_UNIX_SOCKET = {"cashews, client-side"}
"""Caches that accept no URL of a unix socket."""
