"""Stored decisions are served unchanged to the same request until they expire."""

import asyncio
import math

import pytest

ALLOW = {"allow": True, "reason": "owner", "obligations": [{"log": True}, None, 1.5, 2**70]}
DENY = {"allow": False}
ALICE = ("alice", "read", "doc")


async def expired(cache, *request):
    """Waits until an entry with a TTL of 0.2 s has expired; fails if that takes much longer."""
    async with asyncio.timeout(5):
        while await cache.get(*request) is not None:
            await asyncio.sleep(0.01)


async def test_a_stored_decision_is_served(cache):
    assert await cache.get(*ALICE) is None
    assert await cache.set(*ALICE, ALLOW) is True
    assert await cache.get(*ALICE) == ALLOW
    assert await cache.set(*ALICE, DENY) is True
    assert await cache.get(*ALICE) == DENY


async def test_another_request_is_another_decision(cache):
    await cache.set(*ALICE, ALLOW, {"ip": "::1", "mfa": True})
    for other in [
        ("bob", "read", "doc", {"ip": "::1", "mfa": True}),
        ("alice", "write", "doc", {"ip": "::1", "mfa": True}),
        ("alice", "read", "doc2", {"ip": "::1", "mfa": True}),
        ("alice", "read", "doc", {"ip": "::1"}),
        ("alice", "read", "doc", {"ip": "::1", "mfa": 1}),
        ("alice", "read", "doc", {"ip": "::1", "mfa": 1.0}),
        ("alice", "read", "doc", {"ip": "::1", "mfa": "true"}),
        ("alice", "read", "doc"),
    ]:
        assert await cache.get(*other) is None
    assert await cache.get(*ALICE, {"mfa": True, "ip": "::1"}) == ALLOW


async def test_an_empty_context_is_none(cache):
    await cache.set(*ALICE, ALLOW, {})
    assert await cache.get(*ALICE) == ALLOW
    assert await cache.get(*ALICE, None) == ALLOW


@pytest.mark.parametrize(
    "resource", ["a:b", "a_b", "a/b", "a%3Ab", "*", "a*", "[a]b", "", "é€😀", "{a}"]
)
async def test_names_that_look_alike_are_different(cache, resource):
    names = ["a:b", "a_b", "a/b", "a%3Ab", "*", "a*", "[a]b", "", "é€😀", "{a}", "a", "ab"]
    await cache.set("alice", "read", resource, ALLOW)
    for other in set(names) - {resource}:
        assert await cache.get("alice", "read", other) is None
    assert await cache.get("alice", "read", resource) == ALLOW
    assert await cache.invalidate(resource=resource) == 1


async def test_fields_are_separated_in_the_key(cache):
    await cache.set("a:b", "c", "d", ALLOW)
    assert await cache.get("a", "b:c", "d") is None
    assert await cache.get("a", "b", "c:d") is None
    assert await cache.invalidate(user_id="a") == 0


async def test_a_decision_is_a_snapshot(cache):
    decision = {"allow": True, "roles": ["admin"]}
    await cache.set(*ALICE, decision)
    decision["roles"].append("root")
    served = await cache.get(*ALICE)
    assert served == {"allow": True, "roles": ["admin"]}
    served["roles"].clear()
    assert await cache.get(*ALICE) == {"allow": True, "roles": ["admin"]}


async def test_tuples_come_back_as_lists(cache):
    await cache.set(*ALICE, {"allow": True, "roles": ("a", ("b",))})
    assert await cache.get(*ALICE) == {"allow": True, "roles": ["a", ["b"]]}


async def test_an_entry_expires_after_its_ttl(cache):
    await cache.set(*ALICE, ALLOW, ttl_seconds=0.2)
    await cache.set("bob", "read", "doc", ALLOW)
    assert await cache.get(*ALICE) == ALLOW
    await expired(cache, *ALICE)
    assert await cache.get("bob", "read", "doc") == ALLOW
    assert await cache.size() == 1


async def test_the_ttl_can_be_changed(cache):
    cache.ttl_seconds = 0.2
    assert cache.ttl_seconds == 0.2
    await cache.set("5", "read", "doc", ALLOW)
    await expired(cache, "5", "read", "doc")


