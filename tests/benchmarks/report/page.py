"""The benchmark page of the site: every chart and every number of the report.

docs/hooks/benchmarks.py puts it into docs/benchmarks/index.md when the site is built.
"""

import re
from collections.abc import Iterator, Mapping
from html import escape

from report import contents
from report.contents import PAGE, Part, members_of
from report.figures import number
from report.subjects import ordered, style_of

METRICS = {
    "median_us": "median, µs",
    "p5_us": "5 %",
    "p25_us": "25 %",
    "p75_us": "75 %",
    "p95_us": "95 %",
    "p99_us": "99 %",
    "p95_ratio": "95 %, ratio",
    "p99_ratio": "99 %, ratio",
    "worst_us": "longest, µs",
    "median_ms": "median, ms",
    "worst_ms": "longest, ms",
    "p50_ms": "median, ms",
    "p95_ms": "95 %, ms",
    "growth": "ratio, beside that of 10,000 entries",
    "bytes_per_entry": "bytes per entry",
    "gc_ms": "gc.collect(), ms",
    "gc_ratio": "gc.collect(), ratio",
    "hit_ratio": "hits / look-ups",
    "first_mb": "first, MB",
    "last_mb": "last, MB",
    "last_percent": "growth, %",
    "max_percent": "largest growth, %",
    "operations_per_second": "operations per second",
    "requests_per_second": "requests per second",
}
"""The heads of columns; a metric that is not here is its own."""

PLACE = "benchmark-chart-{}"
"""Stands in the Markdown for a piece of HTML, which Markdown would take apart."""


def page(report: Mapping[str, dict]) -> tuple[str, dict[str, str]]:
    """Returns the sections as Markdown, and the HTML that its places are for.

    Raises:
        ValueError: A benchmark of the report has no place on the page.
    """
    if missing := contents.without_place(report):
        message = f"give these a place in {contents.__file__}: {', '.join(missing)}"
        raise ValueError(message)
    pieces: dict[str, str] = {}
    text: list[str] = []
    for heading, parts in PAGE.items():
        shown = [
            f"### {part.title}\n\n{part.words}\n\n{charts}"
            for part in parts
            if (charts := "\n\n".join(tabs(part, report["benchmarks"], pieces)))
        ]
        if shown:
            text.extend([f"## {heading}", *shown])
    return "\n\n".join(text) + "\n", pieces


def tabs(part: Part, benchmarks: Mapping[str, dict], pieces: dict[str, str]) -> Iterator[str]:
    """Yields the charts of a part, each in a tab if there are several."""
    for tab, title in (part.tabs or {"": ""}).items():
        members = members_of(part, tab, benchmarks)
        if not members:
            continue
        place = PLACE.format(len(pieces))
        pieces[place] = piece(part, title, members, benchmarks)
        yield f'=== "{title}"\n\n    {place}' if title else place


def piece(
    part: Part, title: str, members: Mapping[str, dict], benchmarks: Mapping[str, dict]
) -> str:
    """Returns the charts of a tab, its numbers, and how they were measured."""
    about = f"{part.title}{title and ': '}{title}. The numbers stand below the chart."
    drawn = "".join(part.draw(members, about))
    together = contents.subjects_of(members)
    if len(together) == sum(len(benchmark["subjects"]) for benchmark in members.values()):
        tables = table(together)
    else:
        tables = "".join(
            f"<p>{escape(key)} {part.within}</p>{table(benchmark['subjects'])}"
            for key, benchmark in members.items()
        )
    names = [name for name, one in benchmarks.items() if any(one is it for it in members.values())]
    return (
        f'<div class="benchmark" data-search-exclude>{drawn}'
        f"<p>{notes(part, members, names)}</p>"
        f"<details><summary>Numbers</summary>{tables}</details></div>"
    )


def notes(part: Part, members: Mapping[str, dict], names: list[str]) -> str:
    """Returns a line about ratios, rounds and the run."""
    first = next(iter(members.values()))
    said = []
    metrics = {metric for numbers in first["subjects"].values() for metric in numbers}
    if "ratio" in metrics:
        to = part.ratio or f"“{next(iter(first['subjects']))}”"
        said.append(f"Ratios are to {escape(to)}.")
    if "rounds" in first:
        calls = f" of {first['per_call']:,} calls" if "per_call" in first else ""
        said.append(f"{first['rounds']:,} rounds{calls}.")
    functions = sorted({re.sub(r"\[.*", "", name) for name in names})
    days = sorted({one["run"].split()[0] for one in members.values()})
    said.append(f"<code>{escape(', '.join(functions))}</code>, {' and '.join(days)}.")
    return " ".join(said)


def table(subjects: Mapping[str, Mapping[str, float]]) -> str:
    """Returns all numbers of some subjects, as HTML."""
    metrics = dict.fromkeys(metric for numbers in subjects.values() for metric in numbers)
    head = "".join(f"<th>{escape(METRICS.get(metric, metric))}</th>" for metric in metrics)
    body = "".join(
        f'<tr class="{style_of(subject)}"><td>{escape(subject)}</td>{cells(numbers, metrics)}</tr>'
        for subject, numbers in ordered(dict(subjects)).items()
    )
    return (
        '<table class="numbers">'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def cells(numbers: Mapping[str, float], metrics: dict[str, None]) -> str:
    """Returns the cells of a row; one that was not measured is empty."""
    shown = (number(numbers[metric]) if metric in numbers else "" for metric in metrics)
    return "".join(f"<td>{text}</td>" for text in shown)


def versions(report: Mapping[str, dict]) -> str:
    """Returns a table of the runs that the report holds results of, as Markdown."""
    lines = ["| Run | Python | Server | Packages |", "|---|---|---|---|"]
    for began, run in report["runs"].items():
        packages = ", ".join(f"{name} {version}" for name, version in run["packages"].items())
        lines.append(f"| {began} | {run['python']} | {run['server']} | {packages} |")
    return "\n".join(lines) + "\n"
