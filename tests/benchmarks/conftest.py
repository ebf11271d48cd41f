"""Ratios inside one run: subjects take turns, so that a machine that slows down slows all of them.

A benchmark is marked with its group, has a docstring that names the measured quantity, and ends in
`compare`, in `take_turns` or in `keep`. The numbers that they keep are printed at the end.
`--report` saves them for the report, `--compare` shows them next to saved ones. pytest-benchmark
has a row for each subject that takes turns.
"""

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from report import environment, saved

WARM_UP = 3
LONGEST_SECONDS = 1_200
PROPERTY = "benchmark"
ENVIRONMENT, COMPARED = pytest.StashKey[dict](), pytest.StashKey[dict]()
THERE = pytest.StashKey[set[str]]()


def pytest_addoption(parser):
    parser.addoption(
        "--report",
        action="store_true",
        help=f"save what is measured in {saved.REPORT}, beside the last results of what is not",
    )
    parser.addoption(
        "--compare",
        nargs="?",
        const=str(saved.REPORT),
        metavar="FILE",
        help="print each ratio beside that of a saved report (default: the last one)",
    )


def pytest_configure(config):
    if config.getoption("--report"):
        config.stash[ENVIRONMENT] = here = environment.environment()
        # Fail now and not at the end, after half an hour.
        if complaint := saved.of_another_machine(saved.load(), here):
            raise pytest.UsageError(complaint)
    if compared := config.getoption("--compare"):
        config.stash[COMPARED] = saved.load(Path(compared))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Records the names of all benchmarks before `-k` deselects some, if all are collected.

    Some benchmarks take minutes, so the time-out of the tests is not for them.
    """
    for item in items:
        item.add_marker(pytest.mark.timeout(LONGEST_SECONDS))
    if [Path(path).resolve() for path in config.args] == [Path(__file__).parent]:
        config.stash[THERE] = {item.name for item in items}


@pytest.fixture
def compare(take_turns):
    """Times subjects in turn; the first is the one that the others are compared with.

    `before` is called, untimed, before a subject's turn. `per_call` is the number of operations in
    one call of a subject.
    """

    def compare(
        subjects: dict[str, Callable[[], object]],
        *,
        rounds: int,
        per_call: int = 1,
        before: dict[str, Callable[[], object]] | None = None,
    ):
        def turn_of(name, subject):
            def turn():
                if before:
                    before[name]()
                started = time.perf_counter()
                subject()
                return (time.perf_counter() - started) / per_call

            return turn

        turns = {name: turn_of(name, subject) for name, subject in subjects.items()}
        return take_turns(turns, rounds=rounds, per_call=per_call)

    return compare


@pytest.fixture
def take_turns(benchmark, keep):
    """Lets subjects take turns that time themselves; each returns the seconds of one operation.

    Percentiles are those of the returned seconds, ratios those within each round.
    """

    def take_turns(turns: Mapping[str, Callable[[], float]], *, rounds: int, per_call: int = 1):
        times: dict[str, list[float]] = {name: [] for name in turns}

        def turn():
            for name, timed in turns.items():
                times[name].append(timed())

        benchmark.pedantic(turn, rounds=rounds, warmup_rounds=WARM_UP)
        times = {name: taken[WARM_UP:] for name, taken in times.items()}
        first = next(iter(times.values()))
        results = {
            name: {
                **percentiles(taken),
                "ratio": statistics.median(a / b for a, b in zip(taken, first, strict=True)),
            }
            for name, taken in times.items()
        }
        keep(results, rounds=rounds, per_call=per_call)
        give_rows(benchmark, times, results)
        return results

    return take_turns


def percentiles(taken: list[float]) -> dict[str, float]:
    """Returns percentiles of seconds, in microseconds."""
    twentieths = statistics.quantiles(taken, n=20, method="inclusive")
    names = {"median_us": 10, "p5_us": 1, "p25_us": 5, "p75_us": 15, "p95_us": 19}
    return {name: twentieths[number - 1] * 1e6 for name, number in names.items()}


def give_rows(benchmark, times, results):
    """Makes pytest-benchmark tabulate, save and compare each subject instead of whole turns."""
    of_turns = benchmark.stats
    name, fullname = of_turns.name, of_turns.fullname
    for subject, taken in times.items():
        first = of_turns.name == name
        row = of_turns if first else copy.copy(of_turns)
        row.name, row.fullname = f"{name}: {subject}", f"{fullname}: {subject}"
        row.extra_info = results[subject]
        row.stats = type(of_turns.stats)()
        row.stats.data = taken
        if not first:
            benchmark._add_stats(row)


@pytest.fixture
def keep(benchmark, request):
    """Keeps the results of a benchmark, by subject and number, if it passes."""
    assert benchmark.group, "mark it: @pytest.mark.benchmark(group=…)"
    subjects: dict[str, dict[str, float]] = {}
    kept = {
        "group": benchmark.group,
        "name": request.node.name,
        "title": " ".join((request.function.__doc__ or "").split()),
        "subjects": subjects,
    }
    assert kept["title"], "say in its docstring what it measures"
    request.node.user_properties.append((PROPERTY, kept))

    def keep(results: dict[str, dict[str, float]], **how: float):
        kept.update(how)
        benchmark.extra_info.update(results)
        for subject, numbers in results.items():
            subjects.setdefault(subject, {}).update(numbers)

    return keep


def pytest_terminal_summary(terminalreporter, config):
    passed = terminalreporter.stats.get("passed", [])
    measured = [kept for test in passed for name, kept in test.user_properties if name == PROPERTY]
    compared = config.stash.get(COMPARED, None)
    for benchmark in measured:
        terminalreporter.write_line(f"\n{benchmark['name']} ({benchmark['group']})")
        for subject, numbers in benchmark["subjects"].items():
            shown = "".join(f"  {name} {number:.3f}" for name, number in numbers.items())
            terminalreporter.write_line(f"  {subject:60}{shown}")
            then = saved.ratio_then(compared, benchmark, subject) if compared else None
            if then and "ratio" in numbers:
                change = f"ratio then {then:.3f}, now {numbers['ratio'] / then - 1:+.1%}"
                terminalreporter.write_line(f"  {'':60}  {change}")
    if measured and config.getoption("--report"):
        there = config.stash.get(THERE, None)
        saved.save(saved.merged(saved.load(), measured, config.stash[ENVIRONMENT], there))
        terminalreporter.write_line(f"\nsaved in {saved.REPORT}")
