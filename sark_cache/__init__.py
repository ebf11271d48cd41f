"""Authorization decisions, cached in your process and never served once revoked.

>>> from sark_cache import RustPolicyCache
>>> cache = RustPolicyCache(max_size=100_000, ttl_seconds=300)
>>> decision = await cache.get("alice", "read", "doc:1")  # None: ask the policy engine
>>> await cache.set("alice", "read", "doc:1", {"allow": True, "reason": "owner"})
>>> await cache.invalidate(user_id="alice")  # from here on, nothing of alice's is served
"""

from sark_cache.compiled import AsyncCache, Stamp, is_rust_cache_available
from sark_cache.errors import InvalidationError, SarkCacheError
from sark_cache.native import RustPolicyCache, get_rust_policy_cache
from sark_cache.types import CacheMetrics, JSONObject, PolicyCacheProtocol

__all__ = [
    "AsyncCache",
    "CacheMetrics",
    "InvalidationError",
    "JSONObject",
    "PolicyCacheProtocol",
    "RustPolicyCache",
    "SarkCacheError",
    "Stamp",
    "get_rust_policy_cache",
    "is_rust_cache_available",
]
