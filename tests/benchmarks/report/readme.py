"""The README's tables, and whether every other figure in the README is one of the report's."""

import re
from collections.abc import Iterator

from report.figures import (
    ALLOWED,
    IN_WORDS,
    OF_MORE,
    OF_OTHERS,
    OF_OUR_CACHE,
    OTHERS_HEAD,
    Figure,
    Results,
    Rows,
)
from report.saved import circumstances

BEGIN, END = "<!-- benchmarks -->\n", "<!-- /benchmarks -->"

QUANTITY = re.compile(
    r"\d[\d.,]*(?:–\d[\d.,]*)?\s?(?:ns|µs|ms|s|seconds?|×|%|bytes|[KMG]i?B|requests/s)(?!\w)"
    r"|(?:\w+ )?a (?:nano|micro|milli)second\b"
)
"""A number with a unit, also in words."""


def tables(report: dict) -> str:
    """What stands between the markers."""
    return "\n".join(
        [
            *table(f"{circumstances(report)} | median | ratio", OF_OUR_CACHE, report),
            *table(OTHERS_HEAD, OF_OTHERS, report),
            *table(" | ", OF_MORE, report),
        ]
    )


def table(head: str, rows: Rows, report: dict) -> Iterator[str]:
    """Its lines and an empty one; none, if nothing that is to stand in it was measured."""
    lines = [f"| {label} | {cells} |" for label, figure in rows if (cells := shown(figure, report))]
    if lines:
        yield f"| {head} |"
        yield "|---" * (head.count("|") + 1) + "|"
        yield from lines
        yield ""


def shown(figure: Figure, report: dict) -> str | None:
    try:
        return figure(Results(report))
    except KeyError:  # not measured (yet)
        return None


def parts(readme: str) -> tuple[str, str, str]:
    """What stands before, between and after the markers."""
    before, begin, rest = readme.partition(BEGIN)
    between, end, after = rest.partition(END)
    if not begin or not end:
        message = f"the README needs the lines {BEGIN.strip()} and {END}"
        raise ValueError(message)
    return before, between, after


def with_tables(readme: str, report: dict) -> str:
    """The README with the tables of this report."""
    before, _, after = parts(readme)
    return before + BEGIN + tables(report) + END + after


def complaints(readme: str, report: dict) -> Iterator[str]:
    """What the README says and the report does not."""
    before, between, after = parts(readme)
    made = tables(report)
    if between != made:
        differing = set(between.splitlines()) ^ set(made.splitlines())
        yield "\n  ".join(["its tables are not those of the report:", *sorted(differing)])
    in_words = {words for words, holds in IN_WORDS.items() if shown(holds, report)}
    known = {*QUANTITY.findall(made), *ALLOWED, *in_words}
    for quantity in QUANTITY.findall(before + after):
        if quantity not in known:
            yield f"{quantity!r} is not in the report"
