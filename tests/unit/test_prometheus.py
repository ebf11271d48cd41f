"""Prometheus: a scrape has every number of the metrics, in the expected format."""

import gc
import importlib
import random
import sys
import weakref
from itertools import pairwise

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)

from sark_cache import RustPolicyCache
from sark_cache._core.compiled import PolicyStore
from sark_cache._core.observers import observers
from sark_cache.instrumentation.prometheus import PolicyCacheCollector, register
from telemetry import FixedRollouts, families, samples

REQUEST = ("alice", "read", "doc")
ALLOW = {"allow": True}


@pytest.fixture
def registry():
    return CollectorRegistry()


def numbers(registry):
    """Returns the unlabelled numbers of a scrape of one cache, by name without prefix."""
    return {
        name.removeprefix("sark_cache_"): value
        for (name, *labels), value in samples(registry).items()
        if {label for label, _ in labels} <= {"backend"}
    }


async def allow():
    return ALLOW


async def anything_happens(cache, chance):
    """Runs one operation of any kind."""
    user, resource = chance.choice("abc"), str(chance.randrange(20))
    request = (user, "read", resource)
    match chance.randrange(9):
        case 0:
            await cache.set(*request, ALLOW, ttl_seconds=chance.choice([1e-9, 60]))
        case 1:
            await cache.get_or_load(*request, allow)
        case 2:
            await cache.get_batch([request, ("nobody", "read", "x")])
        case 3:
            await cache.invalidate(user_id=user)
        case 4:
            await cache.cleanup_expired()
        case 5:
            await cache.get(*request, {"not": object()})
        case 6:
            cache.record_opa_latency(chance.uniform(0, 100))
        case _:
            for _ in range(70):
                await cache.get(*request)


async def test_every_number_of_the_metrics_follows_from_a_scrape(cache, registry):
    register(cache, registry)
    chance = random.Random(3)
    for _ in range(300):
        await anything_happens(cache, chance)
    expected, scraped = cache.get_metrics(), numbers(registry)
    percentiles = {
        dict(labels)["percentile"]: value * 1e6
        for (name, *labels), value in samples(registry).items()
        if name == "sark_cache_latency_percentile_seconds"
    }
    followed = {
        name: scraped[f"{name}_total"]
        for name in expected
        if f"{name}_total" in scraped and name != "total_requests"
    } | {
        "total_requests": sum(
            scraped[f"{name}_total"] for name in ("hits", "stale_hits", "misses")
        ),
        "hit_rate": round(100 * scraped["hit_ratio"], 2),
        "effective_hit_rate": round(100 * scraped["effective_hit_ratio"], 2),
        "miss_rate": round(100 * scraped["miss_ratio"], 2),
        "size": scraped["entries"],
        "max_size": scraped["max_entries"],
        "avg_cache_latency_ms": round(
            1e3 * scraped["latency_seconds_sum"] / scraped["latency_seconds_count"], 6
        ),
        "avg_opa_latency_ms": round(
            1e3 * scraped["evaluation_seconds_sum"] / scraped["evaluation_seconds_count"], 6
        ),
        "cache_latency_p50_us": pytest.approx(percentiles["50"]),
        "cache_latency_p95_us": pytest.approx(percentiles["95"]),
        "cache_latency_p99_us": pytest.approx(percentiles["99"]),
    }
    assert followed == expected
    assert all(expected[name] for name in ("hits", "misses", "loads", "errors", "expirations"))


async def test_a_scrape_has_the_format_of_prometheus_and_of_openmetrics(cache, registry):
    register(cache, registry, name="gateway", flags=FixedRollouts(rust_cache=25, rust_opa=0))
    await cache.get(*REQUEST)
    cache.record_opa_latency(5)
    text = generate_latest(registry).decode()
    names = []
    for family in families(registry).values():
        assert f"# HELP {family.name}" in text
        assert family.documentation
        assert family.type in {"counter", "gauge", "histogram"}
        assert family.samples, "every family has a number"
        names.extend(sample.name for sample in family.samples)
        if family.type == "counter":
            assert [sample.name for sample in family.samples] == [f"{family.name}_total"]
    units = ("_total", "_seconds", "_ratio", "_percent", "_entries", "_info")
    parts = ("_seconds_bucket", "_seconds_sum", "_seconds_count")
    states = {"sark_cache_enabled", "sark_cache_circuit_open"}
    assert {name for name in names if not name.endswith((*units, *parts))} == states
    assert all(name.startswith("sark_cache_") for name in names)

    strict = list(parse_openmetrics(generate_openmetrics(registry).decode()))
    assert {family.name for family in strict} >= {"sark_cache_hits", "sark_cache_latency_seconds"}
    kinds = {family.name: (family.type, family.unit) for family in strict}
    assert kinds["sark_cache_backend"] == ("info", "")
    assert kinds["sark_cache_latency_seconds"] == ("histogram", "seconds")
    assert kinds["sark_cache_rollout_percent"] == ("gauge", "percent")


