"""The figures of the pages: the name of each there, and its place in the report.

A figure whose benchmark the report does not have is left out. A benchmark or subject that gets
another name is renamed here and in `contents.py`, and nowhere else.
"""

from collections.abc import Callable, Mapping

from report.subjects import kind_of


class Results:
    """The numbers of a report. A number that the report does not have raises a KeyError."""

    def __init__(self, report: dict) -> None:
        self._benchmarks = report["benchmarks"]

    def __call__(self, benchmark: str, subject: str, metric: str) -> float:
        return self._benchmarks[benchmark]["subjects"][subject][metric]

    def of_kind(self, benchmark: str, metric: str, *kinds: str) -> dict[str, float]:
        """Returns the metric of every subject of these kinds.

        Raises:
            KeyError: There is none.
        """
        subjects: Mapping[str, Mapping[str, float]] = self._benchmarks[benchmark]["subjects"]
        found = {
            name: numbers[metric]
            for name, numbers in subjects.items()
            if metric in numbers and kind_of(name).name in kinds
        }
        if not found:
            raise KeyError(kinds)
        return found


Where = tuple[str, str]
"""A benchmark and a subject of it."""
Figure = Callable[[Results], str]
Rows = list[tuple[str, Figure]]
"""The label of each row, and the text of its cells."""


def number(value: float) -> str:
    """Returns three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


# Kinds of figures


def timed(benchmark: str, subject: str) -> Figure:
    """Shows a median, and its ratio to the first subject of its benchmark."""
    return lambda of: (
        f"{number(of(benchmark, subject, 'median_us'))} µs"
        f" | {number(of(benchmark, subject, 'ratio'))} ×"
    )


def measured(unit: str, metric: str, *where: Where) -> Figure:
    """Shows the same metric of one subject, or of one beside others."""
    return lambda of: ", beside ".join(f"{number(of(*each, metric))} {unit}" for each in where)


def times(metric: str, of_this: Where, of_that: Where) -> Figure:
    """Shows a metric as a multiple of another subject's."""
    return lambda of: f"{number(of(*of_this, metric) / of(*of_that, metric))} ×"


def ratio(benchmark: str, subject: str) -> Figure:
    """Shows the ratio to the first subject of its benchmark."""
    return measured("×", "ratio", (benchmark, subject))


def percent(*where: Where) -> Figure:
    """Shows a ratio as percent, in a cell for each subject."""
    return lambda of: " | ".join(f"{100 * of(*each, 'ratio'):.1f} %" for each in where)


def times_of_one(ours: Where, subject: str, metric: str) -> Figure:
    """Shows a subject's metric as a multiple of that of sark-cache."""
    return times(metric, (ours[0], subject), ours)


def times_of_all(ours: Where, kind: str) -> Figure:
    """Shows the medians of a kind as multiples of that of sark-cache, best to worst."""

    def figure(of: Results) -> str:
        theirs = of.of_kind(ours[0], "median_us", kind).values()
        own = of(*ours, "median_us")
        return f"{number(min(theirs) / own)}–{number(max(theirs) / own)} ×"

    return figure


def beside_ours(benchmarks: tuple[str, ...], kind: Callable[..., Figure], *what: str) -> Figure:
    """Shows a cell for each benchmark beside `get`, then for each beside `get_decision`."""
    figures = [
        kind((benchmark, ours), *what) for ours in (GET, GET_DECISION) for benchmark in benchmarks
    ]
    return lambda of: " | ".join(figure(of) for figure in figures)


def beside_best(
    unit: str, metric: str, ours: Where, *kinds: str, best: Callable[..., str] = min
) -> Figure:
    """Shows a metric of sark-cache, then the best one of other kinds with its subject."""

    def figure(of: Results) -> str:
        theirs = of.of_kind(ours[0], metric, *(kinds or ("tuned", "documented", "other")))
        name = best(theirs, key=lambda each: theirs[each])
        return f"{number(of(*ours, metric))} {unit} | {number(theirs[name])} {unit}: {name}"

    return figure


# Benchmarks and subjects

FLOOR = "baseline: async def returning d[k]"
GET, GET_DECISION = "RustPolicyCache.get()", "RustPolicyCache.get_decision()"
SET = "RustPolicyCache.set()"
A_HIT, A_MISS = f"{GET}, a hit", f"{GET}, a miss"
OVERWRITING = f"{SET}, overwriting"
LOAD = "RustPolicyCache.get_or_load()"
HIT = ("test_hit", A_HIT)