async def test_a_ttl_of_zero_stores_nothing_and_removes_the_older_decision(cache):
    await cache.set(*ALICE, ALLOW)
    assert await cache.set(*ALICE, DENY, ttl_seconds=0) is False
    assert await cache.get(*ALICE) is None
    assert await cache.set_batch([(*ALICE, ALLOW, None, 0)]) == 0
    assert cache.metrics.errors == 0


@pytest.mark.parametrize("ttl", [-1, -0.001, math.nan])
async def test_a_negative_ttl_is_an_error(cache, ttl):
    with pytest.raises(ValueError, match="ttl_seconds"):
        await cache.set(*ALICE, ALLOW, ttl_seconds=ttl)
    with pytest.raises(ValueError, match="ttl_seconds"):
        await cache.set_batch([(*ALICE, ALLOW, None, ttl)])
    with pytest.raises(ValueError, match="ttl_seconds"):
        await cache.get_or_load(*ALICE, pytest.fail, ttl_seconds=ttl)
    assert await cache.size() == 0


@pytest.mark.parametrize(
    "ttl", [1e-12, 1e18, 10**400, math.inf], ids=["tiny", "long", "huge", "endless"]
)
async def test_extreme_ttls_are_accepted(cache, ttl):
    assert await cache.set(*ALICE, ALLOW, ttl_seconds=ttl) is True
    if ttl > 1:
        assert await cache.get(*ALICE) == ALLOW


# Batches


async def test_a_batch_is_answered_in_its_order(cache):
    rows = [(f"user-{i}", "read", "doc", {"allow": True, "n": i}) for i in range(1_200)]
    assert await cache.set_batch(rows) == 1_200
    asked = [(f"user-{i}", "read", "doc") for i in (5, 2_000, 1_199, 5, 0)]
    served = await cache.get_batch(asked)
    assert [decision and decision["n"] for decision in served] == [5, None, 1_199, 5, 0]
    assert await cache.size() == await cache.get_cache_size() == 1_200
    assert await cache.get_batch([]) == []
    assert await cache.set_batch([]) == 0
    assert cache.metrics.batch_operations >= 2
    assert (cache.metrics.hits, cache.metrics.misses) == (4, 1)


async def test_rows_may_have_contexts_and_ttls(cache):
    context = {"ip": "::1"}
    stored = [
        (*ALICE, ALLOW, context, 0.2),
        ["bob", "read", "doc", ALLOW, None],
        ("carol", "read", "doc", ALLOW),
    ]
    assert await cache.set_batch(iter(stored)) == 3
    assert await cache.get_batch([(*ALICE, context), ("bob", "read", "doc", None), ALICE]) == [
        ALLOW,
        ALLOW,
        None,
    ]
    await expired(cache, *ALICE, context)


async def test_preloading_is_a_batch(cache):
    assert await cache.preload_cache([(*ALICE, ALLOW, {"mfa": True})], tags=["start"]) == 1
    assert await cache.get(*ALICE, {"mfa": True}) == ALLOW
    assert await cache.invalidate(tags=["start"]) == 1


async def test_a_row_that_cannot_be_stored_does_not_stop_a_batch(cache):
    rows = [(*ALICE, {"x": object()}), ("bob", "read", "doc", ALLOW)]
    assert await cache.set_batch(rows) == 1
    assert await cache.get_batch([ALICE, ("bob", "read", "doc")]) == [None, ALLOW]


# Disabled, and closed


async def test_a_disabled_cache_neither_serves_nor_stores_nor_counts(cache):
    await cache.set(*ALICE, ALLOW)
    before = cache.get_metrics()
    cache.enabled = False
    assert cache.enabled is False
    assert await cache.get(*ALICE) is None
    assert await cache.set("bob", "read", "doc", ALLOW) is False
    assert await cache.get_batch([ALICE]) == [None]
    assert await cache.set_batch([("bob", "read", "doc", DENY)]) == 0

    async def load():
        return DENY

    assert await cache.get_or_load("bob", "read", "doc", load) == DENY
    assert cache.get_metrics() == before
    cache.enabled = True
    assert await cache.get(*ALICE) == ALLOW


