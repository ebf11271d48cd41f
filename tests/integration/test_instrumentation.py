"""Prometheus and OpenTelemetry on every backend, and on a cache that selects between several."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from loaders import ALLOW, REQUEST, bringing
from sark_cache import (
    CacheSettings,
    NullPolicyCache,
    PolicyCache,
    RustPolicyCache,
    SelectedPolicyCache,
    TieredPolicyCache,
    close_policy_caches,
)
from sark_cache._core.observers import observers
from sark_cache.instrumentation.prometheus import register
from sark_cache.rollout import manager as flags
from sark_cache.selection import registry as process
from sark_cache.selection import selector as selection
from telemetry import Telemetry, families, samples

NATIVE, REDIS, NONE, TIERED = (
    ("backend", backend) for backend in ("native", "redis", "none", "tiered")
)


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def telemetry():
    telemetry = Telemetry()
    yield telemetry
    telemetry.close()
    assert not observers


@pytest.fixture
async def selected(monkeypatch):
    """Serves half of the users from the native cache, and the others from the null cache."""
    monkeypatch.setattr(flags, "_instance", None)
    monkeypatch.setattr(process, "_caches", {})
    chosen = selection.Selection(CacheSettings(rust_cache_rollout_pct=50, redis_url=None))
    yield SelectedPolicyCache(chosen)
    await close_policy_caches()
    chosen.flags.close()


def users_of(cache):
    """Returns a user inside the rollout, and one outside it."""
    is_in = cache._selection.flags.should_use_rust
    users = [f"user {number}" for number in range(100)]
    inside = next(user for user in users if is_in("rust_cache", user))
    return inside, next(user for user in users if not is_in("rust_cache", user))


async def test_every_backend_exports_the_same_families(fresh_redis, registry):
    caches = [RustPolicyCache(), PolicyCache(fresh_redis.url), NullPolicyCache()]
    for cache in caches:
        register(cache, registry)
        await cache.get_or_load(*REQUEST, bringing(ALLOW))
        await cache.get(*REQUEST)
        cache.record_opa_latency(5)
    by_backend = {
        backend: {
            (name, *(label for label in labels if label[0] != "backend")): value
            for (name, *labels), value in samples(registry).items()
            if backend in labels
        }
        for backend in (NATIVE, REDIS, NONE)
    }
    native, redis, none = by_backend.values()
    assert native.keys() == none.keys()
    of_redis = redis.keys() - native.keys()
    assert native.keys() < redis.keys()
    assert all(name.startswith("sark_cache_settle_seconds") for name, *_ in of_redis)
    for exported in (native, redis, none):
        assert exported["sark_cache_loads_total",] == 1
        assert exported["sark_cache_evaluation_seconds_count",] == 1
        assert exported["sark_cache_evaluation_seconds_sum",] == 0.005
        assert exported["sark_cache_backend_info",] == 1
    assert native["sark_cache_hits_total",] == redis["sark_cache_hits_total",] == 1
    assert none["sark_cache_misses_total",] == 2
    # Redis is asked twice, and both requests are measured.
    assert redis["sark_cache_latency_seconds_count",] == 2
    assert redis["sark_cache_latency_seconds_bucket", ("le", "3.2768e-05")] == 0
    await caches[1].close()


async def test_a_tiered_cache_exports_its_lease_and_the_lag_of_the_log(
    fresh_redis, registry, telemetry
):
    async with (
        TieredPolicyCache(fresh_redis.url) as cache,
        PolicyCache(fresh_redis.url, settle=False) as other,
    ):
        register(cache, registry)
        telemetry.instrument(cache)
        assert samples(registry)["sark_cache_lease_seconds", TIERED] == 0
        assert await cache.confirm()
        await other.invalidate(user_id="alice")
        assert await cache.confirm()
        scraped, collected = samples(registry), telemetry.numbers()
        assert 0 < scraped["sark_cache_lease_seconds", TIERED] <= 0.9
        assert 0 <= scraped["sark_cache_record_lag_seconds", TIERED] < 60
        assert ("sark_cache.record_lag", TIERED) in collected
        register(RustPolicyCache(), registry)
        assert ("sark_cache_lease_seconds", NATIVE) not in samples(registry)


async def test_an_evaluation_for_redis_is_a_span_with_its_waiters(fresh_redis, telemetry):
    may_end = asyncio.Event()

    async def slow():
        await may_end.wait()
        return ALLOW

    async with PolicyCache(fresh_redis.url) as cache:
        telemetry.instrument(cache, name="decisions")
        requests = [asyncio.create_task(cache.get_or_load(*REQUEST, slow)) for _ in range(5)]
        while cache.metrics.misses < 5:
            await asyncio.sleep(0.001)
        for _ in range(10):  # from the miss to the wait for the leader
            await asyncio.sleep(0)
        may_end.set()
        assert await asyncio.gather(*requests) == [ALLOW] * 5
        assert await cache.get(*REQUEST) == ALLOW
        [span] = telemetry.spans()
        assert span.name == "sark_cache.evaluate"
        assert dict(span.attributes) == {
            "sark_cache.backend": "redis",
            "sark_cache.cache": "decisions",
            "sark_cache.outcome": "loaded",
            "sark_cache.coalesced": 4,
        }
        assert telemetry.numbers()["sark_cache.coalesced", REDIS, ("cache", "decisions")] == 4


async def test_a_selected_cache_is_exported_per_backend(selected, registry, telemetry):
    register(selected, registry, flags=selected._selection.flags)
    telemetry.instrument(selected, flags=selected._selection.flags)
    exported = families(registry)
    assert exported["sark_cache_hits"].samples == [], "no cache was asked for yet"
    rollout = ("feature", "rust_cache")
    assert samples(registry)["sark_cache_rollout_percent", rollout] == 50
    assert telemetry.numbers()["sark_cache.rollout", rollout] == 50

    inside, outside = users_of(selected)
    for user, times in ((inside, 3), (outside, 2)):
        for _ in range(times):
            await selected.get_or_load(user, "read", "doc", bringing(ALLOW))
    scraped, collected = samples(registry), telemetry.numbers()
    for backend, hits, misses in ((NATIVE, 2, 1), (NONE, 0, 2)):
        assert scraped["sark_cache_hits_total", backend] == hits
        assert scraped["sark_cache_misses_total", backend] == misses
        assert scraped["sark_cache_backend_info", backend] == 1
        assert collected["sark_cache.misses", backend] == misses
    backends = [span.attributes["sark_cache.backend"] for span in telemetry.spans()]
    assert backends == ["native", "none", "none"]


async def test_a_selected_cache_can_be_exported_as_one(selected, registry):
    register(selected, registry, backend="selected")
    for user in users_of(selected):
        await selected.get(user, "read", "doc")
    assert samples(registry)["sark_cache_misses_total", ("backend", "selected")] == 2
    assert ("sark_cache_misses_total", NATIVE) not in samples(registry)


async def test_a_selected_cache_needs_unique_names_for_its_backends(selected, registry):
    register(selected, registry)
    with pytest.raises(ValueError, match="pass a different name="):
        register(RustPolicyCache(), registry)
    register(RustPolicyCache(), registry, name="another")


async def test_an_unreachable_server_opens_the_circuit_which_is_exported(own_redis, registry):
    server = own_redis()
    async with PolicyCache(server.url) as cache:
        register(cache, registry)
        await cache.get(*REQUEST)
        assert samples(registry)["sark_cache_circuit_open", REDIS] == 0
        server.kill()
        await cache.get(*REQUEST)
        assert samples(registry)["sark_cache_circuit_open", REDIS] == 1
        assert samples(registry)["sark_cache_errors_total", REDIS] >= 1
        server.revive()
        async with asyncio.timeout(10):
            while samples(registry)["sark_cache_circuit_open", REDIS]:
                await asyncio.sleep(0.01)
