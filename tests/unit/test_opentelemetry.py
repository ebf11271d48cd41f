"""OpenTelemetry: the numbers of the metrics, and a span for each evaluation."""

import asyncio
import gc
import importlib
import logging
import subprocess
import sys
import weakref
from itertools import pairwise

import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode
from prometheus_client import CollectorRegistry

from loaders import ALLOW, REQUEST, bringing
from sark_cache import RustPolicyCache
from sark_cache._core.compiled import PolicyStore
from sark_cache._core.observers import observers
from sark_cache.instrumentation import prometheus
from sark_cache.instrumentation.opentelemetry import instrument
from telemetry import FixedRollouts, Telemetry, samples


@pytest.fixture
def telemetry():
    telemetry = Telemetry()
    yield telemetry
    telemetry.close()
    assert not observers


async def test_the_numbers_equal_those_of_prometheus(cache, telemetry):
    registry = CollectorRegistry()
    prometheus.register(
        cache, registry, name="gateway", flags=FixedRollouts(rust_cache=25, rust_opa=0)
    )
    telemetry.instrument(cache, name="gateway", flags=FixedRollouts(rust_cache=25, rust_opa=0))
    for i in range(300):
        await cache.get("alice", "read", str(i % 10))
        await cache.set("alice", "read", str(i % 15), ALLOW)
        cache.record_opa_latency(i / 10)
    await cache.get_or_load("bob", "read", "doc", bringing(ALLOW))
    scraped = samples(registry)
    renamed = {
        "sark_cache_rollout_percent": "sark_cache.rollout",
        "sark_cache_backend_info": "sark_cache.backend",
        "sark_cache_latency_percentile_seconds": "sark_cache.latency_percentile",
    } | {
        f"sark_cache_{name}_seconds_{part}": f"sark_cache.{name}.{part}"
        for name in ("latency", "evaluation")
        for part in ("bucket", "sum", "count")
    }
    numbers = telemetry.numbers()
    for (name, *labels), value in scraped.items():
        dotted = renamed.get(
            name, "sark_cache." + name.removeprefix("sark_cache_").removesuffix("_total")
        )
        assert numbers.pop((dotted, *labels)) == value
    assert not numbers, "that is all"


async def test_every_instrument_has_its_kind_unit_and_description(cache, telemetry):
    telemetry.instrument(cache, flags=FixedRollouts(rust_cache=25, rust_opa=0))
    await cache.get(*REQUEST)
    metrics = telemetry.metrics()
    assert all(metric.description for metric in metrics.values())
    units = {name.removeprefix("sark_cache."): metric.unit for name, metric in metrics.items()}
    assert units["hits"] == units["latency.count"] == units["latency.bucket"] == "{request}"
    assert units["latency.sum"] == units["latency_percentile"] == "s"
    assert (units["entries"], units["hit_ratio"], units["rollout"]) == ("{entry}", "1", "%")
    counters = {
        name for name, metric in metrics.items() if getattr(metric.data, "is_monotonic", False)
    }
    assert counters >= {"sark_cache.hits", "sark_cache.latency.bucket", "sark_cache.evaluation.sum"}
    assert not counters & {"sark_cache.entries", "sark_cache.hit_ratio", "sark_cache.rollout"}


async def test_buckets_sum_and_count_are_consistent(cache, telemetry):
    telemetry.instrument(cache)
    for recorded in range(1, 50):
        cache.record_opa_latency(2)
        await cache.get(*REQUEST)
        numbers = telemetry.numbers()
        native = ("backend", "native")
        assert numbers["sark_cache.evaluation.count", native] == recorded
        assert numbers["sark_cache.evaluation.sum", native] == pytest.approx(recorded * 0.002)
        assert numbers["sark_cache.misses", native] == recorded
        buckets = sorted(
            (float(dict(attributes)["le"]), count)
            for (name, *attributes), count in numbers.items()
            if name == "sark_cache.evaluation.bucket"
        )
        assert buckets[-1] == (float("inf"), recorded)
        assert all(below <= up_to for (_, below), (_, up_to) in pairwise(buckets))
        assert [count for bound, count in buckets if bound < 0.002] == [0] * 13


async def test_a_collection_reads_a_cache_once(telemetry):
    class Counting(RustPolicyCache):
        readings = 0

        def get_metrics(self):
            self.readings += 1
            return super().get_metrics()

    cache = Counting()
    telemetry.instrument(cache)
    for collections in (1, 2, 3):
        telemetry.metrics()
        assert cache.readings == collections