async def test_a_revocation_takes_effect_while_the_cache_is_disabled(cache):
    await cache.set(*ALICE, ALLOW)
    cache.enabled = False
    assert await cache.invalidate(user_id="alice") == 1
    cache.enabled = True
    assert await cache.get(*ALICE) is None


async def test_a_closed_cache_serves_nothing_and_loads(cache):
    await cache.set(*ALICE, ALLOW)
    await cache.close()
    await cache.close()
    assert cache.closed
    assert await cache.health_check() is False
    assert await cache.get(*ALICE) is None
    assert await cache.set(*ALICE, ALLOW) is False
    assert await cache.size() == 0

    async def load():
        return DENY

    assert await cache.get_or_load(*ALICE, load) == DENY
    with pytest.raises(RuntimeError, match="closed"):
        async with cache:
            pass


async def test_it_is_healthy(cache):
    assert await cache.health_check() is True


# Metrics

KEYS = {
    *("hits", "misses", "stale_hits", "revalidations", "batch_operations", "total_requests"),
    *("evictions", "hit_rate", "effective_hit_rate", "miss_rate", "avg_cache_latency_ms"),
    *("avg_opa_latency_ms", "expirations", "invalidations", "loads", "load_errors", "coalesced"),
    "overdue",
    *("errors", "size", "max_size", "cache_latency_p50_us", "cache_latency_p95_us"),
    "cache_latency_p99_us",
    *("flushes", "unconfirmed_revocations", "lapsed", "foreign_revocations"),
}


async def test_metrics_have_the_agreed_names_and_begin_at_zero(cache):
    cache.reset_metrics()
    metrics = cache.get_metrics()
    assert set(metrics) == KEYS
    assert (metrics["hit_rate"], metrics["effective_hit_rate"], metrics["miss_rate"]) == (0, 0, 100)
    assert sum(metrics[name] for name in KEYS - {"miss_rate", "max_size"}) == 0


async def test_requests_are_counted(cache):
    await cache.get(*ALICE)
    await cache.set(*ALICE, ALLOW)
    await cache.get(*ALICE)
    await cache.get(*ALICE)
    cache.record_opa_latency(5)
    cache.record_opa_latency(7.0)
    metrics = cache.get_metrics()
    assert (metrics["hits"], metrics["misses"], metrics["total_requests"]) == (2, 1, 3)
    assert (metrics["hit_rate"], metrics["miss_rate"]) == (66.67, 33.33)
    assert metrics["avg_opa_latency_ms"] == pytest.approx(6)
    assert metrics["avg_cache_latency_ms"] > 0
    assert 0 < metrics["cache_latency_p50_us"] <= metrics["cache_latency_p99_us"]
    cache.reset_metrics()
    assert cache.metrics.total_requests == 0
    assert cache.get_metrics()["avg_opa_latency_ms"] == 0


@pytest.mark.parametrize("latency", [-1, math.nan, math.inf])
async def test_an_impossible_latency_is_an_error(cache, latency):
    with pytest.raises(ValueError, match="latency_ms must be a finite number"):
        cache.record_opa_latency(latency)


async def test_a_histogram_agrees_with_the_metrics(cache):
    for _ in range(100):
        await cache.get(*ALICE)
    histogram = cache.latency_histogram()
    assert list(histogram.counts) == sorted(histogram.counts)
    assert histogram.counts[-1] <= histogram.count
    mean_ms = histogram.sum_seconds / histogram.count * 1e3
    assert mean_ms == pytest.approx(cache.get_metrics()["avg_cache_latency_ms"], rel=0.01)


async def test_an_entry_counts_in_the_size_until_it_expires(cache):
    for _ in range(20):
        await cache.set(*ALICE, ALLOW, ttl_seconds=0.02)
        while await cache.get(*ALICE) is not None:
            pass
        assert await cache.size() == 0


async def test_expired_entries_can_be_cleaned_up(cache):
    await cache.set(*ALICE, ALLOW, ttl_seconds=0.2)
    await cache.set("bob", "read", "doc", ALLOW)
    await expired(cache, *ALICE)
    assert await cache.cleanup_expired() in {0, 1}, "the server may have done it"
    assert await cache.cleanup_expired() == 0
    assert await cache.size() == 1
