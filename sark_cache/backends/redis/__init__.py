"""The cache of authorization decisions in Redis or Valkey (extra `[redis]`)."""

from sark_cache.backends.redis.cache import PolicyCache
from sark_cache.backends.redis.stamp import Stamp

__all__ = ["PolicyCache", "Stamp"]