async def test_several_caches_share_the_instruments(cache, telemetry, caplog):
    other = RustPolicyCache(max_size=5)
    telemetry.instrument(cache, name="a")
    telemetry.instrument(other, name="b")
    telemetry.instrument(other, backend="redis")
    await cache.get(*REQUEST)
    numbers = telemetry.numbers()
    for labels, misses, size in (
        ((("backend", "native"), ("cache", "a")), 1, 10_000),
        ((("backend", "native"), ("cache", "b")), 0, 5),
        ((("backend", "redis"),), 0, 5),
    ):
        assert numbers["sark_cache.misses", *labels] == misses
        assert numbers["sark_cache.max_entries", *labels] == size
    assert not caplog.records
    with pytest.raises(ValueError, match="name='a' is exported already: pass a different"):
        telemetry.instrument(RustPolicyCache(), name="a")


async def test_an_uninstrumented_cache_is_neither_exported_nor_traced(telemetry):
    cache = RustPolicyCache()
    alive = weakref.ref(cache)
    instrumentation = telemetry.instrument(cache)
    telemetry.metrics()
    for _ in range(2):
        instrumentation.uninstrument()
    await cache.get_or_load(*REQUEST, bringing(ALLOW))
    assert telemetry.numbers() == {}
    assert telemetry.spans() == ()
    telemetry.forget_caches()
    del cache, instrumentation
    gc.collect()
    assert alive() is None
    again = RustPolicyCache()
    telemetry.instrument(again)
    await again.get_or_load(*REQUEST, bringing(ALLOW))
    assert telemetry.numbers()["sark_cache.loads", ("backend", "native")] == 1
    assert len(telemetry.spans()) == 1


async def test_nothing_is_added_to_the_path_of_a_hit(cache, telemetry):
    before = dict(vars(cache))
    telemetry.instrument(cache)
    telemetry.metrics()
    assert type(cache) is RustPolicyCache
    assert RustPolicyCache.get is PolicyStore.get
    assert RustPolicyCache.get_or_load is PolicyStore.get_or_load
    assert vars(cache) == before


async def test_an_evaluation_has_a_span_and_a_hit_has_none(cache, telemetry):
    telemetry.instrument(cache, name="gateway")
    tracer = telemetry.tracer_provider.get_tracer("test")
    within = []

    async def load():
        within.append(trace.get_current_span())
        return ALLOW

    with tracer.start_as_current_span("request") as request:
        await cache.get_or_load(*REQUEST, load)
        assert trace.get_current_span() is request
        await cache.get_or_load(*REQUEST, load)
        await cache.get(*REQUEST)
    evaluation, _ = telemetry.spans()
    assert evaluation.name == "sark_cache.evaluate"
    assert evaluation.parent.span_id == request.get_span_context().span_id
    assert [span.get_span_context() for span in within] == [evaluation.get_span_context()]
    assert dict(evaluation.attributes) == {
        "sark_cache.backend": "native",
        "sark_cache.cache": "gateway",
        "sark_cache.outcome": "loaded",
        "sark_cache.coalesced": 0,
    }
    assert evaluation.status.status_code is StatusCode.UNSET
    assert evaluation.instrumentation_scope.name == "sark_cache"


async def test_the_parent_is_the_span_of_the_leader(cache, telemetry):
    telemetry.instrument(cache)
    tracer = telemetry.tracer_provider.get_tracer("test")
    may_end = asyncio.Event()

    async def slow():
        await may_end.wait()
        return ALLOW

    async def request(number):
        with tracer.start_as_current_span(f"request {number}"):
            return await cache.get_or_load(*REQUEST, slow)

    requests = [asyncio.create_task(request(number)) for number in range(5)]
    await asyncio.sleep(0)
    may_end.set()
    await asyncio.gather(*requests)
    spans = {span.name: span for span in telemetry.spans()}
    assert len(spans) == 6, "one evaluation for five requests"
    evaluation = spans["sark_cache.evaluate"]
    assert evaluation.parent.span_id == spans["request 0"].context.span_id
    assert evaluation.attributes["sark_cache.coalesced"] == 4


async def test_an_exception_of_a_loader_is_recorded_by_its_type_only(cache, telemetry):
    telemetry.instrument(cache)

    class EngineError(Exception):
        pass

    async def fails():
        message = "alice may not read doc"
        raise EngineError(message)

    with pytest.raises(EngineError):
        await cache.get_or_load(*REQUEST, fails)
    with pytest.raises(TypeError):
        await cache.get_or_load(*REQUEST, bringing("no decision"))
    failed, no_decision = telemetry.spans()
    assert failed.status.status_code is no_decision.status.status_code is StatusCode.ERROR
    assert failed.attributes["error.type"].endswith("EngineError")
    assert no_decision.attributes["error.type"] == "TypeError"
    assert failed.attributes["sark_cache.outcome"] == "error"
    for span in telemetry.spans():
        assert not span.events
        assert "alice" not in span.to_json()
        assert span.status.description is None


