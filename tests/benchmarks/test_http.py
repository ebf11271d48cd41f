"""The gateway over real HTTP: the requests per second that authorization costs, with and without
the cache.

One uvicorn worker runs on its own core; the requests come from this process, on another core.
"""

import asyncio
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from load import load

pytest.importorskip("regopy", reason="the gateway needs the extra [demo]")

HERE = Path(__file__).parent
SERVER = HERE / "gateways.py"
ROUNDS = 25
SECONDS = 0.35
"""Seconds of one turn of one gateway: short, so that a slower machine is slower for all of them."""
COMBINATIONS = 1_000
"""The number of pairs of a user and a tool, all of them allowed."""
SKEW = 1.1
"""The exponent of Zipf's law by which they are requested."""
PARAMETERS = json.dumps({"query": "invoices of March", "limit": 10}).encode()


@pytest.fixture(scope="module")
def allowed():
    """Returns users and tools that are allowed at any hour, and for longer than this benchmark
    takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE.parents[1] / "examples" / "gateway"))
        from engine import PolicyEngine, read

    users, tools = list(read("users")), read("tools")
    lasting = [
        name
        for name, tool in tools.items()
        if "hours" not in tool and tool["sensitivity"] != "critical"
    ]
    choose = random.Random(7)

    async def found(engine):
        pairs = set()
        while len(pairs) < COMBINATIONS:
            pair = choose.choice(users), choose.choice(lasting)
            context = {"hour": 12, "mfa": True}
            decision = (await engine.evaluate(pair[0], "invoke", pair[1], context)).decision
            if decision["allow"]:
                pairs.add(pair)
        return sorted(pairs)

    with closing(PolicyEngine()) as engine:
        return asyncio.run(found(engine))


def request(user, tool):
    return (
        f"POST /tools/{tool}/call HTTP/1.1\r\nhost: gateway\r\nx-user: {user}\r\nx-mfa: true\r\n"
        f"content-type: application/json\r\ncontent-length: {len(PARAMETERS)}\r\n\r\n"
    ).encode() + PARAMETERS


@contextmanager
def served(loop, http):
    """Starts the gateways under uvicorn; yields the port of each."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    command = [sys.executable, str(SERVER), loop, http, str(cores[-1])]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        if len(cores) > 1:
            os.sched_setaffinity(0, cores[:-1])
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
            if len(cores) > 1:
                os.sched_setaffinity(0, cores)


@pytest.mark.benchmark(group="http")
@pytest.mark.parametrize(("loop", "http"), [("asyncio", "h11"), ("uvloop", "httptools")])
def test_requests_per_second(benchmark, keep, allowed, loop, http):
    """Requests per second of the gateway on one uvicorn worker, without and with authorization."""
    pytest.importorskip(http)
    requests = [request(*pair) for pair in allowed]
    weights = [1 / rank**SKEW for rank in range(1, COMBINATIONS + 1)]
    asked = itertools.cycle(random.Random(7).choices(requests, weights, k=100_000))
    rates, latencies = {}, {}

    with served(loop, http) as ports:
        for port in ports.values():
            asyncio.run(load(port, iter(requests)))
        warm = metrics(ports)

        def turn():
            for gateway, port in ports.items():
                answers, seconds = asyncio.run(load(port, asked, seconds=SECONDS))
                rates.setdefault(gateway, []).append(len(answers) / seconds)
                latencies.setdefault(gateway, []).extend(answers)

        benchmark.pedantic(turn, rounds=ROUNDS)
        measured = metrics(ports)

    through_the_cache = sum(len(latencies[name]) for name in latencies if name.startswith("cached"))
    assert measured["hits"] - warm["hits"] + measured["misses"] - warm["misses"] == (
        through_the_cache
    )
    assert measured["hits"] - warm["hits"] >= 0.99 * through_the_cache
    unguarded = rates["baseline: no authorization"]
    keep(
        {
            gateway: {
                "requests_per_second": statistics.median(rates[gateway]),
                "ratio": statistics.median(
                    ours / theirs for ours, theirs in zip(rates[gateway], unguarded, strict=True)
                ),
                "p50_ms": statistics.median(latencies[gateway]) * 1e3,
                "p95_ms": statistics.quantiles(latencies[gateway], n=20)[-1] * 1e3,
            }
            for gateway in ports
        }
    )


def metrics(ports):
    """Returns the metrics of the policy cache that all of them share."""
    port = next(iter(ports.values()))
    return httpx.get(f"http://127.0.0.1:{port}/policy-cache/metrics").json()["cache"]
