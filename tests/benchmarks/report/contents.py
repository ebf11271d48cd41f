"""The benchmark page: its sections in their order, the words of each, and the charts in it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from report import charts

Benchmark = Mapping[str, dict]
"""The results of one benchmark in the report."""
Members = Mapping[str, Benchmark]
"""The benchmarks that one chart is drawn from, by the parameter in which they differ."""
Draw = Callable[[Members, str], list[str]]
"""Draws the charts of some benchmarks, given a text that says what they show."""


# Kinds of charts


def subjects_of(members: Members) -> dict[str, dict[str, float]]:
    """Returns the subjects of all the benchmarks."""
    return {
        name: numbers
        for benchmark in members.values()
        for name, numbers in benchmark["subjects"].items()
    }


def boxes(members: Members, about: str) -> list[str]:
    """Draws one chart with a box for each subject."""
    return [charts.boxes(subjects_of(members), about)]


def bars(*metrics: str) -> Draw:
    """Draws one chart with bars for each metric."""

    def draw(members: Members, about: str) -> list[str]:
        return [charts.bars(subjects_of(members), metric, about) for metric in metrics]

    return draw


def over_entries(members: Members, about: str) -> list[str]:
    """Draws the ratios of each subject over the number of entries."""
    series: dict[str, dict[str, float]] = {}
    for entries, benchmark in members.items():
        for name, numbers in benchmark["subjects"].items():
            series.setdefault(name, {})[entries] = numbers["ratio"]
    return [charts.lines(series, "entries", "ratio to the baseline", about)]


def over_threads(members: Members, about: str) -> list[str]:
    """Draws the operations per second over the number of threads, then their ratios."""
    what = {"operations_per_second": "operations per second", "ratio": "ratio to one thread"}
    drawn = []
    for metric, words in what.items():
        series: dict[str, dict[str, float]] = {}
        for subject, numbers in subjects_of(members).items():
            name, _, threads = subject.rpartition(", ")
            series.setdefault(name, {})[threads.split()[0]] = numbers[metric]
        drawn.append(charts.lines(series, "threads", words, about))
    return drawn


def over_capacity(members: Members, about: str) -> list[str]:
    """Draws the hits of each policy over the capacity."""
    series = {
        name: {capacity.removesuffix(" %"): hits for capacity, hits in numbers.items()}
        for name, numbers in subjects_of(members).items()
    }
    return [charts.lines(series, "capacity, % of the keys", "hits, % of the requests", about)]


def call_and_heartbeats(members: Members, about: str) -> list[str]:
    """Draws the call, which is in microseconds, then the heartbeats, in milliseconds."""
    return bars("median_us", "median_ms")(members, about)


def resident_size(members: Members, about: str) -> list[str]:
    """Draws the resident size at the first and at the last measurement."""
    names = {"first_mb": "after a tenth of the operations", "last_mb": "after all of them"}
    shown = {
        f"{subject}, {words}": {"size_mb": numbers[metric]}
        for subject, numbers in subjects_of(members).items()
        for metric, words in names.items()
    }
    return [charts.bars(shown, "size_mb", about)]


# The page


@dataclass(frozen=True)
class Part:
    """One function of tests/benchmarks: a heading, a text, and a tab for each parameter."""

    function: str
    title: str
    words: str
    draw: Draw = boxes
    tabs: Mapping[str, str] = field(default_factory=dict)
    """The heading of a tab by the parameter, in order; empty if the function has none."""
    within: str = ""
    """A second parameter, whose values share a chart: `[{within}-{tab}]` in a benchmark's name."""
    ratio: str = ""
    """The subject that ratios refer to, if it is not the first one."""


CONTEXTS = {
    "context of 0": "No context",
    "context of 3": "Context of 3 fields",
    "context of 20": "Context of 20 fields",
}
STORED = {
    "context of 0, decision of 5": "Decision of 5 fields",
    "context of 3, decision of 5": "The same, context of 3",
    "context of 0, decision of 50": "Decision of 50 fields",
}

