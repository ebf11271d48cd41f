"""The README's figures: what each is called there, and where in the report it comes from.

A figure whose benchmark the report does not have is left out. A benchmark or subject that gets
another name is renamed here, and nowhere else.
"""

from collections.abc import Callable


class Results:
    """The numbers of a report. Asked for one that it does not have, it raises a KeyError."""

    def __init__(self, report: dict) -> None:
        self._benchmarks = report["benchmarks"]

    def __call__(self, benchmark: str, subject: str, metric: str) -> float:
        return self._benchmarks[benchmark]["subjects"][subject][metric]

    def every(self, benchmark: str, ending: str, metric: str) -> list[float]:
        """Of all subjects whose names end so."""
        subjects = self._benchmarks[benchmark]["subjects"]
        return [numbers[metric] for name, numbers in subjects.items() if name.endswith(ending)]


Where = tuple[str, str]
"""A benchmark and a subject of it."""
Figure = Callable[[Results], str]
Rows = list[tuple[str, Figure]]
"""What each is called, and what stands in its cells."""


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


# Kinds of figures


def timed(benchmark: str, subject: str) -> Figure:
    """A median, and its ratio to the first subject of its benchmark."""
    return lambda of: (
        f"{number(of(benchmark, subject, 'median_us'))} µs"
        f" | {number(of(benchmark, subject, 'ratio'))} ×"
    )


def measured(unit: str, metric: str, *where: Where) -> Figure:
    """The same metric of one subject, or of one beside others."""
    return lambda of: ", beside ".join(f"{number(of(*each, metric))} {unit}" for each in where)


def times(metric: str, of_this: Where, of_that: Where) -> Figure:
    """How many times of that this is."""
    return lambda of: f"{number(of(*of_this, metric) / of(*of_that, metric))} ×"


def ratio(benchmark: str, subject: str) -> Figure:
    """To the first subject of its benchmark."""
    return measured("×", "ratio", (benchmark, subject))


def percent(metric: str, where: Where) -> Figure:
    """Of what is 1."""
    return lambda of: f"{100 * of(*where, metric):.1f} %"


def times_of_one(ours: Where, subject: str, metric: str) -> Figure:
    """What a subject of the same benchmark takes in terms of ours."""
    return times(metric, (ours[0], subject), ours)


def times_of_all(ours: Where, ending: str) -> Figure:
    """What those whose names end so take in terms of ours, from the best one to the worst."""

    def figure(of: Results) -> str:
        theirs = of.every(ours[0], ending, "median_us")
        if not theirs:
            raise KeyError(ending)
        own = of(*ours, "median_us")
        return f"{number(min(theirs) / own)}–{number(max(theirs) / own)} ×"

    return figure


def beside_ours(benchmarks: tuple[str, ...], kind: Callable[..., Figure], *what: str) -> Figure:
    """A cell for each benchmark beside `get`, then for each beside `get_decision`."""
    figures = [
        kind((benchmark, ours), *what) for ours in (GET, GET_DECISION) for benchmark in benchmarks
    ]
    return lambda of: " | ".join(figure(of) for figure in figures)


# Which they are, and where

FLOOR = "await an async def returning d[k]"
GET, GET_DECISION = "RustPolicyCache.get()", "RustPolicyCache.get_decision()"
HIT = ("test_hit", "await cache.get(), hit")

OF_OUR_CACHE: Rows = [
    ("await an `async def` that returns `d[k]`: the least Python can do", timed("test_hit", FLOOR)),
    ("`await cache.get()`, a hit: a new dict", timed(*HIT)),
    ("the same with a 3-field context", timed("test_hit", "the same with a 3-field context")),
    (
        "`await cache.get_decision()`, a hit: one immutable decision, shared",
        timed("test_hit", "await cache.get_decision(), hit"),
    ),
    ("the same with a 3-field context", timed("test_hit", "get_decision() with a 3-field context")),
    ("`await cache.get()`, a miss", timed("test_hit", "await cache.get(), miss")),
    ("`await cache.set()`, overwriting", timed("test_hit", "await cache.set(), overwriting")),
]
"""Median, and ratio to the floor."""

BY_CONTEXT = ("test_hit_by_context[context of 0]", "test_hit_by_context[context of 3]")
UNLIKE = (
    "test_hit_of_no_two_alike[context of 0]",
    "test_hit_of_no_two_alike[context of 3]",
)
SINGLE = ("test_single_hits[asyncio-context of 0]", "test_single_hits[asyncio-context of 3]")
OVER_TCP, OVER_SOCKET = "PolicyCache.get(), loopback TCP", "PolicyCache.get(), unix socket"