BY_CONTEXT = ("test_hit_by_context[context of 0]", "test_hit_by_context[context of 3]")
UNLIKE = (
    "test_hit_of_no_two_alike[context of 0]",
    "test_hit_of_no_two_alike[context of 3]",
)
SINGLE = ("test_single_hits[asyncio-context of 0]", "test_single_hits[asyncio-context of 3]")
OVER_TCP, OVER_SOCKET = "PolicyCache.get(), loopback TCP", "PolicyCache.get(), unix socket"
FRESH = "test_set_of_a_fresh_entry[context of 0, decision of 5]"
OVERWRITTEN = "test_overwriting_set[context of 0, decision of 5]"
OVERWRITTEN_LARGE = "test_overwriting_set[context of 0, decision of 50]"
AT_CAPACITY = "test_set_at_capacity[context of 0, decision of 5]"
INVALIDATION = "test_invalidation_of_a_million_entries"
REVOKED = (INVALIDATION, "RustPolicyCache.invalidate(user_id=…), the call")
MEMORY = "test_bytes_per_entry[300000]"
HANDED_OUT = "RustPolicyCache, each handed out by get_decision()"
WAITERS = "RustPolicyCache.get_or_load(), 1,000 waiters on {}"
BEHIND_H11 = "test_requests_per_second[asyncio-h11]"
BEHIND_HTTPTOOLS = "test_requests_per_second[uvloop-httptools]"


def behind_both(gateway: str) -> Figure:
    """Shows the requests per second of a gateway, as percent of those without authorization."""
    return percent((BEHIND_H11, gateway), (BEHIND_HTTPTOOLS, gateway))


# Tables

COST: Rows = [
    ("a hit, `await cache.get()`: a new dict", measured("µs", "median_us", HIT)),
    (
        "a hit, `await cache.get_decision()`: a shared, immutable decision",
        measured("µs", "median_us", ("test_hit", f"{GET_DECISION}, a hit")),
    ),
    (
        "a store, `await cache.set()`, over an existing entry",
        measured("µs", "median_us", ("test_hit", OVERWRITING)),
    ),
    (
        "a miss, `await cache.get_or_load()`, whose evaluation returns at once",
        measured("µs", "median_us", ("test_lone_miss", LOAD)),
    ),
    (
        "a revocation, `await cache.invalidate(user_id=…)`, among 1,000,000 entries",
        measured("µs", "median_us", REVOKED),
    ),
    (
        "memory for each of 300,000 entries",
        measured("bytes", "bytes_per_entry", (MEMORY, "RustPolicyCache")),
    ),
    (
        "for comparison: a hit on Redis over loopback TCP",
        measured("µs", "median_us", (SINGLE[0], OVER_TCP)),
    ),
]
"""The README's table."""

OPERATIONS: Rows = [
    ("baseline: `await` an `async def` that returns `d[k]`", timed("test_hit", FLOOR)),
    ("`await cache.get()`, a hit: a new dict", timed(*HIT)),
    ("the same with a 3-field context", timed("test_hit", f"{A_HIT}, 3-field context")),
    (
        "`await cache.get_decision()`, a hit: a shared, immutable decision",
        timed("test_hit", f"{GET_DECISION}, a hit"),
    ),
    (
        "the same with a 3-field context",
        timed("test_hit", f"{GET_DECISION}, a hit, 3-field context"),
    ),
    ("`await cache.get_or_load()`, a hit", timed("test_hit", f"{LOAD}, a hit")),
    ("`await cache.get()`, a miss", timed("test_hit", A_MISS)),
    ("`await cache.set()`, over an existing entry", timed("test_hit", OVERWRITING)),
]

OTHERS: Rows = [
    ("other caches in the process, tuned", beside_ours(BY_CONTEXT, times_of_all, "tuned")),
    (
        "the same, each request different from the one before",
        beside_ours(UNLIKE, times_of_all, "tuned"),
    ),
    (
        "other caches in the process, as documented",
        beside_ours(BY_CONTEXT, times_of_all, "documented"),
    ),
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
    "a hit elsewhere, as a multiple of"
    " | `get` | `get`, 3-field context | `get_decision` | `get_decision`, 3-field context"
)

SLOWER: Rows = [
    (
        "a hit of `get` when every request differs from the one before",
        beside_best("µs", "median_us", (UNLIKE[0], GET)),
    ),
    (
        "a look-up with a ready key that returns the stored object itself",
        beside_best("µs", "median_us", (BY_CONTEXT[0], GET), "bare"),
    ),
    ("a store of a new entry", beside_best("µs", "median_us", (FRESH, SET))),
    ("a store over an existing entry", beside_best("µs", "median_us", (OVERWRITTEN, SET))),
    (
        "the same with a decision of 50 fields",
        beside_best("µs", "median_us", (OVERWRITTEN_LARGE, SET)),
    ),
    ("a store when the cache is full", beside_best("µs", "median_us", (AT_CAPACITY, SET))),
    (
        "a miss of `AsyncCache`",
        beside_best("µs", "median_us", ("test_miss[context of 0]", "AsyncCache.get()")),
    ),
    (
        "a miss that is evaluated and stored, one task at a time",
        beside_best("µs", "median_us", ("test_lone_miss", LOAD)),
    ),
    (
        "1,000 tasks that miss at once",
        beside_best("ms", "median_ms", ("test_stampede[asyncio]", LOAD)),
    ),
    (
        "a hit on Redis",
        beside_best("µs", "median_us", ("test_redis", "PolicyCache.get(), a hit")),
    ),
    (
        "a hit on Redis, beside a cache that keeps a copy in the process",
        beside_best("µs", "median_us", (SINGLE[0], OVER_TCP)),
    ),
    (
        "memory for each of 300,000 entries",
        beside_best("bytes", "bytes_per_entry", (MEMORY, "RustPolicyCache")),
    ),
    (
        "hits with room for 1 % of the keys, Zipf 0.7",
        beside_best(
            *("%", "1 %", ("test_hit_ratio[Zipf 0.7]", "RustPolicyCache, tiny_lfu")), best=max
        ),
    ),
    (
        "hits with room for 5 % of the keys, popular entries that change",
        beside_best(
            *("%", "5 %", ("test_hit_ratio[shifting hot set]", "RustPolicyCache, tiny_lfu")),
            best=max,
        ),
    ),
]
"""Operations where another way is as good or better: sark-cache, then the best other way."""

