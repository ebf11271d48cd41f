"""Awaited subjects taking turns, each in an event loop of its own and timed from within it.

From without, entering and leaving the loop would count as the subject's: 40 µs, with
`asyncio.Runner.run` 0.2 ms, which draws every ratio towards 1. In a loop of its own, what a subject
does in the background falls on itself alone. Turns are of some hundred calls: those that another
process interrupts are then few, and a median passes over them.
"""

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from time import perf_counter, perf_counter_ns
from typing import Any

from field import Subject

try:
    from uvloop import new_event_loop as new_uvloop
except ImportError:  # there is none for Windows
    LOOPS = {"asyncio": asyncio.new_event_loop}
else:
    LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": new_uvloop}


class Hosted:
    """A subject and how to run something in the event loop that it lives in."""

    def __init__(self, make: Callable[[], Subject], runner: asyncio.Runner):
        self.run = runner.get_loop().run_until_complete
        self.subject = self.run(self._made(make))

    def close(self):
        self.run(self.subject.close())

    @staticmethod
    async def _made(make: Callable[[], Subject]):
        return make()


@contextmanager
def hosted(
    subjects: Mapping[str, Callable[[], Subject]], loop: str = "asyncio"
) -> Iterator[dict[str, Hosted]]:
    """Each subject, made within an event loop of its own, which ends with it."""
    with ExitStack() as stack:
        hosts: dict[str, Hosted] = {}
        for name, make in subjects.items():
            runner = stack.enter_context(asyncio.Runner(loop_factory=LOOPS[loop]))
            hosts[name] = Hosted(make, runner)
            stack.callback(hosts[name].close)
        yield hosts


# What one awaited call takes, in seconds


async def look_ups(keys: Sequence[Any], decisions: Mapping[Any, Any]):
    """The floor: the least that any awaited look-up takes."""

    async def look_up(key: Any):
        return decisions[key]

    started = perf_counter()
    for key in keys:
        await look_up(key)
    return (perf_counter() - started) / len(keys)


FLOOR = "baseline: async def returning d[k]"


async def gets(get: Callable[..., Awaitable[object]], requests: Sequence[tuple[Any, ...]]):
    """Of requests of a user, an action, a resource and a context."""
    started = perf_counter()
    for user, action, resource, context in requests:
        await get(user, action, resource, context)
    return (perf_counter() - started) / len(requests)


async def sets(put: Callable[..., Awaitable[object]], entries: Sequence[tuple[Any, ...]]):
    """Of entries of a user, an action, a resource, a decision and a context."""
    started = perf_counter()
    for user, action, resource, decision, context in entries:
        await put(user, action, resource, decision, context)
    return (perf_counter() - started) / len(entries)


async def calls(call: Callable[[], Awaitable[object]], times: int):
    """Of calls without arguments."""
    started = perf_counter()
    for _ in range(times):
        await call()
    return (perf_counter() - started) / times


async def single_gets(get: Callable[..., Awaitable[object]], requests: Sequence[tuple[Any, ...]]):
    """Of each request by itself; the clock adds some 50 ns to each."""
    taken: list[float] = []
    for user, action, resource, context in requests:
        started = perf_counter_ns()
        await get(user, action, resource, context)
        taken.append((perf_counter_ns() - started) / 1e9)
    return taken


# Comparing


def take_single_turns(
    benchmark, keep, turns: Mapping[str, Callable[[], list[float]]], *, rounds: int
):
    """Keeps percentiles of all that the turns return, and their ratios to the first's.

    Unlike with `take_turns`, a sample is one call.
    """
    taken: dict[str, list[float]] = {name: [] for name in turns}

    def turn(into: dict[str, list[float]]):
        for name, take_turn in turns.items():
            into[name] += take_turn()

    turn({name: [] for name in turns})  # warms up
    benchmark.pedantic(turn, args=(taken,), rounds=rounds)
    results = {name: percentiles(each) for name, each in taken.items()}
    first = next(iter(results.values()))
    for of_each in results.values():
        of_each["ratio"] = of_each["median_us"] / first["median_us"]
        of_each["p95_ratio"] = of_each["p95_us"] / first["p95_us"]
        of_each["p99_ratio"] = of_each["p99_us"] / first["p99_us"]
    keep(results, rounds=rounds)


def percentiles(taken: list[float]) -> dict[str, float]:
    """Of seconds, in microseconds."""
    hundredths = statistics.quantiles(taken, n=100, method="inclusive")
    names = {"median_us": 50, "p5_us": 5, "p25_us": 25, "p75_us": 75, "p95_us": 95, "p99_us": 99}
    return {name: hundredths[number - 1] * 1e6 for name, number in names.items()}
