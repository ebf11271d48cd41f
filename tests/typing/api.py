"""Uses of every public name, for type checkers. Checked by `nox -s typing`, never run."""

from collections.abc import Collection, ItemsView, KeysView, Mapping, ValuesView
from copy import copy
from typing import Any, Literal, assert_type

import redis.asyncio
from pydantic import SecretStr

import sark_cache
from sark_cache import (
    AsyncCache,
    BatchLoadError,
    CacheCleanupTask,
    CacheMetrics,
    CacheSettings,
    Decision,
    FeatureFlagManager,
    FlagError,
    InvalidationError,
    Loaded,
    NullPolicyCache,
    PolicyCache,
    PolicyCacheProtocol,
    RustPolicyCache,
    SarkCacheError,
    SelectedPolicyCache,
    SettingsError,
    Stamp,
    TieredPolicyCache,
    close_policy_caches,
    create_policy_cache,
    get_cleanup_task,
    get_feature_flag_manager,
    get_policy_cache,
    get_rust_policy_cache,
    is_rust_cache_available,
    start_cache_cleanup,
    stop_cache_cleanup,
)
from sark_cache.cleanup import CleanupMetrics
from sark_cache.metrics import SETTLE_BOUNDS_SECONDS, LatencyHistogram
from sark_cache.types import BatchLoader, JSONObject


def version() -> None:
    assert_type(sark_cache.__version__, str)


async def requests(cache: RustPolicyCache, context: Mapping[str, Any]) -> None:
    assert_type(await cache.get("alice", "read", "doc"), JSONObject | None)
    shared = await cache.get_decision("alice", "read", "doc", context, "critical")
    assert_type(shared, Decision | None)
    if shared is not None:
        assert_type(shared.allow, bool)
        assert_type(shared.to_dict(), JSONObject)
        assert_type(Decision(shared), Decision)
        await cache.set("bob", "read", "doc", shared)
    assert_type(await cache.get("alice", "read", "doc", context, "critical"), JSONObject | None)
    stamp = cache.stamp()
    assert_type(stamp, Stamp)
    decision = {"allow": True}
    stored = await cache.set(
        "alice", "read", "doc", decision, context, 1.5, "public", tags=("a",), stamp=stamp
    )
    assert_type(stored, bool)
    assert_type(await cache.delete("alice", "read", "doc"), bool)
    batch = await cache.get_batch([("alice", "read", "doc", None), ("bob", "read", "doc")])
    assert_type(batch, list[JSONObject | None])
    entries = [("alice", "read", "doc", decision, None, 60)]
    assert_type(await cache.set_batch(entries), int)
    assert_type(await cache.preload_cache([("alice", "read", "doc", decision, None)]), int)


async def policies(cache: RustPolicyCache) -> None:
    async def evaluate() -> JSONObject:
        return {"allow": True}

    request, decision = ("alice", "read", "doc"), {"allow": True}
    assert_type(await cache.get(*request, policy="admins"), JSONObject | None)
    assert_type(await cache.get_decision(*request, policy="admins"), Decision | None)
    assert_type(await cache.set(*request, decision, policy="admins"), bool)
    assert_type(await cache.get_or_load(*request, evaluate, policy="admins"), JSONObject)
    assert_type(await cache.get_batch([request], policy="admins"), list[JSONObject | None])
    assert_type(await cache.set_batch([(*request, decision)], policy="admins"), int)
    assert_type(await cache.preload_cache([(*request, decision)], policy="admins"), int)
    assert_type(await cache.delete(*request, policy="admins"), bool)
    assert_type(await cache.delete(*request, policy=None), bool)
    assert_type(await cache.invalidate(policy="admins"), int)

    async def evaluate_again(*request: object, policy: str = "") -> JSONObject:
        return {"allow": bool(request), "policy": policy}

    cache.set_revalidate_callback(evaluate_again)


async def loads(cache: RustPolicyCache, context: Mapping[str, Any]) -> None:
    async def evaluate() -> dict[str, bool]:
        return {"allow": True}

    async def decide_late() -> Loaded:
        return Loaded({"allow": True}, ttl_seconds=1.5, tags=("bundle:42",))

    async def either() -> JSONObject | Loaded:
        return Loaded(await evaluate())

    assert_type(await cache.get_or_load("alice", "read", "doc", evaluate), JSONObject)
    assert_type(await cache.get_or_load("alice", "read", "doc", either), JSONObject)
    decision = await cache.get_or_load(
        *("alice", "read", "doc"),
        decide_late,
        context,
        ttl_seconds=1.5,
        sensitivity="critical",
        tags=["a"],
    )
    assert_type(decision, JSONObject)


