"""Caches of every backend, and one that asks several, as Prometheus and OpenTelemetry see them."""

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
    close_policy_caches,
)
from sark_cache._core.observers import observers
from sark_cache.instrumentation.prometheus import register
from sark_cache.rollout import manager as flags
from sark_cache.selection import registry as process
from sark_cache.selection import selector as selection
from telemetry import Telemetry, families, samples

NATIVE, REDIS, NONE = (("backend", backend) for backend in ("native", "redis", "none"))


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
    """Half of the users get the native cache, and the others one that never hits."""
    monkeypatch.setattr(flags, "_instance", None)
    monkeypatch.setattr(process, "_caches", {})
    chosen = selection.Selection(CacheSettings(rust_cache_rollout_pct=50, redis_url=None))
    yield SelectedPolicyCache(chosen)
    await close_policy_caches()
    chosen.flags.close()


def users_of(cache):
    """Somebody who is in the rollout, and somebody who is not."""
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
    assert native.keys() == redis.keys() == none.keys()
    for exported in (native, redis, none):
        assert exported["sark_cache_loads_total",] == 1
        assert exported["sark_cache_evaluation_seconds_count",] == 1
        assert exported["sark_cache_evaluation_seconds_sum",] == 0.005
        assert exported["sark_cache_backend_info",] == 1
    assert native["sark_cache_hits_total",] == redis["sark_cache_hits_total",] == 1
    assert none["sark_cache_misses_total",] == 2
    # A server is asked twice, and each time is measured.
    assert redis["sark_cache_latency_seconds_count",] == 2
    assert redis["sark_cache_latency_seconds_bucket", ("le", "3.2768e-05")] == 0
    await caches[1].close()


async def test_an_evaluation_for_redis_is_a_span_with_those_who_waited(fresh_redis, telemetry):
    may_end = asyncio.Event()

    async def slow():
        await may_end.wait()
        return ALLOW

    async with PolicyCache(fresh_redis.url) as cache:
        telemetry.instrument(cache, name="decisions")
        requests = [asyncio.create_task(cache.get_or_load(*REQUEST, slow)) for _ in range(5)]
        while cache.metrics.misses < 5:
            await asyncio.sleep(0.001)
        for _ in range(10):  # from having missed to waiting for the one who leads
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


async def test_one_that_asks_several_is_exported_backend_by_backend(selected, registry, telemetry):
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


async def test_one_that_asks_several_can_be_exported_as_one(selected, registry):
    register(selected, registry, backend="selected")
    for user in users_of(selected):
        await selected.get(user, "read", "doc")
    assert samples(registry)["sark_cache_misses_total", ("backend", "selected")] == 2
    assert ("sark_cache_misses_total", NATIVE) not in samples(registry)


async def test_one_that_asks_several_needs_their_names_for_itself(selected, registry):
    register(selected, registry)
    with pytest.raises(ValueError, match="give each one a name="):
        register(RustPolicyCache(), registry)
    register(RustPolicyCache(), registry, name="another")


async def test_a_server_that_is_gone_opens_the_circuit_and_that_is_exported(own_redis, registry):
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
