"""What a command writes: rows for people, or one JSON object for scripts.

Rows are wrapped to the width of a terminal; elsewhere each is one line, for `grep`. Colours go only
to terminals, and not if NO_COLOR is set. What comes from a server or a user cannot move the cursor.
"""

import json
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

UNWRAPPED = 10_000
"""Columns that are wide enough for any row."""

TEN, HUNDRED = 10, 100

STYLES = {"error": "bold red", "problem": "bold red", "warning": "bold yellow", "ok": "green"}


def console(*, stderr: bool = False) -> Console:
    """A console for people to read."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else UNWRAPPED
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def title(to: Console, text: str) -> None:
    """Writes what the next rows are about."""
    to.print(Text(printable(text), style="bold"))


def rows(to: Console, facts: Mapping[str, str]) -> None:
    """Writes facts: the name of each, and what is the case.

    Each is a table of its own: in one for all, the short ones would end in spaces.
    """
    names = {name: Text(f"  {printable(name)}") for name in facts}
    longest = max((name.cell_len for name in names.values()), default=0)
    for name, fact in facts.items():
        grid = Table.grid()
        grid.add_column(width=min(longest + 2, to.width // 2), overflow="fold")
        grid.add_column(overflow="fold")
        grid.add_row(names[name], Text(printable(fact)))
        to.print(grid)


def remark(to: Console, kind: str, text: str) -> None:
    """Writes a sentence under the heading of its kind: one of `STYLES`."""
    to.print(Text.assemble((f"{kind}: ", STYLES[kind]), printable(text)))


def complain(kind: str, text: str) -> None:
    """Writes a sentence to stderr: an error or a warning."""
    remark(console(stderr=True), kind, text)


@contextmanager
def working(text: str) -> Generator[None]:
    """Shows on stderr, if that is a terminal, that something is being done."""
    to = console(stderr=True)
    with to.status(printable(text)) if to.is_terminal else nullcontext():
        yield


def write_json(document: Mapping[str, Any]) -> None:
    """Writes one JSON object to stdout."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    sys.stdout.flush()  # who reads it may be gone: that is to be noticed here


def printable(text: str) -> str:
    """The text with what is no printable character, but for line ends, written as an escape."""
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in text
    )


def counted(number: int, one: str, several: str) -> str:
    """A number of things."""
    return f"{number:,} {one if number == 1 else several}"


def milliseconds(seconds: float) -> float:
    """Milliseconds, to a tenth of a microsecond."""
    return round(1e3 * seconds, 4)


def duration(seconds: float) -> str:
    """A duration in the unit that suits it, with three digits."""
    unit, size = next(
        (each for each in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)) if seconds >= each[1]),
        ("ns", 1e-9),
    )
    number = seconds / size
    decimals = 0 if number >= HUNDRED or unit == "ns" else 1 if number >= TEN else 2
    return f"{number:,.{decimals}f} {unit}"
