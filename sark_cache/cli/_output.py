"""The output of commands: rows for people, or one JSON object for scripts.

On a terminal, rows wrap at its width. In a pipe or file, each row is one line, for `grep`. Only
terminals get colours, and none if NO_COLOR is set. Text from a server or a user is escaped, so that
it cannot move the cursor.
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
"""The width, in columns, at which no row wraps."""

TEN, HUNDRED = 10, 100

STYLES = {
    "error": "bold red",
    "problem": "bold red",
    "warning": "bold yellow",
    "waiting": "",
    "ok": "green",
}


def console(*, stderr: bool = False) -> Console:
    """Returns a console that writes to stdout or stderr."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else UNWRAPPED
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def title(to: Console, text: str) -> None:
    """Writes the title of the rows that follow."""
    to.print(Text(printable(text), style="bold"))


def rows(to: Console, facts: Mapping[str, str]) -> None:
    """Writes one row for each fact: its name and its value.

    Each row is a table of its own. In a common table, short rows would end in spaces.
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
    """Writes a sentence after its kind, a key of `STYLES`."""
    to.print(Text.assemble((f"{kind}: ", STYLES[kind]), printable(text)))


def complain(kind: str, text: str) -> None:
    """Writes a sentence to stderr, after its kind, a key of `STYLES`."""
    remark(console(stderr=True), kind, text)


@contextmanager
def working(text: str) -> Generator[None]:
    """Shows `text` with a spinner while its block runs, if stderr is a terminal."""
    to = console(stderr=True)
    with to.status(printable(text)) if to.is_terminal else nullcontext():
        yield


def write_json(document: Mapping[str, Any]) -> None:
    """Writes one JSON object to stdout."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    sys.stdout.flush()  # raises here if the reader has closed the pipe


def printable(text: str) -> str:
    """Returns the text with unprintable characters escaped, except line ends."""
    return "".join(
        character
        if character.isprintable() or character == "\n"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def counted(number: int, one: str, several: str) -> str:
    """Returns a number with its noun: `one` for 1, else `several`."""
    return f"{number:,} {one if number == 1 else several}"


def milliseconds(seconds: float) -> float:
    """Converts seconds to milliseconds, rounded to a tenth of a microsecond."""
    return round(1e3 * seconds, 4)


def duration(seconds: float) -> str:
    """Formats a duration with three digits, in s, ms, µs or ns."""
    unit, size = next(
        (each for each in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)) if seconds >= each[1]),
        ("ns", 1e-9),
    )
    number = seconds / size
    decimals = 0 if number >= HUNDRED or unit == "ns" else 1 if number >= TEN else 2
    return f"{number:,.{decimals}f} {unit}"
