"""Tables of the pages that are made from the code, so that they cannot be out of date.

A table stands between `<!-- table: NAME -->` and `<!-- /table -->`: `settings` has all settings,
`metrics` all exported metrics, from a real scrape and a real collection of a cache. `consistency`
and `fleet` have the saved figures of the history checker and of the fleet. The build of the site
makes them again, and a test compares them with the files. To write them into the files:

    python docs/hooks/tables.py
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.export import Metric as Exported
from prometheus_client import CollectorRegistry, Metric

from sark_cache import CacheSettings, FeatureFlagManager, TieredPolicyCache
from sark_cache.backends.tiered.thread import CONFIRMATION_SHARE
from sark_cache.instrumentation.opentelemetry import instrument
from sark_cache.instrumentation.prometheus import register
from sark_cache.settings import Takes, variables_of

UNUSED = "redis://localhost"
"""The URL of a cache that is never used. It connects to nothing, and has every metric."""
TABLE = re.compile(r"^(<!-- table: (\w+) -->)\n.*?^(<!-- /table -->)$", re.MULTILINE | re.DOTALL)
PAGES = Path(__file__).parents[1]
SPANS: Final = ("0.25", "1", "5")
"""The values of `max_staleness` with which the history checker ran, in seconds."""


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


def consistency() -> Iterator[str]:
    """Yields a row for each fault: the answers, and the worst of each span."""
    found = {span: saved(f"consistency-{span}.json") for span in SPANS}
    spans = " / ".join(f"{span} s" for span in SPANS)
    yield (
        f"| Fault | Answers | Revocations | Longest staleness at {spans} | "
        f"Settled, p50 at {spans} | p99 at {spans} | Flushes | Hit ratio back | Violations |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for fault in found[SPANS[0]]:
        runs = [found[span][fault] for span in SPANS]

        def of_each(name: str, runs: list[Any] = runs) -> str:
            return " / ".join(milliseconds(run[name]) for run in runs)

        yield row(
            f"`{fault}`",
            f"{sum(run['answers'] for run in runs):,}",
            f"{sum(run['revocations'] for run in runs):,}",
            of_each("worst_staleness"),
            of_each("settle_p50"),
            of_each("settle_p99"),
            f"{sum(run['flushes'] for run in runs)}",
            f"{max(run['slowest_recovery'] or 0.0 for run in runs):.1f} s",
            f"{sum(run['violations'] for run in runs)}",
        )


def fleet() -> Iterator[str]:
    """Yields a row for each measurement of a fleet."""
    found = saved("fleet.json")
    yield "| Measurement | |"
    yield "|---|---|"
    hit = found["hit"]
    yield row(
        "a hit of `get_decision` of a `TieredPolicyCache`, and of a `RustPolicyCache`",
        f"{hit['tiered_ns']:.0f} ns, {hit['native_ns']:.0f} ns: {hit['difference_ns']:.0f} ns more",
    )
    counted = found["counted_hits"]
    yield row(
        "the same, counted by valgrind",
        f"{counted['tiered_instructions']:,.0f} and {counted['native_instructions']:,.0f} "
        f"instructions; {counted['tiered_allocations']:.0f} and "
        f"{counted['native_allocations']:.0f} allocations",
    )
    for name, figures in found["revocations"].items():
        if "ms" in figures:
            yield row(name, f"{figures['ms'] / 1e3:.3f} s")
        else:
            yield row(name, f"settled: {of_records(figures)}")
    bare = found["bare_sockets"]
    yield row(
        f"{bare['processes']} processes with nothing but a socket, 10 records a second",
        f"acknowledged: {of_records(bare)}",
    )
    for replay in found["replay"]:
        how = "as one flush" if replay["flushes"] else "one by one"
        yield row(
            f"{replay['records']:,} records that a stopped process did not see, applied {how}",
            f"after {replay['seconds'] * 1e3:.0f} ms; event loop blocked for at most "
            f"{replay['event_loop_blocked_ms']:.0f} ms; "
            f"{replay['memory_grown_mib']:.1f} MiB more memory",
        )
    idle = found["idle_readers"]
    confirmations = idle["readers"] / (CONFIRMATION_SHARE * idle["max_staleness"])
    each = 1e4 * idle["percent_of_a_core"] / confirmations
    yield row(
        f"{idle['readers']} idle readers, `max_staleness` {idle['max_staleness']:g} s",
        f"{idle['percent_of_a_core']:.1f} % of a core of the server: {confirmations:.0f} "
        f"confirmations a second, {each:.0f} µs for each",
    )


def of_records(figures: Any) -> str:  # noqa: ANN401 - as JSON is
    """Returns how long records took, and what each cost if there were many."""
    took = f"p50 {figures['p50_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms"
    if "cpu_ms_of_a_process" not in figures:
        return took
    return (
        f"{took}; {figures['cpu_ms_of_a_process']:.2f} ms of a core for each process, and "
        f"{figures['cpu_ms_of_the_server_for_a_process']:.2f} ms of the server"
    )


def saved(name: str) -> Any:  # noqa: ANN401 - as JSON is
    """Returns saved figures."""
    return json.loads((PAGES / "benchmarks" / name).read_text(encoding="utf-8"))


def milliseconds(seconds: float | None) -> str:
    """Returns a duration as text, in ms."""
    return "none" if seconds is None else f"{seconds * 1e3:.0f} ms"


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


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "settings": settings,
    "metrics": metrics,
    "consistency": consistency,
    "fleet": fleet,
}


if __name__ == "__main__":
    write()