async def batches(cache: RustPolicyCache, loader: BatchLoader) -> list[JSONObject | None]:
    ids = await cache.filter_allowed("alice", "read", ["plan"], loader, {"mfa": True})
    assert_type(ids, list[str])
    async for number in cache.filter_allowed_stream("alice", "read", range(9), loader, key=str):
        assert_type(number, int)
    return [*await cache.get_or_load_many([("alice", "read", "plan")], loader)]


def failures(error: BatchLoadError) -> list[JSONObject | None]:
    assert_type(error.errors, dict[int, Exception])
    return assert_type(error.decisions, list[JSONObject | None])


async def revocations(cache: RustPolicyCache) -> None:
    assert_type(await cache.invalidate(), int)
    assert_type(await cache.invalidate("alice", "read", "doc", tags=["role:admin"]), int)
    assert_type(await cache.invalidate_pattern("policy:decision:alice:*"), int)
    assert_type(await cache.clear(), bool)
    assert_type(await cache.clear_all(), bool)


async def running(cache: RustPolicyCache) -> None:
    async def evaluate(
        user_id: str, action: str, resource: str, context: Mapping[str, Any] | None
    ) -> JSONObject:
        return {"allow": user_id == action == resource, "context": context}

    async def decide_late(*request: object) -> Loaded:
        return Loaded({"allow": bool(request)})

    cache.set_revalidate_callback(evaluate)
    cache.set_revalidate_callback(decide_late)
    cache.record_opa_latency(1.5)
    cache.enabled = False
    cache.ttl_seconds = 0.5
    cache.use_optimized_ttl = False
    assert_type(cache.max_size, int)
    assert_type(cache.metrics, CacheMetrics)
    assert_type(cache.metrics.hits, int)
    assert_type(cache.metrics.hit_rate, float)
    assert_type(cache.get_metrics(), dict[str, int | float])
    cache.reset_metrics()
    assert_type(await cache.cleanup_expired(), int)
    assert_type(await cache.health_check(), bool)
    async with cache as entered:
        assert_type(entered, RustPolicyCache)
    await cache.close()
    assert_type(RustPolicyCache.OPTIMIZED_TTL, Mapping[str, float])


def constructors() -> None:
    RustPolicyCache(1_000, 60.5, enabled=True, use_optimized_ttl=False)
    RustPolicyCache(stale_while_revalidate=False, max_bytes=1 << 20, eviction="tiny_lfu")
    assert_type(get_rust_policy_cache(max_size=10), RustPolicyCache)
    assert_type(is_rust_cache_available(), bool)
    interface: PolicyCacheProtocol = RustPolicyCache()
    del interface


async def general(cache: AsyncCache) -> None:
    await cache.set("key", {"any": ["JSON"]}, 1.5)
    value = await cache.get(("key", 1, None))
    assert isinstance(value, str)

    async def load() -> int:
        return 1

    loaded = await cache.get_or_load(("key", 1), load, 1.5)
    assert isinstance(loaded, int)
    assert_type(await cache.delete("key"), bool)
    assert_type(await cache.clear(), int)
    assert_type(await cache.size(), int)
    assert_type(await cache.cleanup_expired(), int)
    AsyncCache(10, 1.5, max_bytes=None, eviction="lru")


def errors(error: Exception) -> SarkCacheError:
    if isinstance(error, InvalidationError | FlagError | SettingsError):
        return assert_type(error, InvalidationError | FlagError | SettingsError)
    return InvalidationError("the backend is gone")


def decisions(decision: Decision) -> None:
    assert_type(decision.allow, bool)
    assert_type(decision.reason, Any)
    assert_type(decision["reason"], Any)
    assert_type(decision.get("reason"), Any)
    assert_type(decision.get("reason", "none"), Any)
    assert_type(decision.keys(), KeysView[str])
    assert_type(decision.values(), ValuesView[Any])
    assert_type(decision.items(), ItemsView[str, Any])
    assert_type(decision.to_dict(), JSONObject)
    assert_type(copy(decision), Decision)
    assert_type({decision: 1}, dict[Decision, int])
    mapping: Mapping[str, Any] = decision
    assert len(mapping) == len(list(decision)) or decision == {"allow": True}


def loaded(late: Loaded) -> None:
    assert_type(late.decision, Mapping[str, Any])
    assert_type(late.ttl_seconds, float | None)
    assert_type(late.tags, Collection[str])


