"""The charts: what kind a benchmark gets follows from the metrics that it kept.

| what it kept | chart |
|---|---|
| a benchmark with `[10,000 entries]` | a line for each subject, over the numbers of entries |
| subjects like `hit, 10 threads` | a line for each `hit`, over the numbers of threads |
| metrics like `5 %` | a line for each subject, over those numbers |
| `p5_us` … `p95_us` | a box for each subject: the middle half, the median, and 5 % to 95 % |
| one of `BARS` | a bar for each subject |

Text takes the colour of what is around it, so that a chart suits light and dark. The same report
makes the same bytes.
"""

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

INK = "#123456"
"""Stands for the colour of the text, which is known only where the chart is shown."""
PALETTE = ("#2f81f7", "#d9822b", "#2da44e", "#cf4a6b", "#8a63d2", "#1aa3a3", "#b58900", "#8c8c8c")
STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.prop_cycle": mpl.cycler(color=PALETTE),
    "figure.constrained_layout.w_pad": 0.1,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that all measure text alike
    "font.size": 10,
    "grid.alpha": 0.2,
    "grid.color": INK,
    "legend.frameon": False,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "sark-cache",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
COLOURS = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>"
OURS = re.compile(r"RustPolicyCache|AsyncCache|await cache|sark-cache|^cached")
"""What stands out: this package, in this process."""
FONT = "'DejaVu Sans', Verdana, sans-serif"
WIDTH = 9.0
LINES = [f"{marker}{dash}" for dash in ("-", "--", ":") for marker in "o^svDPX*"]
POINT = re.compile(r"([\d,.]+) (\S.*)")
OVER = re.compile(r"(.+), ([\d,]+) (entries|threads?|tasks|fields)")
SCALING = {
    "median_us": "median, µs",
    "ratio": "ratio",
    "operations_per_second": "operations per second",
}
AXES = {"hit-ratio": ("room, % of the keys", "hits, % of the requests")}
ENTRIES = re.compile(r"([\d,]+) entries")
BARS = {
    "bytes_per_entry": "bytes per entry",
    "gc_ms": "gc.collect(), ms",
    "requests_per_second": "requests per second",
    "median_us": "median, µs",
    "p95_us": "95 % take at most, µs",
    "median_ms": "median, ms",
}


class Chart(NamedTuple):
    benchmark: str
    file: str
    svg: str


def draw(report: dict) -> list[Chart]:
    """All charts, in the order of the report."""
    benchmarks = report["benchmarks"]
    families = by_entries(benchmarks)
    together = {name for members in families.values() for name in members.values()}
    charts = []
    with mpl.rc_context(STYLE):
        for family, members in families.items():
            subjects = {entries: benchmarks[name]["subjects"] for entries, name in members.items()}
            figure = lines(turned(subjects, "ratio"), "entries", SCALING["ratio"])
            charts.append(Chart(min(members.values()), f"{slug(family)}.svg", svg(figure)))
        for name, benchmark in benchmarks.items():
            if name not in together:
                for kind, figure in figures(benchmark):
                    charts.append(Chart(name, f"{slug(name)}{kind}.svg", svg(figure)))
    return charts


def by_entries(benchmarks: dict[str, dict]) -> dict[str, dict[float, str]]:
    """What was benchmarked with several numbers of entries: each is a parameter."""
    families: dict[str, dict[float, str]] = {}
    for name in benchmarks:
        if found := ENTRIES.search(name):
            family = ENTRIES.sub("by entries", name)
            families.setdefault(family, {})[count(found[1])] = name
    return {family: members for family, members in families.items() if len(members) > 1}


def turned(subjects: dict[float, dict[str, dict[str, float]]], metric: str):
    """By subject what is by number of entries."""
    series: dict[str, dict[float, float]] = {}
    for entries, of in subjects.items():
        for name, numbers in of.items():
            series.setdefault(name, {})[entries] = numbers[metric]
    return series