async def test_a_cancelled_evaluation_is_not_an_error(cache, telemetry):
    telemetry.instrument(cache)
    begun = asyncio.Event()

    async def hangs():
        begun.set()
        await asyncio.Event().wait()

    request = asyncio.create_task(cache.get_or_load(*REQUEST, hangs))
    await begun.wait()
    request.cancel()
    await asyncio.wait([request])
    [span] = telemetry.spans()
    assert span.attributes["sark_cache.outcome"] == "cancelled"
    assert span.status.status_code is StatusCode.UNSET


def test_an_evaluation_that_is_abandoned_ends_its_span_and_logs_nothing(cache, telemetry, caplog):
    caplog.set_level(logging.DEBUG)
    telemetry.instrument(cache)

    async def hangs():
        await asyncio.get_running_loop().create_future()

    async def abandon():
        request = cache.get_or_load(*REQUEST, hangs)
        await asyncio.create_task(begin(request))
        return request

    async def begin(request):
        request.send(None)

    request = asyncio.run(abandon())
    request.close()  # in another context than the one in which it was started
    [span] = telemetry.spans()
    assert span.attributes["sark_cache.outcome"] == "cancelled"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_refresh_has_its_own_span(telemetry):
    class Brief(RustPolicyCache):
        STALE_THRESHOLD_RATIO = 1.0  # every hit is due for a refresh

    cache, refreshed = Brief(), asyncio.Event()
    tracer = telemetry.tracer_provider.get_tracer("test")

    async def refresh(*_):
        refreshed.set()
        return ALLOW

    cache.set_revalidate_callback(refresh)
    await cache.set(*REQUEST, ALLOW, sensitivity="critical")
    telemetry.instrument(cache)
    with tracer.start_as_current_span("request"):
        await cache.get(*REQUEST, None, "critical")
        await refreshed.wait()
        await asyncio.sleep(0)
    spans = {span.name: span for span in telemetry.spans()}
    assert set(spans) == {"request", "sark_cache.refresh"}
    assert spans["sark_cache.refresh"].parent.span_id == spans["request"].context.span_id


async def test_no_span_contains_the_request(cache, telemetry):
    telemetry.instrument(cache)
    asked = ("user-xyz", "action-xyz", "resource-xyz", bringing({"reason": "reason-xyz"}))
    await cache.get_or_load(*asked, {"context": "context-xyz"}, tags=["tag-xyz"])
    [span] = telemetry.spans()
    assert "xyz" not in span.to_json()


def run(script):
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )


def test_the_global_providers_are_the_default_even_if_set_later():
    script = """
import asyncio
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sark_cache import RustPolicyCache
from sark_cache.instrumentation.opentelemetry import instrument

early, late, explicit = (RustPolicyCache() for _ in range(3))

async def evaluate():
    return {"allow": True}

async def load():
    for cache in (early, late, explicit):
        await cache.get_or_load("alice", "read", "doc", evaluate)

instrument(early, name="early")
asyncio.run(load())  # nobody listens yet
reader, exporter, tracers = InMemoryMetricReader(), InMemorySpanExporter(), TracerProvider()
tracers.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(tracers)
meters = MeterProvider(metric_readers=[reader])
metrics.set_meter_provider(meters)
instrument(late, name="late")
instrument(explicit, name="explicit", meter_provider=meters, tracer_provider=tracers)
for cache in (early, late, explicit):
    cache.clear()
asyncio.run(load())
[scope] = reader.get_metrics_data().resource_metrics[0].scope_metrics
[loads] = [metric for metric in scope.metrics if metric.name == "sark_cache.loads"]
print(sorted((point.attributes["cache"], point.value) for point in loads.data.data_points))
print([span.attributes["sark_cache.cache"] for span in exporter.get_finished_spans()])
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        "[('early', 2), ('explicit', 2), ('late', 2)]",
        "['early', 'late', 'explicit']",
    ]


async def test_without_a_provider_nothing_happens(cache, caplog):
    instrumentations = instrument(cache), instrument(RustPolicyCache(), name="another")
    assert await cache.get_or_load(*REQUEST, bringing(ALLOW)) == ALLOW
    assert not trace.get_current_span().get_span_context().is_valid
    for instrumentation in instrumentations:
        instrumentation.uninstrument()
    assert not observers
    assert not caplog.records


def test_without_opentelemetry_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "sark_cache.instrumentation.opentelemetry")
    with pytest.raises(ImportError, match=r"pip install 'sark-cache\[otel\]'"):
        importlib.import_module("sark_cache.instrumentation.opentelemetry")
