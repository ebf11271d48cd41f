"""Runs and measures the gateway: real HTTP, a real policy, and a revocation that takes effect.

python examples/gateway/demo.py [--requests N] [--clients N] [--serve] [--workers N]
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import httpx
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from engine import read
from workers import free_port, show_workers

HERE = Path(__file__).parent
START_SECONDS = 30
SKEW = 1.4
"""The exponent of Zipf's law by which users and tools are chosen: few are asked for often."""
MAX_WORKERS = 32
TURNS = 10
"""The number of turns that the requests with and without the cache take."""

Questions: TypeAlias = Iterator[dict[str, Any]]


@dataclass
class Phase:
    """The times of one run of requests: microseconds in the handler, milliseconds outside."""

    evaluations: list[float] = field(default_factory=list)
    hits: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)

    def note(self, answer: dict[str, Any], milliseconds: float) -> None:
        """Adds one answered request."""
        times = self.hits if answer["source"] == "cache" else self.evaluations
        times.append(answer["microseconds"])
        self.requests.append(milliseconds)


def questions(seed: int) -> Questions:
    """Yields endless questions: skewed users × tools, one in four with a context."""
    choose = random.Random(seed)  # noqa: S311 - a workload, not a secret
    users, tools = list(read("users")), list(read("tools"))
    weights = [[1 / rank**SKEW for rank in range(1, len(names) + 1)] for names in (users, tools)]
    while True:
        question = {
            "user": choose.choices(users, weights[0])[0],
            "action": choose.choice(["invoke", "invoke", "invoke", "describe"]),
            "resource": choose.choices(tools, weights[1])[0],
        }
        if choose.randrange(4) == 0:
            question["context"] = {"hour": choose.choice([10, 23]), "mfa": choose.random() < 0.9}
        yield question


