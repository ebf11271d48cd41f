"""The charts, as SVG for a page of the site: rows of boxes or bars, and lines.

A chart has classes and no colours: docs/assets/benchmarks.css gives it those of the page, light or
dark. The same report makes the same bytes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from itertools import groupby, pairwise

from report.figures import number
from report.subjects import kind_of, ordered, short, style_of

WIDTH = 760
LETTER, BOLD = 6.6, 7.3
"""The width of a letter of a label in pixels, rounded up."""
ROW, CAPTION, HEAD, FOOT = 22, 26, 24, 40
"""Heights in pixels: of a row, of a caption, of the space above the rows and of that below them."""
VALUE, RATIO = 76, 76
"""Widths in pixels of the columns at the right."""
AXIS = ("axis", "middle")
"""The class and the anchor of text at an axis."""
LOG_FROM = 30
"""The ratio of the largest to the smallest value from which an axis is logarithmic."""

UNITS = {
    "_us": "µs",
    "_ms": "ms",
    "_mb": "MB",
    "bytes_per_entry": "bytes",
    "requests_per_second": "/ s",
    "operations_per_second": "/ s",
    "ratio": "×",
    " %": "%",
}
"""The unit of a metric, by the end of its name."""

HEADS = {
    "bytes_per_entry": "bytes per entry",
    "gc_ms": "gc.collect(), ms",
    "requests_per_second": "requests per second",
}
"""The head of the column of values, where the unit alone would say too little."""

Numbers = Mapping[str, float]
Subjects = Mapping[str, Numbers]


def unit_of(metric: str) -> str:
    """Returns the unit of a metric; an empty string if it has none."""
    return next((unit for ending, unit in UNITS.items() if metric.endswith(ending)), "")


# Axes


class Axis:
    """Maps values to pixels, from 0 or, if the values differ much, by their logarithm."""

    def __init__(self, values: list[float], first: float, last: float) -> None:
        self._first, self._last = first, last
        low, high = min(values), max(values)
        self._log = low > 0 and high / low > LOG_FROM
        self._low, self._high = (low / 1.1, high * 1.1) if self._log else (0.0, high * 1.02)

    def __call__(self, value: float) -> float:
        """Returns the position of a value in pixels."""
        if self._log:
            part = math.log(value / self._low) / math.log(self._high / self._low)
        else:
            part = (value - self._low) / (self._high - self._low)
        return self._first + part * (self._last - self._first)

    def ticks(self) -> list[float]:
        """Returns four to seven round values."""
        if not self._log:
            step = next(step for step in steps() if self._high / step <= 6)
            return [step * at for at in range(int(self._high / step) + 1)]
        decades = range(math.floor(math.log10(self._low)), math.ceil(math.log10(self._high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            ticks = [digit * 10.0**decade for decade in decades for digit in digits]
            ticks = [tick for tick in ticks if self._low <= tick <= self._high]
            if len(ticks) <= 7:
                break
        return ticks


def steps() -> Iterator[float]:
    """Yields 1, 2 and 5 times each power of ten, from the smallest on."""
    decade = 1e-6
    while True:
        yield from (decade, 2 * decade, 5 * decade)
        decade *= 10


def tick_text(value: float) -> str:
    """Returns a round value without needless digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


# Elements


def element(tag: str, content: str = "", **attributes: object) -> str:
    """Returns an SVG element; `class_` and `text_anchor` stand for names Python does not take."""
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{pixels(value)}"'
        for name, value in attributes.items()
    )
    return f"<{tag}{named}>{content}</{tag}>" if content else f"<{tag}{named}/>"


