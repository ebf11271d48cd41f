"""Sequence diagrams, drawn when the site is built: a page needs no script to show them.

They are written in the part of Mermaid's language that is read here, so that GitHub draws them too:
`participant A as some words`, `A->>B: a call`, `A-->>B: an answer`, `A-xB: what is refused` and
`Note over A,B: what happens there`; `<br/>` breaks a line. Anything else fails the build.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mkdocs.config.defaults import MkDocsConfig

LETTER = 6.9
"""The average width of a letter of the text, in pixels, rounded up."""
LINE = 17
MARGIN = 12

PARTICIPANT = re.compile(r"participant (\w+) as (.+)")
MESSAGE = re.compile(r"(\w+)(->>|-->>|-x)(\w+): (.+)")
NOTE = re.compile(r"Note over (\w+)(?:,(\w+))?: (.+)")

CLASSES = {"->>": "message", "-->>": "message reply", "-x": "message refused"}


@dataclass(frozen=True)
class Event:
    """A message from one participant to another, or a note over one or two."""

    kind: str
    first: int
    last: int
    lines: list[str]

    @property
    def width(self) -> float:
        """Returns the width of the text with its margins, in pixels."""
        return max(map(len, self.lines)) * LETTER + 2 * MARGIN


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Registers `draw` for blocks of `mermaid`."""
    fence = {"name": "mermaid", "class": "sequence", "format": draw}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def draw(source: str, *_arguments: object, **_options: object) -> str:
    """Returns the diagram as SVG, in the colours of the page."""
    names, events = read(source)
    middles = columns(names, events)
    width = middles[-1] + half(len(names) - 1, names, events)
    drawn: list[str] = []
    y = 52.0
    for event in events:
        text_height = len(event.lines) * LINE
        if event.kind == "note":
            drawn.extend(note(event, middles, y))
            y += text_height + 20
        else:
            drawn.extend(message(event, middles, y + text_height))
            y += text_height + 18
    bottom = y + 6
    lives = [f'<path class="life" d="M{x:.0f} 34V{bottom:.0f}"/>' for x in middles]
    heads = [
        part for x, name in zip(middles, names, strict=True) for part in box(x, 6, [name], "head")
    ]
    said = html.escape("; ".join(" ".join(event.lines) for event in events))
    return (
        f'<div class="sequence"><svg viewBox="0 0 {width:.0f} {bottom + 6:.0f}" '
        f'style="max-width:{width:.0f}px" role="img" aria-label="{said}">'
        f"{''.join([*lives, *heads, *drawn])}</svg></div>"
    )


def read(source: str) -> tuple[list[str], list[Event]]:
    """Returns the participants and the events between them.

    Raises:
        ValueError: The source has a line that cannot be drawn.
    """
    lines = [line.strip() for line in source.strip().splitlines()]
    if lines.pop(0) != "sequenceDiagram":
        message = "only diagrams that begin with sequenceDiagram are drawn"
        raise ValueError(message)
    names: dict[str, str] = {}
    events: list[Event] = []
    for line in filter(None, lines):
        if found := PARTICIPANT.fullmatch(line):
            names[found[1]] = found[2]
            continue
        places = list(names)
        if found := MESSAGE.fullmatch(line):
            first, kind, last, text = found.groups()
        elif found := NOTE.fullmatch(line):
            first, last, text = found.groups()
            kind, last = "note", last or first
        else:
            message = f"a line that is not drawn: {line!r}"
            raise ValueError(message)
        events.append(Event(kind, places.index(first), places.index(last), text.split("<br/>")))
    return list(names.values()), events


def columns(names: list[str], events: list[Event]) -> list[float]:
    """Returns the x of each life line. They are far enough apart for the texts between them."""
    middles = [half(0, names, events)]
    for place in range(1, len(names)):
        apart = (len(names[place - 1]) + len(names[place])) * LETTER / 2 + 4 * MARGIN
        at_least = middles[-1] + apart
        for event in events:
            left, right = sorted((event.first, event.last))
            if right == place and left != right:
                at_least = max(at_least, middles[left] + event.width)
            elif left == right and event.first in (place - 1, place):
                at_least = max(at_least, middles[-1] + event.width / 2 + 2 * MARGIN)
        middles.append(at_least)
    return middles


def half(place: int, names: list[str], events: list[Event]) -> float:
    """Returns the room that a life line at the edge needs on its outer side, in pixels."""
    notes = [event.width for event in events if event.first == event.last == place]
    return max([len(names[place]) * LETTER + 2 * MARGIN, *notes]) / 2 + MARGIN


def box(x: float, y: float, lines: list[str], kind: str) -> Iterator[str]:
    """Yields a box around lines of text, its middle at x."""
    width = max(map(len, lines)) * LETTER + 2 * MARGIN
    height = len(lines) * LINE + 10
    shape = "note" if kind == "note" else "box"
    yield (
        f'<rect class="{shape}" x="{x - width / 2:.0f}" y="{y:.0f}" '
        f'width="{width:.0f}" height="{height}" rx="4"/>'
    )
    yield from text(x, y + LINE + 1, lines, kind)


def note(event: Event, middles: list[float], y: float) -> Iterator[str]:
    """Yields a note over one participant or between two."""
    middle = (middles[event.first] + middles[event.last]) / 2
    yield from box(middle, y, event.lines, "note")


def message(event: Event, middles: list[float], y: float) -> Iterator[str]:
    """Yields an arrow with its text above it; a refused message ends in a cross."""
    start, end = middles[event.first], middles[event.last]
    forward = 1 if end > start else -1
    yield from text((start + end) / 2, y - (len(event.lines) - 1) * LINE - 6, event.lines, "said")
    if event.kind == "-x":
        stop = end - 14 * forward
        yield f'<path class="{CLASSES[event.kind]}" d="M{start:.0f} {y:.0f}H{stop:.0f}"/>'
        yield (
            f'<path class="message refused" d="M{stop - 5:.0f} {y - 5:.0f}l10 10m0 -10l-10 10"/>'
        )
        return
    yield f'<path class="{CLASSES[event.kind]}" d="M{start:.0f} {y:.0f}H{end - 7 * forward:.0f}"/>'
    tip = -8 * forward
    yield f'<path class="tip" d="M{end:.0f} {y:.0f}l{tip} -4.5v9z"/>'


def text(x: float, y: float, lines: list[str], kind: str) -> Iterator[str]:
    """Yields lines of text, each centred at x."""
    for number, line in enumerate(lines):
        yield (
            f'<text class="{kind}" x="{x:.0f}" y="{y + number * LINE:.0f}" '
            f'text-anchor="middle">{html.escape(line)}</text>'
        )