async def run(client: httpx.AsyncClient, requests: int, clients: int) -> tuple[Phase, Phase]:
    """Sends `requests` requests with the cache and a quarter as many without; returns their times.

    They take turns, so that a machine that is busy for a while slows down both.
    """
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    without, cached = Phase(), Phase()
    with Progress(*columns) as progress:
        turns = []
        for phase, label, total in (
            (without, "policy every time", max(requests // 4, 1)),
            (cached, "cached", requests),
        ):
            bar = progress.add_task(label, total=total)
            asked = [questions(seed) for seed in range(clients)]
            turns.append((phase, total, bar, asked))

        async def send(phase: Phase, bar: TaskID, asked: Questions, counter: Iterator[int]) -> None:
            for _ in counter:
                body = {**next(asked), "use_cache": phase is cached}
                started = time.perf_counter()
                response = await client.post("/authorize", json=body)
                milliseconds = (time.perf_counter() - started) * 1e3
                phase.note(response.raise_for_status().json(), milliseconds)
                progress.advance(bar)

        for turn in range(TURNS):
            for phase, total, bar, asked in turns:
                counter = iter(range(total * turn // TURNS, total * (turn + 1) // TURNS))
                await asyncio.gather(*(send(phase, bar, each, counter) for each in asked))
    return without, cached


@contextlib.asynccontextmanager
async def served(
    workers: int = 1, environment: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[str]:
    """Runs the gateway under uvicorn on a free loopback port, and provides its URL.

    Args:
        workers: The number of processes.
        environment: Variables for these processes, in addition to the present ones.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "uvicorn", "app:create_app", "--factory"]
    command += ["--app-dir", str(HERE), "--port", str(port), "--log-level", "warning"]
    command += ["--workers", str(workers)]
    # Our own server, started once.
    process = subprocess.Popen(command, env={**os.environ, **environment})  # noqa: ASYNC220, S603
    try:
        await until_up(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=10)


async def until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    """Waits until the gateway answers; ends the demo if it never does."""
    deadline = time.monotonic() + START_SECONDS
    async with httpx.AsyncClient() as client:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                (await client.get(f"{url}/policy-cache/health")).raise_for_status()
                return
            await asyncio.sleep(0.05)
    sys.exit(f"the gateway did not start on {url} (exit code {process.poll()})")


def report(without: Phase, cached: Phase, metrics: dict[str, int | float]) -> Table:
    """Returns the table of the measurements."""
    table = Table(title="sark-cache in front of a Rego policy", title_justify="left")
    table.add_column("measured", no_wrap=True)
    for name in ("p50", "p95", "p99"):
        table.add_column(name, justify="right", no_wrap=True)

    def row(name: str, times: list[float], unit: str) -> None:
        quantiles = statistics.quantiles(times, n=100, method="inclusive")
        table.add_row(name, *(f"{quantiles[at - 1]:,.1f} {unit}" for at in (50, 95, 99)))

    row("policy evaluation, in the handler", without.evaluations + cached.evaluations, "µs")
    row("cache hit, in the handler", cached.hits, "µs")
    row("HTTP request, without the cache", without.requests, "ms")
    row("HTTP request, with the cache", cached.requests, "ms")
    table.add_section()
    table.add_row("hit rate", f"{metrics['hit_rate']:.1f} %")
    table.add_row(f"entries, at most {metrics['max_size']:,}", f"{metrics['size']:,}")
    table.add_row("evictions", f"{metrics['evictions']:,}")
    return table


async def revoke(client: httpx.AsyncClient, console: Console) -> None:
    """Revokes one user over HTTP, and shows that the policy denies the very next request."""
    question = {"user": "alice-1", "action": "invoke", "resource": "dataset-search"}

    async def ask() -> dict[str, Any]:
        answer: dict[str, Any] = (await client.post("/authorize", json=question)).json()
        verdict = "allowed" if answer["decision"]["allow"] else "denied"
        console.print(
            f"  alice-1 is {verdict} by the {answer['source']}: {answer['decision']['reason']}"
        )
        return answer

    console.print("\nRevoking a user:")
    await ask()
    before = await ask()
    removed = (await client.post("/users/alice-1/revoke")).json()["entries"]
    console.print(f"  POST /users/alice-1/revoke removed {removed} cached decisions")
    after = await ask()
    if (before["source"], before["decision"]["allow"]) != ("cache", True):
        sys.exit("alice-1 should have been allowed by the cache before she was revoked")
    if (after["source"], after["decision"]["allow"]) != ("policy", False):
        sys.exit("alice-1 was revoked and should have been denied by the policy")


async def main(options: argparse.Namespace) -> None:
    """Runs the demo."""
    console = Console()
    if options.workers > 1:
        await show_workers(options.workers, console, served)
        return
    async with served() as url:
        limits = httpx.Limits(max_connections=options.clients)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30) as client:
            without, cached = await run(client, options.requests, options.clients)
            metrics = (await client.get("/policy-cache/metrics")).json()["cache"]
            console.print(report(without, cached, metrics))
            await revoke(client, console)
        if options.serve:
            console.print(f"\nThe gateway is up at {url} (try {url}/docs); Ctrl-C ends it.")
            await asyncio.Event().wait()


def parsed() -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=8_000, help="requests with the cache")
    parser.add_argument("--clients", type=int, default=4, help="clients at once")
    parser.add_argument(
        "--workers", type=int, default=1, help="show a revocation in this many processes instead"
    )
    parser.add_argument("--serve", action="store_true", help="leave the gateway up afterwards")
    options = parser.parse_args()
    if options.requests < 100 or options.clients < 1:
        parser.error("--requests must be at least 100 and --clients at least 1")
    if not 1 <= options.workers <= MAX_WORKERS:
        parser.error(f"--workers must be 1 to {MAX_WORKERS}")
    if options.workers > 1 and not hasattr(signal, "SIGSTOP"):
        parser.error("--workers suspends a process, which this platform cannot do")
    return options


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(parsed()))
