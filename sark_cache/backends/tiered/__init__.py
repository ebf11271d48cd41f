"""`TieredPolicyCache`: native caches that are coherent across processes."""

from sark_cache.backends.tiered.cache import TieredPolicyCache

__all__ = ["TieredPolicyCache"]