def counted(metrics: CacheMetrics) -> None:
    whole = (
        *(metrics.hits, metrics.misses, metrics.stale_hits, metrics.revalidations),
        *(metrics.batch_operations, metrics.evictions, metrics.expirations, metrics.invalidations),
        *(metrics.loads, metrics.load_errors, metrics.coalesced, metrics.overdue, metrics.errors),
        *(metrics.size, metrics.max_size, metrics.total_requests),
        *(metrics.flushes, metrics.unconfirmed_revocations),
        *(metrics.lapsed, metrics.foreign_revocations),
    )
    assert_type(sum(whole), int)
    fractions = (
        *(metrics.hit_rate, metrics.effective_hit_rate, metrics.miss_rate),
        *(metrics.avg_cache_latency_ms, metrics.avg_opa_latency_ms),
        *(metrics.cache_latency_ms, metrics.opa_latency_ms),
        *(metrics.cache_latency_p50_us, metrics.cache_latency_p95_us),
        metrics.cache_latency_p99_us,
    )
    assert_type(max(fractions), float)
    assert_type(metrics.to_dict(), dict[str, int | float])


def settings(given: CacheSettings) -> None:
    assert_type(CacheSettings.from_environment(), CacheSettings)
    switches = (given.use_rust_cache, given.enabled, given.use_optimized_ttl)
    more_switches = (given.stale_while_revalidate, given.cleanup_enabled, given.log_user_ids)
    assert_type((*switches, *more_switches), tuple[bool, bool, bool, bool, bool, bool])
    assert_type(given.cache_max_size, int)
    assert_type(given.cache_max_bytes, int | None)
    assert_type(given.cache_eviction, Literal["lru", "tiny_lfu"])
    assert_type(given.cache_ttl, float)
    assert_type(given.redis_url, SecretStr | None)
    assert_type(given.redis_address, str | None)
    assert_type(given.redis_connect_timeout, float)
    assert_type(given.redis_command_timeout, float)
    assert_type(given.namespace, str)
    assert_type(given.redis_replicas, int | None)
    assert_type(given.trust_server, bool)
    assert_type(given.max_staleness, float)
    assert_type(given.settle, bool)
    assert_type(given.cleanup_interval, float)
    assert_type(given.tiered, bool | None)
    assert_type(given.rust_cache_rollout_pct, int | None)
    assert_type(given.rust_opa_rollout_pct, int)


async def tiered_cache(client: redis.asyncio.Redis) -> None:
    """Creates caches that every process can revoke."""
    async with TieredPolicyCache(client, max_size=1_000, max_staleness=0.25) as cache:
        assert_type(cache, TieredPolicyCache)
        native: RustPolicyCache = cache
        assert_type(await cache.confirm(), bool)
        assert_type(cache.lease, float)
        assert_type(cache.record_lag, float)
        assert_type(cache.max_staleness, float)
        assert_type(cache.settle_histogram(), LatencyHistogram)
        assert_type(cache.circuit_open, bool)
        assert_type(cache.refused, str | None)
        cache.follow()
        assert_type(await cache.invalidate(tags=["t"]), int)
        assert native
    protocol: PolicyCacheProtocol = TieredPolicyCache("redis://localhost", settle=False)
    assert protocol


async def redis_cache() -> None:
    """Creates caches on Redis, Sentinel or a cluster, from a URL or a client."""
    client: redis.asyncio.Redis = redis.asyncio.Redis()
    async with PolicyCache(client, ttl_seconds=60, command_timeout=0.1) as cache:
        assert_type(cache, PolicyCache)
        assert_type(cache.settle_limit, float)
        protocol: PolicyCacheProtocol = cache
        decision: JSONObject | None = await protocol.get("alice", "read", "doc", {"mfa": True})
        shared: Decision | None = await protocol.get_decision("alice", "read", "doc")
        del shared
        stored: bool = await cache.set(
            "alice", "read", "doc", decision or {"allow": False}, tags=["t"], stamp=cache.stamp()
        )
        removed: int = await cache.invalidate(user_id="alice")
        assert stored or removed
    from_url: PolicyCache = PolicyCache.from_url(
        "redis+sentinel://a:26379,b:26379/main", ttl_seconds=1.5, connect_timeout=0.05
    )
    assert_type(from_url, PolicyCache)
    assert_type(from_url.redis, Any)
    assert_type(from_url.settle_histogram(SETTLE_BOUNDS_SECONDS), LatencyHistogram)
    histogram = from_url.latency_histogram([0.001, 0.01])
    assert_type(histogram, LatencyHistogram)
    counts: tuple[int, ...] = histogram.counts
    assert counts