SCALE: Rows = [
    (
        "a miss that is evaluated and stored, beside awaiting the loader",
        measured(
            *("µs", "median_us"),
            ("test_lone_miss", LOAD),
            ("test_lone_miss", "baseline: await loader()"),
        ),
    ),
    (
        "1,000 tasks wait for one load: the last one continues after",
        measured("ms", "median_ms", ("test_waiters[1]", WAITERS.format("1 event loop"))),
    ),
    (
        "the same on 4 event loops",
        measured("ms", "median_ms", ("test_waiters[4]", WAITERS.format("4 event loops"))),
    ),
    (
        "a store when the cache is full, beside a hit",
        times("median_us", (AT_CAPACITY, SET), (AT_CAPACITY, f"for comparison: {A_HIT}")),
    ),
    (
        "a hit in `get_batch` of 100, beside a single hit",
        ratio("test_batch[100]", "RustPolicyCache.get_batch(), 100 hits"),
    ),
    (
        "`invalidate(user_id=…)` among 1,000,000 entries: the call, which is then in effect",
        measured("µs", "median_us", REVOKED),
    ),
    (
        "a hit among 1,000,000 after 10,000 invalidations, beside one among 100 after none",
        ratio(
            "test_hit_among_a_million_entries",
            f"{GET}, 1,000,000 entries, after 10,000 invalidations",
        ),
    ),
    (
        "a hit among 1,000,000 beside one among 10,000, each as a multiple of a dict's look-up",
        measured("×", "growth", ("test_growth", f"{GET}, 1,000,000 entries")),
    ),
    (
        "hits per second on 20 threads, beside one thread",
        ratio("test_threads[0]", f"{GET}, 20 threads"),
    ),
    (
        "the same of the baseline, which has no cache",
        ratio("test_threads[0]", f"{FLOOR}, 20 threads"),
    ),
]

OF_MEMORY: Rows = [
    (
        "each of 300,000 entries",
        measured("bytes", "bytes_per_entry", (MEMORY, "RustPolicyCache")),
    ),
    (
        "the same after `get_decision` has returned every one",
        measured("bytes", "bytes_per_entry", (MEMORY, HANDED_OUT)),
    ),
    (
        "for comparison: dicts in a dict",
        measured("bytes", "bytes_per_entry", (MEMORY, "dict, deep copies")),
    ),
    (
        "`gc.collect()` with 300,000 decisions, beside none",
        ratio("test_collection", "RustPolicyCache, 300,000 decisions"),
    ),
    (
        "growth of the resident size over 10,000,000 operations at capacity",
        measured("%", "max_percent", ("test_churn", "RustPolicyCache")),
    ),
]

GATEWAY: Rows = [
    ("a dependency that does nothing", behind_both("no authorization, an empty dependency")),
    ("`authorize()` as a dependency", behind_both("cached: authorize() as a dependency")),
    (
        "`authorize()` that takes three dependencies",
        behind_both("cached: authorize() that takes three dependencies"),
    ),
    (
        "`authorize()` awaited in the handler",
        behind_both("cached: authorize() awaited in the handler"),
    ),
    ("`get_decision()` in the handler", behind_both("cached: get_decision() in the handler")),
    (
        "no cache: every request is evaluated",
        behind_both("no cache: the policy evaluates every request"),
    ),
]
"""Requests per second, as percent of those without authorization."""

TABLES: dict[str, tuple[str, Rows]] = {
    "cost": ("operation | median", COST),
    "operations": ("operation | median | ratio", OPERATIONS),
    "others": (OTHERS_HEAD, OTHERS),
    "slower": ("operation | sark-cache | the best other way", SLOWER),
    "scale": ("measurement | result", SCALE),
    "memory": ("measurement | result", OF_MEMORY),
    "gateway": ("requests per second, beside no authorization | h11 | httptools", GATEWAY),
}
"""The head and the rows of each table, by the name that a page's marker has."""

ALLOWED = {"1–50 ms": "what a policy engine takes; no result of these benchmarks"}
"""Figures that may stand on a page though nothing here measures them, each with the reason."""

IN_WORDS: dict[str, Callable[[Results], bool]] = {
    "under a microsecond": lambda of: of(*HIT, "median_us") < 0.9,
}
"""Figures that may stand on a page in words while this holds in the report."""
