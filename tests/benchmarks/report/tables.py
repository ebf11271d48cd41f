"""The tables on the pages, and a check that every other figure there is one of the report's.

A table stands between `<!-- figures: NAME -->` and `<!-- /figures -->`. The name `machine` stands
for a line of text: the machine and the versions of the measurements.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from report import saved
from report.figures import ALLOWED, IN_WORDS, TABLES, Figure, Results

PAGES: dict[Path, tuple[str, ...]] = {
    saved.ROOT / "README.md": ("cost", "machine"),
    saved.ROOT / "docs" / "index.md": (),
    saved.ROOT / "docs" / "performance.md": (
        *("operations", "machine", "others", "slower", "scale", "memory", "gateway"),
    ),
}
"""The pages whose figures are the report's, each with its tables in order."""

BLOCK = re.compile(r"<!-- figures: (\w+) -->\n(.*?)<!-- /figures -->\n", re.DOTALL)

QUANTITY = re.compile(
    r"\d[\d.,]*(?:–\d[\d.,]*)?\s?(?:ns|µs|ms|s|seconds?|×|%|bytes|[KMG]i?B|requests/s)(?!\w)"
    r"|(?:\w+ )?a (?:nano|micro|milli)second\b"
)
"""A number with a unit, also in words."""


def made(name: str, report: dict) -> str:
    """Returns the text between the markers of this name."""
    if name == "machine":
        return f"Measured with {saved.circumstances(report)}.\n"
    head, rows = TABLES[name]
    lines = [f"| {label} | {cells} |" for label, figure in rows if (cells := shown(figure, report))]
    if not lines:
        return ""
    return "\n".join([f"| {head} |", "|---" * (head.count("|") + 1) + "|", *lines, ""])


def shown(figure: Figure, report: dict) -> str | None:
    """Returns the cells of a figure; None if it was not measured."""
    try:
        return figure(Results(report))
    except KeyError:
        return None


def with_tables(text: str, report: dict) -> str:
    """Returns a page with the tables of this report."""
    return BLOCK.sub(
        lambda block: (
            block[0].replace(block[2], "").replace("-->\n", f"-->\n{made(block[1], report)}", 1)
        ),
        text,
    )


def complaints(text: str, expected: tuple[str, ...], report: dict) -> Iterator[str]:
    """Yields each difference between a page and the report."""
    blocks = BLOCK.findall(text)
    if (names := tuple(name for name, _ in blocks)) != expected:
        yield f"it needs the tables {expected}, and has {names}"
    for name, between in blocks:
        if name in expected and between != made(name, report):
            differing = set(between.splitlines()) ^ set(made(name, report).splitlines())
            yield "\n  ".join(
                [f"the table {name!r} is not that of the report:", *sorted(differing)]
            )
    in_words = {words for words, holds in IN_WORDS.items() if shown(holds, report)}
    in_tables = {it for name in TABLES for it in QUANTITY.findall(made(name, report))}
    for quantity in QUANTITY.findall(BLOCK.sub("", text)):
        if quantity not in {*in_tables, *ALLOWED, *in_words}:
            yield f"{quantity!r} is not in the report"
