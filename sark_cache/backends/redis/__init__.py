"""The cache of authorization decisions in Redis or Valkey (extra `[redis]`)."""

from sark_cache.backends.redis.cache import PolicyCache, Stamp

__all__ = ["PolicyCache", "Stamp"]