async def test_labels_say_which_cache_and_which_backend(cache, registry):
    register(cache, registry, name="gateway", flags=FixedRollouts(rust_cache=25))
    scraped = samples(registry)
    identity = (("backend", "native"), ("cache", "gateway"))
    assert scraped["sark_cache_backend_info", *identity] == 1
    assert scraped["sark_cache_rollout_percent", ("feature", "rust_cache")] == 25
    assert all(
        set(identity) <= set(labels)
        for name, *labels in scraped
        if name != "sark_cache_rollout_percent"
    )


async def test_counters_and_buckets_only_grow(registry):
    cache = RustPolicyCache(max_size=30)
    register(cache, registry)
    chance = random.Random(11)
    growing = ("_total", "_bucket", "_sum", "_count")
    before = samples(registry)
    for _ in range(200):
        await anything_happens(cache, chance)
        after = samples(registry)
        assert after.keys() == before.keys()
        for sample, value in after.items():
            if sample[0].endswith(growing):
                assert value >= before[sample], sample
        before = after


async def test_histograms_agree_with_themselves_and_with_the_metrics(cache, registry):
    register(cache, registry)
    for i in range(1_000):
        await cache.get(*REQUEST)
        cache.record_opa_latency(i / 10)
    scraped, metrics = families(registry), cache.get_metrics()
    for name, mean in (("latency", "avg_cache_latency_ms"), ("evaluation", "avg_opa_latency_ms")):
        histogram = {"bucket": []}
        for sample in scraped[f"sark_cache_{name}_seconds"].samples:
            part = sample.name.rpartition("_")[2]
            if part == "bucket":
                histogram["bucket"].append((float(sample.labels["le"]), sample.value))
            else:
                histogram[part] = sample.value
        buckets = histogram["bucket"]
        assert buckets[-1] == (float("inf"), histogram["count"])
        assert all(
            lower < upper and below <= up_to for (lower, below), (upper, up_to) in pairwise(buckets)
        )
        assert histogram["sum"] / histogram["count"] * 1e3 == pytest.approx(metrics[mean], abs=1e-6)
    assert histogram["count"] == 1_000


async def test_bounds_may_be_chosen(cache, registry):
    register(cache, registry, bounds=(0.001, 1))
    assert [
        sample.labels["le"]
        for sample in families(registry)["sark_cache_evaluation_seconds"].samples
        if sample.name.endswith("_bucket")
    ] == ["0.001", "1.0", "+Inf"]
    with pytest.raises(ValueError, match="bounds must rise"):
        PolicyCacheCollector(cache, bounds=(1, 0.001))


async def test_after_a_reset_counters_start_at_zero(cache, registry):
    register(cache, registry)
    await cache.get(*REQUEST)
    cache.record_opa_latency(5)
    cache.reset_metrics()
    fresh = RustPolicyCache()
    other = CollectorRegistry()
    register(fresh, other)
    assert samples(registry) == samples(other)
    await cache.get(*REQUEST)
    assert numbers(registry)["misses_total"] == 1


async def test_a_disabled_or_closed_cache_is_scraped_like_any_other(cache, registry):
    register(cache, registry)
    await cache.get(*REQUEST)
    assert numbers(registry)["enabled"] == 1
    cache.enabled = False
    await cache.get(*REQUEST)
    assert numbers(registry)["enabled"] == 0
    await cache.close()
    scraped = numbers(registry)
    assert (scraped["misses_total"], scraped["entries"]) == (1, 0)