def figures(benchmark: dict) -> Iterator[tuple[str, Figure]]:
    """Each with what its file's name ends in."""
    subjects: dict[str, dict[str, float]] = benchmark["subjects"]
    metrics = list(dict.fromkeys(metric for numbers in subjects.values() for metric in numbers))
    over = [OVER.fullmatch(subject) for subject in subjects]
    if all(over):
        for metric in [name for name in SCALING if name in metrics]:
            series: dict[str, dict[float, float]] = {}
            for at, numbers in zip(over, subjects.values(), strict=True):
                if metric in numbers:
                    series.setdefault(at[1], {})[count(at[2])] = numbers[metric]
            yield f"-{slug(metric)}", lines(series, over[0][3], SCALING[metric])
    elif all(POINT.fullmatch(metric) for metric in metrics):
        series = {
            name: {count(POINT.fullmatch(at)[1]): of[at] for at in of}
            for name, of in subjects.items()
        }
        yield "", lines(series, *AXES.get(benchmark["group"], (POINT.fullmatch(metrics[0])[2], "")))
    elif "p5_us" in metrics:
        yield "", boxes({name: of for name, of in subjects.items() if "p5_us" in of})
        if benchmark["group"] == "redis":
            first = next(iter(subjects))
            of_first = {name: of["ratio"] for name, of in subjects.items() if "ratio" in of}
            yield "-ratio", bars(of_first, f"times as long as {first}")
    else:
        for metric in [name for name in BARS if name in metrics]:
            having = {name: of[metric] for name, of in subjects.items() if metric in of}
            if len(having) > 1:
                yield f"-{slug(metric)}", bars(having, BARS[metric])


def boxes(subjects: dict[str, dict[str, float]]) -> Figure:
    figure, axes = rows_of(len(subjects))
    drawn = axes.bxp(
        [
            {
                "whislo": of["p5_us"],
                "q1": of["p25_us"],
                "med": of["median_us"],
                "q3": of["p75_us"],
                "whishi": of["p95_us"],
                "label": name,
            }
            for name, of in subjects.items()
        ],
        orientation="horizontal",
        showfliers=False,
        widths=0.6,
        patch_artist=True,
        medianprops={"color": INK},
    )
    for at, name in enumerate(subjects):
        colour = PALETTE[0] if OURS.search(name) else PALETTE[-1]
        drawn["boxes"][at].set(facecolor=colour, edgecolor=colour, alpha=0.6)
        both = slice(2 * at, 2 * at + 2)
        for line in (*drawn["whiskers"][both], *drawn["caps"][both]):
            line.set_color(colour)
    scale(axes, [n for of in subjects.values() for n in (of["p5_us"], of["p95_us"])])
    axes.set_xlabel("µs")
    return figure


def bars(numbers: dict[str, float], what: str) -> Figure:
    figure, axes = rows_of(len(numbers))
    colours = [PALETTE[0] if OURS.search(name) else PALETTE[-1] for name in numbers]
    drawn = axes.barh(list(numbers), list(numbers.values()), color=colours, height=0.6)
    axes.bar_label(drawn, fmt=lambda n: f"{n:,.3g}" if n < 1_000 else f"{n:,.0f}", padding=4)
    axes.set_xlabel(what)
    scale(axes, list(numbers.values()))
    axes.margins(x=0.12)
    return figure


def lines(series: dict[str, dict[float, float]], over: str, what: str) -> Figure:
    figure = Figure(figsize=(WIDTH, 4.5), layout="constrained")
    axes = figure.subplots()
    for (name, points), style in zip(series.items(), LINES, strict=False):
        axes.plot(*zip(*sorted(points.items()), strict=True), style, markersize=4, label=name)
    shown = sorted({at for points in series.values() for at in points})
    if shown[-1] / shown[0] >= 50:
        axes.set_xscale("log")
    axes.set_xticks(shown, [f"{at:,.0f}" for at in shown])
    axes.minorticks_off()
    axes.set_xlabel(over)
    axes.set_ylabel(what)
    axes.set_ylim(bottom=0)
    axes.grid()
    figure.legend(loc="outside right")
    return figure


def rows_of(count: int) -> tuple[Figure, object]:
    """Subjects one below the other, the first at the top."""
    figure = Figure(figsize=(WIDTH, 0.8 + 0.32 * count), layout="constrained")
    axes = figure.subplots()
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def scale(axes, shown: list[float]) -> None:
    """From 0, unless the small ones would then all look alike."""
    if min(shown) > 0 and max(shown) / min(shown) > 30:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda n, _: f"{n:g}" if n < 1e4 else f"{n:,.0f}")
    else:
        axes.set_xlim(left=0)


def svg(figure: Figure) -> str:
    """As text that may stand in a page: with no name in it that another chart could have, too."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", text)
    # Coordinates, not labels; of a point, a hundredth.
    text = re.sub(r'"[^"]*"', lambda it: re.sub(r"(\d\.\d\d)\d+", r"\1", it[0]), text)
    text = text.replace(INK, "currentColor").replace("'DejaVu Sans'", FONT)
    return re.sub(r"(<svg[^>]*>)", rf"\1{COLOURS}", text, count=1)


def count(text: str) -> float:
    return float(text.replace(",", ""))


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.removeprefix("test_").lower()).strip("-")
