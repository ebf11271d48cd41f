"""Prometheus and OpenTelemetry metrics and spans, kept in memory for tests."""

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sark_cache.instrumentation.opentelemetry import instrument


def families(registry):
    """Returns the families of a real scrape by name."""
    text = generate_latest(registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(registry):
    """Returns the numbers of a scrape by name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families(registry).values()
        for sample in family.samples
    }


class FixedRollouts:
    """A source of rollout percentages."""

    def __init__(self, **percentages):
        self.percentages = percentages

    def get_all_rollouts(self):
        return self.percentages


class Telemetry:
    """Real providers of OpenTelemetry, whose metrics and spans stay in memory."""

    def __init__(self):
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider(metric_readers=[self.reader])
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self._ends = []

    def instrument(self, cache, **options):
        """Instruments a cache until the test ends."""
        instrumentation = instrument(
            cache,
            meter_provider=self.meter_provider,
            tracer_provider=self.tracer_provider,
            **options,
        )
        self._ends.append(instrumentation.uninstrument)
        return instrumentation

    def metrics(self):
        """Returns the metrics by name."""
        collected = self.reader.get_metrics_data()
        if collected is None:
            return {}
        [resource] = collected.resource_metrics
        [scope] = resource.scope_metrics
        assert scope.scope.name == "sark_cache"
        return {metric.name: metric for metric in scope.metrics}

    def numbers(self):
        """Returns the numbers by name and attributes."""
        return {
            (name, *sorted(point.attributes.items())): point.value
            for name, metric in self.metrics().items()
            for point in metric.data.data_points
        }

    def spans(self):
        """Returns the spans that have ended, in that order."""
        return self.exporter.get_finished_spans()

    def forget_caches(self):
        """Uninstruments the caches."""
        while self._ends:
            self._ends.pop()()

    def close(self):
        self.forget_caches()
        self.meter_provider.shutdown()
        self.tracer_provider.shutdown()
