"""Authorization decisions, cached in your process and never served once revoked.

>>> from sark_cache import RustPolicyCache
>>> cache = RustPolicyCache(max_size=100_000, ttl_seconds=300)
>>> async def evaluate() -> dict:  # asks the policy engine
...     return {"allow": True, "reason": "owner"}
>>> decision = await cache.get_or_load("alice", "read", "doc:1", evaluate)
>>> await cache.invalidate(user_id="alice")  # no decision for alice is served from now on
"""

from typing import TYPE_CHECKING

from sark_cache._core.compiled import AsyncCache, Stamp, is_rust_cache_available
from sark_cache.backends.native import RustPolicyCache
from sark_cache.backends.null import NullPolicyCache
from sark_cache.backends.redis import PolicyCache
from sark_cache.backends.tiered import TieredPolicyCache
from sark_cache.cleanup import (
    CacheCleanupTask,
    get_cleanup_task,
    start_cache_cleanup,
    stop_cache_cleanup,
)
from sark_cache.decision import Decision
from sark_cache.errors import (
    BatchLoadError,
    FlagError,
    InvalidationError,
    SarkCacheError,
    SettingsError,
)
from sark_cache.metrics import CacheMetrics
from sark_cache.protocol import PolicyCacheProtocol
from sark_cache.rollout.manager import FeatureFlagManager, get_feature_flag_manager
from sark_cache.selection.registry import (
    close_policy_caches,
    get_policy_cache,
    get_rust_policy_cache,
)
from sark_cache.selection.selected import SelectedPolicyCache
from sark_cache.selection.selector import create_policy_cache
from sark_cache.types import Loaded

if TYPE_CHECKING:
    from sark_cache.settings import CacheSettings

    __version__: str

__all__ = [
    "AsyncCache",
    "BatchLoadError",
    "CacheCleanupTask",
    "CacheMetrics",
    "CacheSettings",
    "Decision",
    "FeatureFlagManager",
    "FlagError",
    "InvalidationError",
    "Loaded",
    "NullPolicyCache",
    "PolicyCache",
    "PolicyCacheProtocol",
    "RustPolicyCache",
    "SarkCacheError",
    "SelectedPolicyCache",
    "SettingsError",
    "Stamp",
    "TieredPolicyCache",
    "close_policy_caches",
    "create_policy_cache",
    "get_cleanup_task",
    "get_feature_flag_manager",
    "get_policy_cache",
    "get_rust_policy_cache",
    "is_rust_cache_available",
    "start_cache_cleanup",
    "stop_cache_cleanup",
]

if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> object:
        """Returns the two names that an import of the package does not load.

        `CacheSettings` requires pydantic-settings. `__version__` is the version of the installed
        distribution, and its first use imports `importlib.metadata`. It is "unknown" if the package
        is not installed.
        """
        if name == "CacheSettings":
            from sark_cache.settings import CacheSettings  # noqa: PLC0415 - an extra

            return CacheSettings
        if name == "__version__":
            from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - slow

            try:
                return version("sark-cache")
            except PackageNotFoundError:
                return "unknown"
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
