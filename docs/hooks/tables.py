"""Tables of the pages that are made from the code, so that they cannot be out of date.

A table stands between `<!-- table: NAME -->` and `<!-- /table -->`: `settings` has all settings,
`metrics` all exported metrics, from a real scrape and a real collection of a cache. The build of
the site makes them again, and a test compares them with the files. To write them into the files:

    python docs/hooks/tables.py
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.export import Metric as Exported
from prometheus_client import CollectorRegistry, Metric

from sark_cache import CacheSettings, FeatureFlagManager, TieredPolicyCache
from sark_cache.instrumentation.opentelemetry import instrument
from sark_cache.instrumentation.prometheus import register
from sark_cache.settings import Takes, variables_of

UNUSED = "redis://localhost"
"""The URL of a cache that is never used. It connects to nothing, and has every metric."""
TABLE = re.compile(r"^(<!-- table: (\w+) -->)\n.*?^(<!-- /table -->)$", re.MULTILINE | re.DOTALL)
PAGES = Path(__file__).parents[1]


def on_page_markdown(markdown: str, **_context: object) -> str:
    """Returns the page with new tables."""

    def table(match: re.Match[str]) -> str:
        return "\n".join([match[1], "", *TABLES[match[2]](), "", match[3]])

    return TABLE.sub(table, markdown)


def write() -> None:
    """Writes the tables into the files of the pages."""
    for path in PAGES.rglob("*.md"):
        page = path.read_text(encoding="utf-8")
        made = on_page_markdown(page)
        if made != page:
            path.write_text(made, encoding="utf-8")


def settings() -> Iterator[str]:
    """Yields a row for each setting: its variable, default, values and meaning."""
    yield "| Variable | Default | Takes | Meaning |"
    yield "|---|---|---|---|"
    for name, field in CacheSettings.model_fields.items():
        takes = next(each for each in field.metadata if isinstance(each, Takes))
        variables = " or ".join(f"`{variable}`" for variable in variables_of(name))
        names = {None: "none", "": "empty"}
        default = names.get(field.default, f"`{str(field.default).lower()}`")
        yield row(variables, default, briefly(takes.words), field.description)


def metrics() -> Iterator[str]:
    """Yields a row for each metric: its name in Prometheus and in OpenTelemetry, and its meaning.

    Raises:
        ValueError: OpenTelemetry exports a metric that Prometheus does not.
    """
    yield "| Prometheus | Kind | OpenTelemetry | Meaning |"
    yield "|---|---|---|---|"
    telemetry: dict[str, list[str]] = {}
    for metric in collected():
        telemetry.setdefault(stem_of_telemetry(metric.name), []).append(metric.name)
    for family in scraped():
        names = telemetry.pop(stem_of_prometheus(family))
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        yield row(
            f"`{family.name}{suffix}`",
            family.type,
            ", ".join(f"`{name}`" for name in names),
            family.documentation,
        )
    if telemetry:
        message = f"OpenTelemetry exports what Prometheus does not: {', '.join(telemetry)}"
        raise ValueError(message)


def scraped() -> list[Metric]:
    """Returns the metrics of a Prometheus scrape of a cache."""
    registry = CollectorRegistry()
    register(TieredPolicyCache(UNUSED), registry, flags=FeatureFlagManager())
    return list(registry.collect())


def collected() -> list[Exported]:
    """Returns the metrics of an OpenTelemetry collection of a cache.

    Raises:
        ValueError: OpenTelemetry collected nothing.
    """
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    instrumentation = instrument(
        TieredPolicyCache(UNUSED), meter_provider=provider, flags=FeatureFlagManager()
    )
    found = reader.get_metrics_data()
    instrumentation.uninstrument()
    provider.shutdown()
    if found is None:
        message = "OpenTelemetry collected nothing"
        raise ValueError(message)
    scopes = [scope for resource in found.resource_metrics for scope in resource.scope_metrics]
    return [metric for scope in scopes for metric in scope.metrics]


def stem_of_prometheus(family: Metric) -> str:
    """Returns the name without the package and the unit, which Prometheus requires."""
    stem = family.name.removeprefix("sark_cache_")
    return stem.removesuffix(f"_{family.unit}") if family.unit else stem


def stem_of_telemetry(name: str) -> str:
    """Returns the name without the package, and without the part of a histogram."""
    return name.removeprefix("sark_cache.").partition(".")[0]


def briefly(words: str) -> str:
    """Returns the description of a setting's values, without examples, which the page has."""
    return "[a URL](servers.md#addresses)" if words.startswith("a URL") else words


def row(*cells: str | None) -> str:
    """Returns a row of a table."""
    return f"| {' | '.join((cell or '').replace('|', '&#124;') for cell in cells)} |"


TABLES: dict[str, Callable[[], Iterator[str]]] = {"settings": settings, "metrics": metrics}


if __name__ == "__main__":
    write()
