"""The policy caches, for type checkers: their common interface, and the additions of each.

Checked by `nox -s typing`, never run.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar, assert_type

from sark_cache import (
    CacheMetrics,
    Decision,
    Loaded,
    NullPolicyCache,
    PolicyCache,
    PolicyCacheProtocol,
    RustPolicyCache,
    SelectedPolicyCache,
    create_policy_cache,
)
from sark_cache.backends import redis
from sark_cache.metrics import LATENCY_BOUNDS_SECONDS, LatencyHistogram
from sark_cache.types import (
    BatchEntry,
    BatchLoader,
    BatchRequest,
    Context,
    JSONObject,
    Loader,
    RevalidateCallback,
)


def all_of_them() -> None:
    native: PolicyCacheProtocol = RustPolicyCache()
    shared: PolicyCacheProtocol = PolicyCache()
    null: PolicyCacheProtocol = NullPolicyCache()
    selected: PolicyCacheProtocol = SelectedPolicyCache()
    chosen: PolicyCacheProtocol = create_policy_cache("alice")
    del native, shared, null, selected, chosen


async def interface(
    cache: PolicyCacheProtocol,
    context: Context,
    loader: Loader,
    batch_loader: BatchLoader,
    callback: RevalidateCallback,
    requests: Iterable[BatchRequest],
    entries: Iterable[BatchEntry],
) -> None:
    request = ("alice", "read", "doc")
    assert_type(await cache.get(*request, context, "critical"), JSONObject | None)
    assert_type(await cache.get_decision(*request, context, "critical"), Decision | None)
    stamp = cache.stamp()
    assert_type(stamp, Any)
    stored = await cache.set(
        *request, {"allow": True}, context, 1.5, "public", tags=["a"], stamp=stamp
    )
    assert_type(stored, bool)
    assert_type(await cache.delete(*request, context), bool)
    loaded = await cache.get_or_load(
        *request, loader, context, ttl_seconds=1.5, sensitivity="internal", tags={"a"}
    )
    assert_type(loaded, JSONObject)
    many = await cache.get_or_load_many(requests, batch_loader, tags={"a"}, max_batch=100)
    assert_type(many, list[JSONObject])
    allowed = await cache.filter_allowed("alice", "read", ["doc"], batch_loader, context)
    assert_type(allowed, list[str])
    async for number in cache.filter_allowed_stream("alice", "read", [7], batch_loader, key=str):
        assert_type(number, int)
    assert_type(await cache.get_batch(requests), list[JSONObject | None])
    assert_type(await cache.set_batch(entries, tags=("a",), stamp=stamp), int)
    assert_type(await cache.preload_cache(entries, tags=("a",), stamp=stamp), int)
    assert_type(await cache.invalidate("alice", "read", "doc", tags=["a"]), int)
    assert_type(await cache.invalidate_pattern("policy:decision:alice:*"), int)
    assert_type(await cache.clear(), bool)
    assert_type(await cache.clear_all(), bool)
    assert_type(await cache.size(), int)
    assert_type(await cache.get_cache_size(), int)
    assert_type(await cache.cleanup_expired(), int)
    cache.set_revalidate_callback(callback)
    cache.record_opa_latency(1.5)
    assert_type(cache.get_metrics(), dict[str, int | float])
    assert_type(cache.metrics, CacheMetrics)
    assert_type(cache.latency_histogram(LATENCY_BOUNDS_SECONDS), LatencyHistogram)
    assert_type(cache.evaluation_histogram([0.001, 1]), LatencyHistogram)
    cache.reset_metrics()
    assert_type(await cache.health_check(), bool)
    assert_type(cache.backend, str)
    assert_type(cache.max_size, int)
    assert_type(cache.enabled, bool)
    cache.enabled = False
    async with cache as entered:
        assert_type(entered, PolicyCacheProtocol)
    await cache.close()
    assert_type(cache.closed, bool)


def native(cache: RustPolicyCache) -> None:
    assert_type(RustPolicyCache.KEY_PREFIX, str)
    assert_type(RustPolicyCache.DEFAULT_TTL_SECONDS, int)
    assert_type(RustPolicyCache.DEFAULT_MAX_SIZE, int)
    assert_type(RustPolicyCache.STALE_THRESHOLD_RATIO, float)
    assert_type(RustPolicyCache.OPTIMIZED_TTL, Mapping[str, float])
    assert_type(RustPolicyCache.REFRESHED_SENSITIVITIES, frozenset[str])
    assert_type(cache.ttl_seconds, float)
    cache.ttl_seconds = 0.5
    assert_type(cache.use_optimized_ttl, bool)
    cache.use_optimized_ttl = False
    assert_type(cache.stale_while_revalidate, bool)
    cache.stale_while_revalidate = False
    assert_type(cache.revalidate_callback, RevalidateCallback | None)


def shared(cache: PolicyCache) -> None:
    assert_type(PolicyCache.KEY_PREFIX, str)
    assert_type(PolicyCache.DEFAULT_TTL_SECONDS, int)
    assert_type(PolicyCache.DEFAULT_MAX_SIZE, int)
    assert_type(PolicyCache.STALE_THRESHOLD_RATIO, float)
    assert_type(PolicyCache.OPTIMIZED_TTL, Mapping[str, float])
    assert_type(PolicyCache.from_url("redis://localhost", 60, connect_timeout=0.05), PolicyCache)
    assert_type(cache.ttl_seconds, float)
    cache.ttl_seconds = 0.5
    assert_type(cache.use_optimized_ttl, bool)
    cache.use_optimized_ttl = False
    assert_type(cache.stale_while_revalidate, bool)
    cache.stale_while_revalidate = False
    assert_type(cache.revalidate_callback, RevalidateCallback | None)
    assert_type(cache.circuit_open, bool)
    stamp = cache.stamp()
    assert_type(stamp, redis.Stamp)
    assert_type(stamp.log, str)
    assert_type(stamp.position, str | None)
    assert_type((stamp.taken_at, stamp.taken_at_time), tuple[float, float])
    assert_type(stamp.fence(), str)
    assert_type(cache.redis, Any)


def selected(cache: SelectedPolicyCache) -> None:
    for backend in cache.backends():
        one: PolicyCacheProtocol = backend
        del one


class Brief(RustPolicyCache):
    """A cache with its own TTLs: fractions, and a mapping of any type."""

    OPTIMIZED_TTL: ClassVar[Mapping[str, float]] = {"critical": 0.5}


def loaders(evaluate: Callable[[], Awaitable[dict[str, bool]]], tags: Collection[str]) -> None:
    """Loads with every kind of loader: any callable without arguments that returns a mapping or
    `Loaded`."""

    async def late() -> Loaded:
        return Loaded({"allow": True}, ttl_seconds=1.5, tags=tags)

    async def immutable() -> Decision:
        return Decision({"allow": True})

    several: list[Loader] = [evaluate, late, immutable]
    del several