async def null_cache() -> None:
    """Creates a cache that stores nothing."""
    cache: PolicyCacheProtocol = NullPolicyCache()
    missed: JSONObject | None = await cache.get("alice", "read", "doc")
    assert missed is None


async def selection() -> None:
    """Selects the cache of a user, and one object for all users."""
    try:
        settings: CacheSettings = CacheSettings.from_environment()
    except SettingsError as error:
        wrong: ValueError = error
        raise wrong from None
    ttl: float = settings.cache_ttl
    of_alice: PolicyCacheProtocol = create_policy_cache("alice", fallback_on_error=False)
    redis_one: PolicyCache = get_policy_cache(ttl_seconds=ttl)
    native_one: RustPolicyCache = get_rust_policy_cache(1_000)
    selected: SelectedPolicyCache = SelectedPolicyCache()
    as_protocol: PolicyCacheProtocol = selected
    backends: list[str] = [cache.backend for cache in selected.backends()]
    assert [of_alice, redis_one, native_one, as_protocol, backends]
    await close_policy_caches()


def feature_flags() -> None:
    """Reads and changes rollout percentages."""
    flags: FeatureFlagManager = get_feature_flag_manager()
    alice_is_in: bool = flags.should_use_rust("rust_cache", "alice")
    percentage: int = flags.get_rollout_pct("rust_cache")
    try:
        flags.set_rollout_pct("rust_cache", min(percentage + 10, 100))
        flags.rollback("rust_cache")
        flags.rollback_all()
    except FlagError as error:
        unconfirmed: SarkCacheError = error
        assert unconfirmed
    rollouts: dict[str, int] = flags.get_all_rollouts()
    assert alice_is_in or rollouts


def flags_of_ones_own(client: redis.Redis) -> None:
    flags = FeatureFlagManager(client, initial={"rust_cache": 10})
    assert_type(flags, FeatureFlagManager)
    assert_type(flags.should_use_rust("rust_cache", "alice"), bool)
    assert_type(flags.get_rollout_pct("rust_cache"), int)
    assert_type(flags.includes("alice", "rust_cache", 25), bool)
    assert_type(flags.get_all_rollouts(), dict[str, int])
    assert_type(flags.rollout_pct, Mapping[str, int])
    assert_type((flags.was_set("rust_cache"), flags.has_provider), tuple[bool, bool])
    assert_type(flags.is_known("rust_cache"), bool)
    if flags.redis is not None:
        flags.redis.close()
    flags.set_rollout_pct("rust_cache", 25)
    flags.rollback("rust_cache")
    flags.rollback_all()
    flags.configure(client, initial={})
    flags.close()
    assert_type(flags.closed, bool)


async def cleanup_of_ones_own(cache: PolicyCacheProtocol) -> None:
    task = CacheCleanupTask(cache, 0.5, enabled=True)
    assert_type(task, CacheCleanupTask)
    await task.start()
    assert_type(await task.trigger_cleanup(), int)
    assert_type(await task.health_check(), bool)
    await task.stop()
    assert_type(task.running, bool)
    assert_type(task.enabled, bool)
    assert_type(task.interval, float)
    assert_type(await task.cache.cleanup_expired(), int)
    assert_type(task.get_metrics(), dict[str, int | float])
    task.reset_metrics()
    metrics = task.metrics
    assert_type(metrics, CleanupMetrics)
    whole = (metrics.cleanups_run, metrics.total_entries_removed, metrics.last_cleanup_removed)
    assert_type((*whole, metrics.errors), tuple[int, int, int, int])
    assert_type(metrics.last_cleanup_duration_ms, float)
    assert_type(metrics.avg_entries_per_cleanup, float)
    assert_type(metrics.to_dict(), dict[str, int | float])


async def cleanup(cache: RustPolicyCache) -> None:
    """Removes expired entries in the background."""
    task: CacheCleanupTask = await start_cache_cleanup(cache, interval=30)
    same: CacheCleanupTask | None = get_cleanup_task()
    removed: int = await task.trigger_cleanup()
    metrics: CleanupMetrics = task.metrics
    total: int = metrics.total_entries_removed
    healthy: bool = await task.health_check()
    assert same is task
    assert removed <= total or healthy
    await stop_cache_cleanup()
