"""Ratios inside one run: subjects take turns, so that a machine that slows down slows all of them.

A benchmark calls `compare` with its subjects; medians and ratios to the first subject go into the
JSON that pytest-benchmark saves (`extra_info`) and are printed at the end.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

RESULTS = pytest.StashKey[dict[str, dict[str, dict[str, float]]]]()
WARM_UP = 3
REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "report.json"


def pytest_addoption(parser):
    parser.addoption("--report", action="store_true", help=f"save what was measured as {REPORT}")


@pytest.fixture
def compare(benchmark, keep):
    """Times subjects in turn; the first is what the others are compared with.

    `before` holds what is to be done, untimed, before a subject's turn. `per_call` is how many
    operations one call of a subject makes.
    """

    def compare(
        subjects: dict[str, Callable[[], object]],
        *,
        rounds: int,
        per_call: int = 1,
        before: dict[str, Callable[[], object]] | None = None,
    ):
        times: dict[str, list[float]] = {name: [] for name in subjects}

        def turn():
            for name, subject in subjects.items():
                if before:
                    before[name]()
                started = time.perf_counter()
                subject()
                times[name].append((time.perf_counter() - started) / per_call)

        benchmark.pedantic(turn, rounds=rounds, warmup_rounds=WARM_UP)
        times = {name: taken[WARM_UP:] for name, taken in times.items()}
        floor = next(iter(times.values()))
        results = {
            name: {
                "median_us": statistics.median(taken) * 1e6,
                "ratio": statistics.median(a / b for a, b in zip(taken, floor, strict=True)),
            }
            for name, taken in times.items()
        }
        keep(results)
        return results

    return compare


@pytest.fixture
def keep(benchmark, request):
    """Keeps what a benchmark measured, by subject and number, for the JSON and the summary."""

    def keep(results: dict[str, dict[str, float]]):
        benchmark.extra_info.update(results)
        request.config.stash.setdefault(RESULTS, {})[request.node.name] = results

    return keep


def pytest_terminal_summary(terminalreporter, config):
    measured = config.stash.get(RESULTS, {})
    for benchmark, results in measured.items():
        terminalreporter.write_line(f"\n{benchmark}")
        for subject, numbers in results.items():
            shown = "".join(f"  {name} {number:.3f}" for name, number in numbers.items())
            terminalreporter.write_line(f"  {subject:60}{shown}")
    if config.getoption("--report") and measured:
        REPORT.write_text(json.dumps(described(measured), indent=2) + "\n", encoding="utf-8")
        terminalreporter.write_line(f"\nsaved as {REPORT}")


def described(measured):
    """What was measured, and on what."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "results": measured,
    }