async def test_a_scrape_adds_nothing_to_the_path_of_a_hit(cache, registry):
    before = dict(vars(cache))
    register(cache, registry, flags=FixedRollouts(rust_cache=25))
    samples(registry)
    assert type(cache) is RustPolicyCache
    assert RustPolicyCache.get is PolicyStore.get
    assert RustPolicyCache.get_or_load is PolicyStore.get_or_load
    assert cache.get.__func__ is PolicyStore.get
    assert vars(cache) == before
    assert not observers


async def test_a_circuit_that_opened_is_exported(registry):
    class Failing(RustPolicyCache):
        backend = "redis"
        circuit_open = False

    cache = Failing()
    register(cache, registry)
    assert numbers(registry)["circuit_open"] == 0
    cache.circuit_open = True
    assert numbers(registry)["circuit_open"] == 1
    assert samples(registry)["sark_cache_backend_info", ("backend", "redis")] == 1


async def test_several_caches_share_families(cache, registry):
    other = RustPolicyCache(max_size=5)
    register(cache, registry, name="a", flags=FixedRollouts(rust_cache=25))
    register(other, registry, name="b", flags=FixedRollouts(rust_cache=25, rust_opa=1))
    register(other, registry, backend="redis")
    await cache.get(*REQUEST)
    text = generate_latest(registry).decode()
    assert text.count("# TYPE sark_cache_misses_total counter") == 1
    list(parse_openmetrics(generate_openmetrics(registry).decode()))
    scraped = samples(registry)
    for labels, misses, size in (
        ((("backend", "native"), ("cache", "a")), 1, 10_000),
        ((("backend", "native"), ("cache", "b")), 0, 5),
        ((("backend", "redis"),), 0, 5),
    ):
        assert scraped["sark_cache_misses_total", *labels] == misses
        assert scraped["sark_cache_max_entries", *labels] == size
    assert scraped["sark_cache_rollout_percent", ("feature", "rust_opa")] == 1


def test_two_caches_with_the_same_labels_are_refused(cache, registry):
    register(cache, registry)
    with pytest.raises(ValueError, match='backend "native" and name=None is exported already'):
        register(RustPolicyCache(), registry)
    register(RustPolicyCache(), registry, namespace="another")
    register(RustPolicyCache(), CollectorRegistry())


def test_an_unregistered_collector_exports_nothing_and_releases_the_cache(registry):
    cache = RustPolicyCache()
    alive = weakref.ref(cache)
    registration = register(cache, registry)
    staying = register(RustPolicyCache(), registry, name="staying")
    for _ in range(2):
        registration.unregister()
    assert all(("cache", "staying") in labels for _, *labels in samples(registry))
    staying.unregister()
    assert generate_latest(registry) == b""
    del cache, registration
    gc.collect()
    assert alive() is None
    register(RustPolicyCache(), registry).unregister()


def test_a_deleted_registry_releases_its_caches():
    cache, registry = RustPolicyCache(), CollectorRegistry()
    alive = weakref.ref(cache)
    register(cache, registry)
    del cache, registry
    gc.collect()
    assert alive() is None


def test_prometheus_own_registry_is_the_default(cache):
    registration = register(cache, namespace="of_this_test")
    try:
        assert "of_this_test_hits_total" in generate_latest(REGISTRY).decode()
    finally:
        registration.unregister()


def test_a_collector_can_be_registered_by_hand(cache, registry):
    registry.register(PolicyCacheCollector(cache, name="mine", flags=FixedRollouts(rust_cache=3)))
    assert samples(registry)["sark_cache_enabled", ("backend", "native"), ("cache", "mine")] == 1
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        register(RustPolicyCache(), registry)
    assert "sark_cache_hits_total" in generate_latest(registry).decode()


def test_a_scrape_may_be_limited_to_some_names(cache, registry):
    register(cache, registry)
    some = registry.restricted_registry(["sark_cache_hits_total", "sark_cache_latency_seconds_sum"])
    assert {sample.name for family in some.collect() for sample in family.samples} == {
        "sark_cache_hits_total",
        "sark_cache_latency_seconds_sum",
    }


def test_without_prometheus_client_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "sark_cache.instrumentation.prometheus")
    with pytest.raises(ImportError, match=r"pip install 'sark-cache\[prometheus\]'"):
        importlib.import_module("sark_cache.instrumentation.prometheus")