def pixels(value: object) -> str:
    """Returns the value of an attribute: a position to a tenth, anything else escaped."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else escape(str(value))


def text(content: str, x: float, y: float, class_: str = "", anchor: str = "") -> str:
    """Returns text that stands on a line."""
    named: dict[str, object] = {"class_": class_} if class_ else {}
    if anchor:
        named["text_anchor"] = anchor
    return element("text", escape(content), x=float(x), y=float(y), **named)


def svg(content: list[str], height: float, about: str, *, mixed: bool) -> str:
    """Returns the whole chart. `about` describes it to a reader who cannot see it.

    A `mixed` chart has subjects of sark-cache and others, so the former stand out.
    """
    return element(
        "svg",
        "".join(content),
        viewBox=f"0 0 {WIDTH} {height:.0f}",
        role="img",
        aria_label=about,
        class_="mixed" if mixed else "alone",
    )


def group(name: str, class_: str, content: list[str]) -> str:
    """Returns elements that share a colour, and a text that is shown under the pointer."""
    return element("g", f"<title>{escape(name)}</title>" + "".join(content), class_=class_)


# Rows


def boxes(subjects: Subjects, about: str) -> str:
    """Draws a box for each subject: the middle half, the median, and 5 % to 95 %."""
    names = ("p5_us", "p25_us", "median_us", "p75_us", "p95_us")
    return rows(subjects, names, about)


def bars(subjects: Subjects, metric: str, about: str) -> str:
    """Draws a bar for each subject that has the metric."""
    having = {name: numbers for name, numbers in subjects.items() if metric in numbers}
    return rows(having, (metric,), about)


@dataclass(frozen=True)
class Layout:
    """The columns of a chart with rows, and their contents."""

    metrics: tuple[str, ...]
    left: float
    right: float
    axis: Axis
    with_ratio: bool

    @property
    def metric(self) -> str:
        """The metric whose value stands beside the row."""
        return self.metrics[len(self.metrics) // 2]

    def heads(self) -> list[str]:
        """Draws the heads of the columns at the right."""
        unit = unit_of(self.metric)
        head = f"median, {unit}" if self.metric.startswith("median") else unit
        columns = [(HEADS.get(self.metric, head), self.right + VALUE)]
        if self.with_ratio:
            columns.append(("ratio", float(WIDTH)))
        return [text(words, x, 14, "head", "end") for words, x in columns]

    def row(self, name: str, label: str, numbers: Numbers, y: float) -> str:
        """Draws one subject."""
        at = [self.axis(numbers[metric]) for metric in self.metrics]
        mark = box(at, y) if len(at) > 1 else bar(self.left, at[0], y)
        written = [
            element("rect", x=0, y=y, width=WIDTH, height=ROW, class_="row"),
            text(label, self.left - 10, y + 15, "label", "end"),
            *mark,
            text(number(numbers[self.metric]), self.right + VALUE, y + 15, "value", "end"),
        ]
        if self.with_ratio:
            written.append(text(f"{number(numbers['ratio'])} ×", WIDTH, y + 15, "value", "end"))
        return group(said(name, numbers, self.metrics), style_of(name), written)

    def grid(self, bottom: float) -> list[str]:
        """Draws the axis below the rows, and a line across them for each of its values."""
        drawn = [text(unit_of(self.metric), (self.left + self.right) / 2, bottom + 34, *AXIS)]
        for tick in self.axis.ticks():
            x = self.axis(tick)
            drawn.append(element("line", x1=x, x2=x, y1=HEAD, y2=bottom + 4, class_="grid"))
            drawn.append(text(tick_text(tick), x, bottom + 18, *AXIS))
        return drawn


def rows(subjects: Subjects, metrics: tuple[str, ...], about: str) -> str:
    """Draws the subjects one below the other, kind by kind, with the value and the ratio."""
    subjects = ordered(dict(subjects))
    kinds = [list(of_kind) for _, of_kind in groupby(subjects, kind_of)]
    captioned = sum(bool(kind_of(names[0]).caption) for names in kinds) > 1
    labels = {name: short(name) if captioned else name for name in subjects}
    with_ratio = len(subjects) > 1 and all("ratio" in numbers for numbers in subjects.values())

    left = max(map(len, labels.values())) * (BOLD if captioned else LETTER) + 16
    right = float(WIDTH - VALUE - (RATIO if with_ratio else 0))
    axis = Axis([of[name] for of in subjects.values() for name in metrics], left, right)
    layout = Layout(metrics, left, right, axis, with_ratio)

    drawn, y = layout.heads(), float(HEAD)
    for names in kinds:
        if captioned and (caption := kind_of(names[0]).caption):
            drawn.append(text(caption, left - 10, y + 18, "caption", "end"))
            y += CAPTION
        for name in names:
            drawn.append(layout.row(name, labels[name], subjects[name], y))
            y += ROW
    return svg([*layout.grid(y), *drawn], y + FOOT, about, mixed=captioned)


def box(at: list[float], y: float) -> list[str]:
    """Draws the five numbers of a subject."""
    p5, p25, median, p75, p95 = at
    middle = y + ROW / 2
    return [
        element("line", x1=p5, x2=p95, y1=middle, y2=middle, class_="whisker"),
        element("rect", x=p25, y=y + 5, width=max(p75 - p25, 1.0), height=ROW - 10, class_="fill"),
        element("line", x1=median, x2=median, y1=y + 3, y2=y + ROW - 3, class_="median"),
    ]


def bar(left: float, at: float, y: float) -> list[str]:
    """Draws the one number of a subject."""
    return [element("rect", x=left, y=y + 5, width=max(at - left, 1.0), height=12, class_="fill")]


def said(name: str, numbers: Numbers, metrics: tuple[str, ...]) -> str:
    """Returns the text that is shown under the pointer."""
    unit = unit_of(metrics[0])
    shown = [number(numbers[metric]) for metric in metrics]
    if len(shown) == 1:
        return f"{name}: {shown[0]} {unit}"
    return (
        f"{name}: median {shown[2]} {unit}, half within {shown[1]}–{shown[3]},"
        f" nine in ten within {shown[0]}–{shown[4]}"
    )


# Lines


HEIGHT, LEFT, TOP, LABELS, APART = 400, 84, 16, 232, 15
"""Pixels: of the whole chart, beside and above the lines, of the labels, between two of these."""
RIGHT, BOTTOM = WIDTH - LABELS, HEIGHT - 52

Points = list[tuple[float, float]]


def lines(series: Mapping[str, Numbers], over: str, what: str, about: str) -> str:
    """Draws a line for each subject over numbers, with its name at its end."""
    points = {
        name: sorted((float(at.replace(",", "")), value) for at, value in of.items())
        for name, of in ordered(dict(series)).items()
    }
    along = sorted({at for of in points.values() for at, _ in of})
    x = Axis(along, LEFT + 12, RIGHT - 12)
    y = Axis([value for of in points.values() for _, value in of], BOTTOM, TOP)
    beside = spread({name: y(of[-1][1]) for name, of in points.items()}, TOP, BOTTOM)
    others = [name for name in points if kind_of(name).name != "ours"]

    drawn = frame(x, y, along, over, what)
    # sark-cache last, so that no other line covers it.
    for name in sorted(points, key=lambda name: name not in others):
        dash = others.index(name) if name in others else 0
        shown = ", ".join(f"{at:,.0f}: {number(value)}" for at, value in points[name])
        at = [(x(one), y(value)) for one, value in points[name]]
        drawn.append(
            group(
                f"{name}: {shown}",
                f"{style_of(name)} line-{dash}",
                [*line(at, beside[name]), text(name, RIGHT + 6, beside[name] + 4, "label")],
            )
        )
    return svg(drawn, HEIGHT, about, mixed=True)


def frame(x: Axis, y: Axis, along: list[float], over: str, what: str) -> list[str]:
    """Draws the axes of a chart with lines."""
    drawn = [
        *(text(f"{at:,.0f}", x(at), BOTTOM + 20, *AXIS) for at in along),
        text(over, (LEFT + RIGHT) / 2, BOTTOM + 40, *AXIS),
        element(
            "text",
            escape(what),
            transform=f"translate(14 {(TOP + BOTTOM) // 2}) rotate(-90)",
            text_anchor="middle",
            class_="axis",
        ),
    ]
    for tick in y.ticks():
        at = y(tick)
        drawn.append(element("line", x1=LEFT, x2=RIGHT, y1=at, y2=at, class_="grid"))
        drawn.append(text(tick_text(tick), LEFT - 8, at + 4, "axis", "end"))
    return drawn


def line(at: Points, label: float) -> list[str]:
    """Draws the points of a subject, the line through them, and one to its label."""
    end_x, end_y = at[-1]
    leader = f"{end_x + 5:.1f},{end_y:.1f} {RIGHT:.1f},{label:.1f}"
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    return [
        element("polyline", points=leader, class_="leader"),
        element("polyline", points=path, class_="line"),
        *(element("circle", cx=x, cy=y, r=3, class_="point") for x, y in at),
    ]


def spread(wanted: Numbers, top: float, bottom: float) -> dict[str, float]:
    """Moves labels apart: in the order of their lines, none closer than `APART` to the next."""
    names = sorted(wanted, key=lambda name: wanted[name])
    places = [wanted[name] for name in names]
    for _ in range(200):
        for at, (one, next_one) in enumerate(pairwise(places)):
            if (lacking := APART - (next_one - one)) > 0.01:
                places[at] -= lacking / 2
                places[at + 1] += lacking / 2
        places = [
            min(max(place, top + APART * at), bottom - APART * (len(places) - 1 - at))
            for at, place in enumerate(places)
        ]
    return dict(zip(names, places, strict=True))
