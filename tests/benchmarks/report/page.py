"""The page: every chart and every number of the report, in one file that needs no other."""

import hashlib
import json
import re
from html import escape

from report import saved
from report.figures import number

PAGE = saved.REPORT.with_suffix(".html")

GROUPS = {
    "hit": "A hit",
    "decision": "A hit, by the size of the decision",
    "miss": "A miss",
    "set": "A set",
    "batch": "A batch",
    "load": "A load",
    "redis": "Beside Redis and threads",
    "threads": "Many threads",
    "scale": "Many entries",
    "memory": "Memory and garbage collection",
    "hit-ratio": "Hit ratio, by policy",
    "http": "Over HTTP",
    "invalidation": "Invalidation",
}
"""In this order; others come after them."""

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h2 { border-top: 1px solid; margin-top: 3rem; padding-top: 1rem; }
nav a { margin-right: 1em; }
svg { height: auto; max-width: 100%; }
div { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #8884; padding: 0.2rem 0.8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
small { opacity: 0.7; }
"""


def digest(report: dict) -> str:
    text = json.dumps(report, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_of(report: dict) -> bool:
    """Whether the page that is saved was made from this report."""
    return PAGE.exists() and digest(report) in PAGE.read_text(encoding="utf-8")


def html(report: dict, charts: list) -> str:
    """The whole page; `charts` are those of `charts.draw`."""
    there = dict.fromkeys(benchmark["group"] for benchmark in report["benchmarks"].values())
    groups = [*(group for group in GROUPS if group in there), *sorted(there.keys() - GROUPS)]
    links = " ".join(f'<a href="#{group}">{GROUPS.get(group, group)}</a>' for group in groups)
    sections = "".join(
        f'<h2 id="{group}">{GROUPS.get(group, group)}</h2>\n'
        + "".join(
            section(name, benchmark, charts)
            for name, benchmark in report["benchmarks"].items()
            if benchmark["group"] == group
        )
        for group in groups
    )
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="report" content="{digest(report)}">
<title>sark-cache: benchmarks</title>
<style>{STYLE}</style>
<h1>sark-cache: benchmarks</h1>
<p>{escape(saved.circumstances(report))}</p>
<p>Subjects of one benchmark take turns in one process. A ratio is the median of the ratios to the
first subject in the same turn. A sample is the mean of the calls that one turn makes; boxes hold
the middle half of the samples, whiskers reach from 5 % to 95 %.</p>
<nav>{links}</nav>
{sections}
<h2>Versions</h2>
{runs(report)}
</html>
"""


def section(name: str, benchmark: dict, charts: list) -> str:
    how = {"rounds": "rounds", "per_call": "calls a turn"}
    turns = "".join(f"{benchmark[key]:,} {what}; " for key, what in how.items() if key in benchmark)
    drawn = "".join(f"<div>{chart.svg}</div>\n" for chart in charts if chart.benchmark == name)
    _, _, parameters = name.removesuffix("]").partition("[")
    title = f"{benchmark['title'].removesuffix('.')}{parameters and ': '}{parameters}"
    heading = re.sub(r"`(.+?)`", r"<code>\1</code>", escape(title))
    return f"""<h3>{heading}</h3>
{drawn}<details><summary>Numbers</summary><div>{table(benchmark["subjects"])}</div></details>
<p><small>{turns}{escape(name)}, {benchmark["run"]}</small></p>
"""


def table(subjects: dict[str, dict[str, float]]) -> str:
    metrics = dict.fromkeys(metric for numbers in subjects.values() for metric in numbers)
    head = "".join(f"<th>{escape(metric)}</th>" for metric in metrics)
    rows = "".join(
        f"<tr><td>{escape(subject)}</td>{cells(numbers, metrics)}</tr>\n"
        for subject, numbers in subjects.items()
    )
    return f"<table>\n<tr><th></th>{head}</tr>\n{rows}</table>"


def cells(numbers: dict[str, float], metrics: dict[str, None]) -> str:
    shown = (number(numbers[metric]) if metric in numbers else "" for metric in metrics)
    return "".join(f"<td>{text}</td>" for text in shown)


def runs(report: dict) -> str:
    return "".join(
        f"<p>{began}: {escape(run['python'])}, {escape(run['server'])}, "
        + escape(", ".join(f"{name} {version}" for name, version in run["packages"].items()))
        + "</p>\n"
        for began, run in report["runs"].items()
    )
