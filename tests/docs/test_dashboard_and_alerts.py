"""The dashboard and the alert rules query only exported metrics and labels."""

import itertools
import json
import re
from pathlib import Path

import promql_parser as promql
import pytest
import yaml
from prometheus_client import CollectorRegistry

from sark_cache import RustPolicyCache
from sark_cache.instrumentation.prometheus import register
from telemetry import FixedRollouts, families

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD = json.loads((DOCS / "grafana/sark-cache.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((DOCS / "alerts/sark-cache.yml").read_text())["groups"]
    for rule in group["rules"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}

OF_THE_SCRAPE = {"job", "instance"}
"""The labels that Prometheus adds to every sample."""


@pytest.fixture(scope="module")
def exported():
    """Returns the metrics of a real scrape of a real cache: each name with its type and labels."""
    registry = CollectorRegistry()
    register(RustPolicyCache(), registry, name="gateway", flags=FixedRollouts(rust_cache=25))
    return {
        sample.name: (family.type, OF_THE_SCRAPE | set(sample.labels))
        for family in families(registry).values()
        for sample in family.samples
    }


def queries():
    """Returns every PromQL expression of both files with its location."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for annotation in DASHBOARD["annotations"]["list"]:
        if "expr" in annotation:
            yield pytest.param(annotation["expr"], id=annotation["name"])
    for name, variable in VARIABLES.items():
        if asked := re.fullmatch(r"label_values\((.+), \w+\)", variable.get("definition", "")):
            yield pytest.param(asked[1], id=f"${name}")
    for rule in RULES:
        yield pytest.param(rule["expr"], id=rule["alert"])


QUERIES = tuple(queries())


def parse(query):
    """Parses an expression with Grafana's variables replaced, as Grafana sends it."""
    return promql.parse(query.replace("$__rate_interval", "5m"))


def nodes(expression, kind):
    """Yields the parts of an expression that are of a kind."""
    found = []
    promql.walk(expression, lambda node: found.append(node) if isinstance(node, kind) else None)
    return found


def grouped_by(expression):
    """Returns the labels that any part of an expression is grouped or matched by."""
    labels = set()
    for aggregation in nodes(expression, promql.AggregateExpr):
        if aggregation.modifier:
            labels |= set(aggregation.modifier.labels)
    for operation in nodes(expression, promql.BinaryExpr):
        if operation.modifier and operation.modifier.matching:
            labels |= set(operation.modifier.matching.labels)
    return labels


def selected(expression):
    return nodes(expression, promql.VectorSelector)


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_uses_only_exported_names_and_labels(query, exported):
    expression = parse(query)
    assert selected(expression), "a query without a metric"
    for selector in selected(expression):
        assert selector.name in exported
        _, labels = exported[selector.name]
        assert {matcher.name for matcher in selector.matchers.matchers} <= labels
    for aggregation in nodes(expression, promql.AggregateExpr):
        for selector in selected(aggregation.expr):
            _, labels = exported[selector.name]
            assert grouped_by(aggregation) <= labels, selector.name


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_takes_rates_of_counters_only(query, exported):
    expression = parse(query)
    rated = set()
    for call in nodes(expression, promql.Call):
        if call.func.name in {"rate", "increase"}:
            [matrix] = call.args
            rated.add(matrix.vector_selector.name)
    for selector in selected(expression):
        kind, _ = exported[selector.name]
        assert (kind in {"counter", "histogram"}) == (selector.name in rated), selector.name


@pytest.mark.parametrize("query", QUERIES)
def test_a_quantile_is_computed_from_buckets_grouped_by_their_bounds(query):
    for call in nodes(parse(query), promql.Call):
        if call.func.name == "histogram_quantile":
            quantile, grouped = call.args
            assert 0 < quantile.val < 1
            assert "le" in grouped.modifier.labels
            assert all(selector.name.endswith("_bucket") for selector in selected(grouped))


def test_the_dashboard_shows_every_exported_metric(exported):
    shown = {selector.name for query in QUERIES for selector in selected(parse(query.values[0]))}
    follow = {"sark_cache_hit_ratio", "sark_cache_effective_hit_ratio", "sark_cache_miss_ratio"}
    follow |= {"sark_cache_latency_percentile_seconds"}  # since the last reset; rates show it
    parts = {f"sark_cache_{name}_seconds" for name in ("latency", "evaluation")}
    follow |= {f"{name}_{part}" for name in parts for part in ("sum", "count")}
    assert exported.keys() - shown == follow


def test_the_dashboard_has_the_form_that_grafana_imports():
    assert DASHBOARD["schemaVersion"] == 39, "that of Grafana 11, which later ones read"
    assert DASHBOARD["uid"]
    assert DASHBOARD["title"]
    assert "id" not in DASHBOARD, "Grafana gives it"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))


def test_no_two_panels_overlap():
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = set(
            itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))
        )
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_queries_the_chosen_source_and_uses_its_own_variables():
    assert VARIABLES["datasource"]["type"] == "datasource"
    for panel in PANELS:
        for asking in (panel, *panel["targets"]):
            assert asking["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(DASHBOARD)))
    assert used - {"__rate_interval", "__all"} == VARIABLES.keys()


def test_legends_name_labels_of_the_result():
    for panel in PANELS:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            expression = parse(target["expr"])
            if nodes(expression, promql.AggregateExpr):
                assert named <= grouped_by(expression), target["legendFormat"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_describes_the_event_and_what_to_do(rule):
    assert re.fullmatch(r"SarkCache[A-Z]\w+", rule["alert"])
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert all(len(text) > 20 for text in rule["annotations"].values())
    named = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
    assert named <= grouped_by(parse(rule["expr"]))
    assert "for" in rule or rule["labels"]["severity"] == "info"
    # Without a comparison it would fire for every series that exists.
    compared = {"<", ">", "<=", ">=", "!=", "=="}
    assert compared & {str(each.op) for each in nodes(parse(rule["expr"]), promql.BinaryExpr)}


def test_alerts_have_unique_names():
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