PAGE: dict[str, tuple[Part, ...]] = {
    "A hit": (
        Part(
            "test_hit",
            "Each operation of RustPolicyCache",
            "One event loop of asyncio, and one request that is repeated.",
        ),
        Part(
            "test_hit_on_uvloop",
            "Each operation on uvloop",
            "The same operations on an event loop of uvloop.",
        ),
        Part(
            "test_hit_by_context",
            "A hit beside other caches",
            "One request that is repeated. This is the best case for sark-cache: `get` copies a"
            " dict that it has ready.",
            tabs=CONTEXTS,
        ),
        Part(
            "test_hit_of_no_two_alike",
            "A hit when every request differs from the one before",
            "300 requests take turns, and each has a decision of its own. `get` has to build a new"
            " dict for every hit.",
            tabs=CONTEXTS,
        ),
        Part(
            "test_hit_by_decision",
            "A hit by the size of the decision",
            "One request that is repeated, with a context of 3 fields.",
            tabs={
                "decision of 2": "Decision of 2 fields",
                "decision of 5": "5 fields",
                "decision of 50": "50 fields",
            },
        ),
    ),
    "A miss": (
        Part(
            "test_miss",
            "A miss beside other caches",
            "The request is not in the cache.",
            tabs=CONTEXTS,
        ),
    ),
    "A store": (
        Part(
            "test_set_of_a_fresh_entry",
            "A new entry",
            "The cache is far below its capacity.",
            tabs=STORED,
        ),
        Part(
            "test_overwriting_set",
            "An entry that is overwritten",
            "The same entry is stored again and again.",
            tabs=STORED,
        ),
        Part(
            "test_set_at_capacity",
            "A new entry when the cache is full",
            "Each store evicts another entry. aiocache is missing here: it has no capacity.",
            tabs=STORED,
        ),
    ),
    "A load": (
        Part(
            "test_lone_miss",
            "A miss that is evaluated and stored",
            "One task asks, and nobody else waits for the same decision. The loader returns at"
            " once, so the time is what caching adds to an evaluation.",
        ),
        Part(
            "test_stampede",
            "1,000 tasks that miss at once",
            "One evaluation serves all of them. The time is from the end of the evaluation until"
            " the last task has its decision.",
            bars("median_ms"),
            tabs={"asyncio": "asyncio", "uvloop": "uvloop"},
        ),
        Part(
            "test_waiters",
            "1,000 waiters on one and on four event loops",
            "The time is from the return of the loader until the last waiter continues. On four"
            " event loops, each loop has a thread of its own and 250 of the waiters.",
            bars("median_ms"),
            within="event loops",
        ),
    ),
    "A batch": (
        Part(
            "test_batch",
            "A request in a batch",
            "The time of one request in a `get_batch` of this size, beside single requests whose"
            " decisions are collected in a list.",
            tabs={"10": "10 requests", "100": "100 requests", "1000": "1,000 requests"},
        ),
        Part(
            "test_filter",
            "A list of 1,000 documents, all cached",
            "The time to find the documents that a user may read, among 1,000 whose decisions are"
            " cached.",
        ),
        Part(
            "test_filter_of_misses",
            "A list of 1,000 documents, none cached",
            "The same if no decision is cached. The policy engine takes 5 ms for a call, for one"
            " request or for many.",
        ),
    ),
    "Redis and threads": (
        Part(
            "test_single_hits",
            "A hit in the process, in a thread and on Redis",
            "Each hit is timed alone, which adds about 0.05 µs to it. The server is on the same"
            " machine, so no network is involved.",
            tabs={
                "asyncio-context of 0": "asyncio",
                "asyncio-context of 3": "asyncio, context of 3",
                "uvloop-context of 0": "uvloop",
                "uvloop-context of 3": "uvloop, context of 3",
            },
        ),
        Part(
            "test_redis",
            "Each operation of PolicyCache",
            "The server is reached by loopback TCP. For comparison: the bare client, which gives"
            " no guarantee about revocations, and a hit of `RustPolicyCache`.",
        ),
        Part(
            "test_nobody_answers",
            "A request while Redis does not answer",
            "The circuit of `PolicyCache` is open, so a request makes no round trip.",
        ),
    ),
    "Many entries": (
        Part(
            "test_hit_in_order",
            "A hit by the number of entries",
            "The tabs differ in the order of the requests: uniform, by Zipf's law with an exponent,"
            " and by Zipf's law with scans over all entries. The baseline looks up a dict with as"
            " many entries in the same order, so its time contains the same waits for memory.",
            over_entries,
            tabs={
                "uniform": "Uniform",
                "Zipf 0.9": "Zipf 0.9",
                "Zipf 1.1": "Zipf 1.1",
                "scan-mixed": "Zipf 0.9 with scans",
            },
            within="entries",
        ),
        Part(
            "test_growth",
            "A hit among 10,000 and among 1,000,000 entries",
            "Requests come in random order.",
            bars("median_us"),
            ratio="the baseline with as many entries",
        ),
    ),
    "Invalidation": (
        Part(
            "test_invalidation_of_a_million_entries",
            "One user is revoked among 1,000,000 entries",
            "The revocation is in effect when the call returns. The entries are removed later by a"
            " thread of its own; the heartbeat shows how much that delays a task that wakes every"
            " millisecond.",
            call_and_heartbeats,
        ),
        Part(
            "test_hit_among_a_million_entries",
            "A hit after 10,000 invalidations",
            "A small cache without invalidations, beside a large one after many.",
        ),
    ),
    "Threads": (
        Part(
            "test_threads",
            "Operations per second by the number of threads",
            "Each thread has an event loop of its own, and all share one cache and one interpreter"
            " lock.",
            over_threads,
            tabs={"0": "Hits only", "10": "10 % stores"},
            ratio="the same subject on one thread",
        ),
    ),
    "Memory": (
        Part(
            "test_bytes_per_entry",
            "Resident memory and garbage collection",
            "Bytes per entry, then the time of one `gc.collect()` with all entries in the cache."
            " A decision has 145 bytes as JSON, and a key has 60.",
            bars("bytes_per_entry", "gc_ms"),
            tabs={"300000": "300,000 entries", "1000000": "1,000,000 entries"},
        ),
        Part(
            "test_collection",
            "A garbage collection beside an empty cache",
            "One full `gc.collect()` of the same process.",
        ),
        Part(
            "test_churn",
            "Resident memory over 10,000,000 operations",
            "The cache is full, and decisions of all lengths come and go.",
            resident_size,
        ),
    ),
    "Hit ratio": (
        Part(
            "test_hit_ratio",
            "Hits by eviction policy and capacity",
            "The tabs differ in the trace of requests: by Zipf's law with an exponent, the same"
            " with scans over keys that are requested once, loops over more keys than fit, a hot"
            " set that changes, and a mix of these. No policy can have more hits than Bélády's"
            " optimum, which knows the future.",
            over_capacity,
            tabs={
                "Zipf 0.7": "Zipf 0.7",
                "Zipf 0.9": "Zipf 0.9",
                "Zipf 1.1": "Zipf 1.1",
                "Zipf 0.9 with scans": "Zipf 0.9 with scans",
                "loops": "Loops",
                "shifting hot set": "Shifting hot set",
                "mix": "Mix",
            },
        ),
    ),
    "HTTP": (
        Part(
            "test_requests_per_second",
            "Requests per second of the example gateway",
            "One uvicorn worker on a core of its own. An empty dependency shows what FastAPI"
            " itself takes for any dependency.",
            bars("requests_per_second"),
            tabs={"asyncio-h11": "asyncio, h11", "uvloop-httptools": "uvloop, httptools"},
        ),
    ),
}
"""The headings of the sections, each with its parts."""


def members_of(part: Part, tab: str, benchmarks: Mapping[str, dict]) -> dict[str, dict]:
    """Returns the benchmarks that a tab shows, by the parameter in which they differ."""
    found = {}
    for name, benchmark in benchmarks.items():
        function, _, parameters = name.removesuffix("]").partition("[")
        if function == part.function and (not tab or f"-{parameters}".endswith(f"-{tab}")):
            found[parameters.removesuffix(tab).removesuffix("-")] = benchmark
    if not part.within:
        return found
    keys = sorted(found, key=lambda key: int(re.sub(r"\D", "", key)))
    return {re.sub(r"[^\d,]", "", key): found[key] for key in keys}


def without_place(report: Mapping[str, dict]) -> list[str]:
    """Returns the benchmarks of the report that the page does not show."""
    shown = {
        id(benchmark)
        for parts in PAGE.values()
        for part in parts
        for tab in part.tabs or [""]
        for benchmark in members_of(part, tab, report["benchmarks"]).values()
    }
    return [name for name, one in report["benchmarks"].items() if id(one) not in shown]
