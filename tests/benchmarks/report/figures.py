"""The README's figures: what each is called there, and where in the report it comes from.

A figure whose benchmark the report does not have is left out. A benchmark or subject that gets
another name is renamed here, and nowhere else.
"""

from collections.abc import Callable


class Results:
    """The numbers of a report, by benchmark, subject and metric."""

    def __init__(self, report: dict) -> None:
        self._benchmarks = report["benchmarks"]

    def __call__(self, benchmark: str, subject: str, metric: str) -> float:
        """Raises: KeyError: The report does not have it."""
        return self._benchmarks[benchmark]["subjects"][subject][metric]


Figure = Callable[[Results], str]


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def timed(benchmark: str, subject: str) -> Figure:
    """A median, and its ratio to the first subject of its benchmark."""
    return lambda of: " | ".join(
        (
            f"{number(of(benchmark, subject, 'median_us'))} µs",
            f"{number(of(benchmark, subject, 'ratio'))} ×",
        )
    )


def beside(unit: str, metric: str, *subjects: tuple[str, str]) -> Figure:
    """The same metric of several subjects."""
    return lambda of: ", beside ".join(f"{number(of(*it, metric))} {unit}" for it in subjects)


def ratio(benchmark: str, subject: str) -> Figure:
    return lambda of: f"{number(of(benchmark, subject, 'ratio'))} ×"


def ahead(metrics: tuple[str, ...], of_ours: tuple[str, str], of_theirs: tuple[str, str]) -> Figure:
    """How many times as long theirs takes, by each of the metrics."""
    return lambda of: ", ".join(
        f"{number(of(*of_theirs, metric) / of(*of_ours, metric))} ×" for metric in metrics
    )


HIT = ("test_hit", "await cache.get(), hit")

TIMED: dict[str, Figure] = {
    "await an `async def` that returns `d[k]`: the least Python can do": timed(
        "test_hit", "await an async def returning d[k]"
    ),
    "`await cache.get()`, a hit: a new dict of 4 fields": timed(*HIT),
    "the same with a 3-field context": timed("test_hit", "the same with a 3-field context"),
    "`await cache.get()`, a miss": timed("test_hit", "await cache.get(), miss"),
    "`await cache.set()`, overwriting": timed("test_hit", "await cache.set(), overwriting"),
}

OTHERS: dict[str, Figure] = {
    "`await cache.get_or_load()`, a lone miss, beside awaiting the loader": beside(
        *("µs", "median_us"),
        ("test_lone_miss", "await cache.get_or_load(), a lone miss"),
        ("test_lone_miss", "await loader()"),
    ),
    "1,000 tasks wait for one load: the last of them goes on after": beside(
        *("ms", "median_ms"),
        ("test_waiters[1]", "1,000 waiters on 1 event loop(s): the last goes on after"),
    ),
    "the same on 4 event loops": beside(
        *("ms", "median_ms"),
        ("test_waiters[4]", "1,000 waiters on 4 event loop(s): the last goes on after"),
    ),
    "`invalidate(user_id=…)` at 1,000,000 entries: the call, after which it is in effect": beside(
        *("µs", "median_us"),
        ("test_invalidation_of_a_million_entries", "invalidate(user_id=…): the call"),
    ),
    "a hit among 1,000,000 after 10,000 invalidations, beside one among 100 after none": ratio(
        "test_hit_among_a_million_entries", "a hit among 1,000,000, after 10,000 invalidations"
    ),
    "a hit in `get_batch` of 100, beside one alone": ratio(
        "test_batch", "await cache.get_batch() of 100 hits"
    ),
    "`gc.collect()` with 300,000 decisions cached, beside none": ratio(
        "test_collection", "with 300,000 decisions"
    ),
}

ALLOWED = {"1–50 ms": "what a policy engine takes; no result of these benchmarks"}
"""Figures that may stand in the README though nothing here measures them, each with the reason."""

IN_WORDS: dict[str, Callable[[Results], bool]] = {
    "about a microsecond": lambda of: 0.5 <= of(*HIT, "median_us") < 1.5,
}
"""What may stand in the README in words, while this holds in the report."""
