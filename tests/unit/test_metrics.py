"""The metrics of a cache."""

from sark_cache import CacheMetrics, RustPolicyCache

ALLOW = {"allow": True}

KEYS = {
    "hits",
    "misses",
    "stale_hits",
    "revalidations",
    "batch_operations",
    "total_requests",
    "evictions",
    "hit_rate",
    "effective_hit_rate",
    "miss_rate",
    "avg_cache_latency_ms",
    "avg_opa_latency_ms",
    "expirations",
    "invalidations",
    "loads",
    "load_errors",
    "coalesced",
    "overdue",
    "errors",
    "flushes",
    "unconfirmed_revocations",
    "lapsed",
    "foreign_revocations",
    "size",
    "max_size",
    "cache_latency_p50_us",
    "cache_latency_p95_us",
    "cache_latency_p99_us",
}


def test_without_requests_the_miss_rate_is_100(cache):
    metrics = cache.get_metrics()
    assert set(metrics) == KEYS
    assert (metrics["hit_rate"], metrics["effective_hit_rate"], metrics["miss_rate"]) == (0, 0, 100)
    assert metrics["max_size"] == 10_000
    assert metrics["avg_cache_latency_ms"] == metrics["cache_latency_p99_us"] == 0


async def test_rates_are_percentages_with_two_decimals(cache):
    await cache.set("alice", "read", "doc", ALLOW)
    await cache.get("alice", "read", "doc")
    await cache.get("alice", "read", "doc")
    await cache.get("bob", "read", "doc")
    metrics = cache.get_metrics()
    assert (metrics["hits"], metrics["misses"], metrics["total_requests"]) == (2, 1, 3)
    assert metrics["hit_rate"] == metrics["effective_hit_rate"] == 66.67
    assert metrics["miss_rate"] == 33.33
    assert metrics["size"] == 1
    assert cache.metrics.hits == 2
    assert cache.metrics.hit_rate == 200 / 3


def test_stale_hits_count_for_the_effective_rate_only():
    metrics = CacheMetrics(hits=2, stale_hits=1, misses=1)
    assert (metrics.total_requests, metrics.hit_rate, metrics.effective_hit_rate) == (4, 50, 75)


async def test_latency_is_sampled_from_the_first_request_on(cache):
    await cache.get("alice", "read", "doc")
    first = cache.metrics
    assert first.avg_cache_latency_ms > 0
    assert (
        0 < first.cache_latency_p50_us <= first.cache_latency_p95_us <= first.cache_latency_p99_us
    )


def test_evaluations_are_averaged(cache):
    cache.record_opa_latency(10)
    cache.record_opa_latency(20.5)
    assert cache.get_metrics()["avg_opa_latency_ms"] == 15.25


async def test_a_reset_sets_all_counters_to_zero():
    cache = RustPolicyCache(max_size=2)
    for i in range(10):
        await cache.set("alice", "read", str(i), ALLOW)
        await cache.get("alice", "read", str(i))
    cache.record_opa_latency(10)
    assert cache.metrics.evictions == 8
    cache.reset_metrics()
    assert cache.metrics == CacheMetrics(size=2, max_size=2)
    await cache.set("alice", "read", "again", ALLOW)
    assert cache.metrics.evictions == 1


async def test_every_kind_of_removal_is_counted_once():
    cache = RustPolicyCache(max_size=100)
    for i in range(150):
        await cache.set("alice", "read", str(i), ALLOW)  # 50 are evicted
    for i in range(50, 60):
        await cache.set("alice", "read", str(i), {"allow": False})  # replaced: still there
    await cache.delete("alice", "read", "60")
    await cache.invalidate(resource="61")
    for i in range(62, 72):
        await cache.set("alice", "read", str(i), ALLOW, ttl_seconds=1e-9)
    await cache.cleanup_expired()
    metrics = cache.metrics
    assert (metrics.evictions, metrics.invalidations, metrics.expirations) == (50, 2, 10)
    assert metrics.size == 100 - 2 - 10
    await cache.clear()
    assert cache.metrics.invalidations == 2 + 88
    assert cache.metrics.evictions == 50


async def test_a_revocation_that_the_log_has_no_room_for_is_counted(cache):
    for i in range(64):
        await cache.invalidate_pattern(f"policy:decision:{i}:*")
    await cache.set("alice", "read", "doc", ALLOW)
    assert cache.metrics.flushes == 0
    assert await cache.invalidate_pattern("policy:decision:bob:*") == 1
    assert cache.metrics.flushes == cache.get_metrics()["flushes"] == 1
    assert await cache.get("alice", "read", "doc") is None
    await cache.clear()
    assert cache.metrics.flushes == 1
