"""The benchmark page, made from docs/benchmarks/report.json when the site is built.

`<!-- benchmarks: charts -->` is replaced by all charts and numbers, `<!-- benchmarks: machine -->`
and `<!-- benchmarks: versions -->` by what they were measured on and with.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests" / "benchmarks"))

from report import page, saved

MARKER = re.compile(r"^<!-- benchmarks: (\w+) -->$", re.MULTILINE)
PIECE = re.compile(rf"<p>({page.PLACE.format('[0-9]+')})</p>")

MADE: dict[str, Callable[[dict], str]] = {
    "charts": lambda report: page.page(report)[0],
    "machine": saved.circumstances,
    "versions": page.versions,
}


def on_page_markdown(markdown: str, **_context: object) -> str:
    """Returns the page with its sections, in which a token stands for each chart."""
    if not MARKER.search(markdown):
        return markdown
    report = saved.load()
    return MARKER.sub(lambda match: MADE[match[1]](report), markdown)


def on_page_content(html: str, **_context: object) -> str:
    """Returns the page with the charts in place of their tokens."""
    if not PIECE.search(html):
        return html
    _, pieces = page.page(saved.load())
    return PIECE.sub(lambda match: pieces[match[1]], html)