OF_OTHERS: Rows = [
    ("peers as an expert tunes them", beside_ours(BY_CONTEXT, times_of_all, ", tuned")),
    ("the same, no two decisions alike", beside_ours(UNLIKE, times_of_all, ", tuned")),
    ("peers as documented", beside_ours(BY_CONTEXT, times_of_all, ", as documented")),
    (
        "a native call in `asyncio.to_thread`, and `json`",
        beside_ours(SINGLE, times_of_one, "asyncio.to_thread and json", "median_us"),
    ),
    (
        "`PolicyCache`, Redis over loopback TCP: the median",
        beside_ours(SINGLE, times_of_one, OVER_TCP, "median_us"),
    ),
    ("the 95th percentile", beside_ours(SINGLE, times_of_one, OVER_TCP, "p95_us")),
    (
        "`PolicyCache`, Redis over a unix socket: the median",
        beside_ours(SINGLE, times_of_one, OVER_SOCKET, "median_us"),
    ),
]
OTHERS_HEAD = (
    "how many times as long a hit takes elsewhere"
    " | as `get` | with a 3-field context | as `get_decision` | with a 3-field context"
)
"""So many times what a hit of ours takes."""

WAITERS = "1,000 waiters on {0} event loop(s): the last goes on after"
INVALIDATION = "test_invalidation_of_a_million_entries"
MEMORY = "test_bytes_per_entry[300000]"
AT_CAPACITY = "test_set_at_capacity[context of 0, decision of 5]"

OF_MORE: Rows = [
    (
        "`await cache.get_or_load()`, a lone miss, beside awaiting the loader",
        measured(
            *("µs", "median_us"),
            ("test_lone_miss", "await cache.get_or_load()"),
            ("test_lone_miss", "await loader()"),
        ),
    ),
    (
        "1,000 tasks wait for one load: the last of them goes on after",
        measured("ms", "median_ms", ("test_waiters[1]", WAITERS.format(1))),
    ),
    (
        "the same on 4 event loops",
        measured("ms", "median_ms", ("test_waiters[4]", WAITERS.format(4))),
    ),
    (
        "`await cache.set()` at capacity, beside a hit",
        times("median_us", (AT_CAPACITY, GET), (AT_CAPACITY, f"{GET}, a hit")),
    ),
    (
        "a hit in `get_batch` of 100, beside one alone",
        ratio("test_batch[100]", "await cache.get_batch() of 100 hits"),
    ),
    (
        "`invalidate(user_id=…)` at 1,000,000 entries: the call, after which it is in effect",
        measured("µs", "median_us", (INVALIDATION, "invalidate(user_id=…): the call")),
    ),
    (
        "a hit among 1,000,000 after 10,000 invalidations, beside one among 100 after none",
        ratio(
            "test_hit_among_a_million_entries", "a hit among 1,000,000, after 10,000 invalidations"
        ),
    ),
    (
        "a hit among 1,000,000 beside one among 10,000, each in terms of a dict of the same size",
        measured("×", "growth", ("test_growth", "await cache.get(), 1,000,000 entries")),
    ),
    (
        "hits per second on 20 threads, beside one thread",
        ratio("test_threads[0]", f"{GET}, 20 threads"),
    ),
    (
        "resident memory of each of 300,000 entries, beside that of dicts in a dict",
        measured("bytes", "bytes_per_entry", (MEMORY, GET), (MEMORY, "dict, deep copies")),
    ),
    (
        "`gc.collect()` with 300,000 decisions cached, beside none",
        ratio("test_collection", "with 300,000 decisions"),
    ),
    (
        "requests per second of the example gateway, cached, beside one with no authorization",
        percent(
            "ratio",
            (
                "test_requests_per_second[uvloop-httptools]",
                "cached, authorize() (uvloop, httptools)",
            ),
        ),
    ),
]

ALLOWED = {"1–50 ms": "what a policy engine takes; no result of these benchmarks"}
"""Figures that may stand in the README though nothing here measures them, each with the reason."""

IN_WORDS: dict[str, Callable[[Results], bool]] = {
    "about a microsecond": lambda of: 0.5 <= of(*HIT, "median_us") < 1.5,
}
"""What may stand in the README in words, while this holds in the report."""
