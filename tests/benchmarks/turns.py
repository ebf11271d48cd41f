"""Turns of awaited subjects, each in its own event loop and timed from within it.

From outside, entering and leaving the loop would count as the subject's: 40 µs, with
`asyncio.Runner.run` 0.2 ms, which draws every ratio towards 1. In its own loop, a subject pays for
its own background work. Turns have some hundred calls, so that another process interrupts few of
them, and a median ignores those.
"""

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from time import perf_counter, perf_counter_ns
from typing import Any

from field.subject import Subject

try:
    from uvloop import new_event_loop as new_uvloop
except ImportError:  # there is none for Windows
    LOOPS = {"asyncio": asyncio.new_event_loop}
else:
    LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": new_uvloop}


class Hosted:
    """A subject and a way to run coroutines in its event loop."""

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
    """Makes each subject within its own event loop, which is closed with it."""
    with ExitStack() as stack:
        hosts: dict[str, Hosted] = {}
        for name, make in subjects.items():
            runner = stack.enter_context(asyncio.Runner(loop_factory=LOOPS[loop]))
            hosts[name] = Hosted(make, runner)
            stack.callback(hosts[name].close)
        yield hosts


# Seconds of one awaited call


async def look_ups(keys: Sequence[Any], decisions: Mapping[Any, Any]):
    """Times the floor: the shortest awaited look-up."""

    async def look_up(key: Any):
        return decisions[key]

    started = perf_counter()
    for key in keys:
        await look_up(key)
    return (perf_counter() - started) / len(keys)


FLOOR = "baseline: async def returning d[k]"


async def gets(get: Callable[..., Awaitable[object]], requests: Sequence[tuple[Any, ...]]):
    """Times look-ups of requests: a user, an action, a resource and a context."""
    started = perf_counter()
    for user, action, resource, context in requests:
        await get(user, action, resource, context)
    return (perf_counter() - started) / len(requests)


async def sets(put: Callable[..., Awaitable[object]], entries: Sequence[tuple[Any, ...]]):
    """Times stores of entries: a user, an action, a resource, a decision and a context."""
    started = perf_counter()
    for user, action, resource, decision, context in entries:
        await put(user, action, resource, decision, context)
    return (perf_counter() - started) / len(entries)


async def calls(call: Callable[[], Awaitable[object]], times: int):
    """Times calls without arguments."""
    started = perf_counter()
    for _ in range(times):
        await call()
    return (perf_counter() - started) / times


async def single_gets(get: Callable[..., Awaitable[object]], requests: Sequence[tuple[Any, ...]]):
    """Times each request separately; the clock adds some 50 ns to each."""
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
    """Keeps percentiles of all samples of the turns, and their ratios to the first's.

    Unlike in `take_turns`, a sample is one call.
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
    """Returns percentiles of seconds, in microseconds."""
    hundredths = statistics.quantiles(taken, n=100, method="inclusive")
    names = {"median_us": 50, "p5_us": 5, "p25_us": 25, "p75_us": 75, "p95_us": 95, "p99_us": 99}
    return {name: hundredths[number - 1] * 1e6 for name, number in names.items()}
