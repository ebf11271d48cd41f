"""Authorization decisions, cached in your process and never served once revoked.

>>> from sark_cache import RustPolicyCache
>>> cache = RustPolicyCache(max_size=100_000, ttl_seconds=300)
>>> async def evaluate() -> dict:  # asks the policy engine
...     return {"allow": True, "reason": "owner"}
>>> decision = await cache.get_or_load("alice", "read", "doc:1", evaluate)
>>> await cache.invalidate(user_id="alice")  # from here on, nothing of alice's is served
"""

from sark_cache.compiled import AsyncCache, Stamp, is_rust_cache_available
from sark_cache.errors import InvalidationError, SarkCacheError
from sark_cache.native import RustPolicyCache, get_rust_policy_cache
from sark_cache.types import CacheMetrics, JSONObject, Loaded, PolicyCacheProtocol

__all__ = [
    "AsyncCache",
    "CacheMetrics",
    "InvalidationError",
    "JSONObject",
    "Loaded",
    "PolicyCacheProtocol",
    "RustPolicyCache",
    "SarkCacheError",
    "Stamp",
    "get_rust_policy_cache",
    "is_rust_cache_available",
]
