"""Measures a fleet of tiered caches: revocations, idle readers, and a reader that was away.

`python tests/benchmarks/fleet.py [--save FILE]`, with `PYTHONPATH=tests/support:tests/benchmarks`.

Each process has one tiered cache that serves hits. The revoking process has one, too, and knows the
log for a span before the first measurement. Every reader of the idle fleet has its own thread and
connections, as in a process of its own; ten of them share a process, to fit on one machine.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from counted_hits import count_hits
from sark_cache import TieredPolicyCache
from sark_cache.backends.redis.log import InvalidationLog
from sark_cache.backends.redis.settle import FIRST_PAUSE_SECONDS, PAUSE_GROWTH
from servers import Server
from tiers import tier

PROCESSES = (4, 32)
RATES = (1, 10, 100)
"""Revocations in a second."""
SECONDS = 10.0
"""The time for each rate."""
SLOWEST = 30
"""The minimum number of revocations for each rate."""
IDLE_READERS = 200
READERS_OF_A_PROCESS = 10
IDLE_SECONDS = 20.0

MEMBER = """
import asyncio, sys
from tiers import tier

async def main(url, readers):
    caches = [tier(url, max_staleness=1.0) for _ in range(readers)]
    for cache in caches:
        assert await cache.confirm()
        await cache.set("alice", "read", "doc", {"allow": True})
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for cache in caches:
        await cache.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


AWAY = """
import asyncio, json, resource, sys, time
from tiers import tier

async def main(url):
    cache = tier(url, max_size=100_000, max_staleness=1.0)
    assert await cache.confirm()
    for number in range(50_000):
        await cache.set(f"kept-{number}", "read", "doc", {"allow": True})
    gaps = []
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("ready", flush=True)
    seen = time.monotonic()
    while not ended.done():
        await asyncio.sleep(0.001)
        now = time.monotonic()
        if now - seen > 0.005:
            gaps.append((seen, now))
        seen = now
    applied = cache.metrics.foreign_revocations
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([gaps, applied, cache.metrics.flushes, grown]), flush=True)
    await cache.close()

asyncio.run(main(sys.argv[1]))
"""

BARE = """
import re, socket, sys, threading

host, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()

def packed(*parts):
    sized = (b"$%d\\r\\n%b\\r\\n" % (len(one), one) for one in parts)
    return b"*%d\\r\\n" % len(parts) + b"".join(sized)

def read(after):
    return packed(b"XREAD", b"BLOCK", b"0", b"STREAMS", b"log", after)

def follow(connection):
    while received := connection.recv(65536):
        ids = re.findall(rb"[0-9]{10,}-[0-9]+", received)
        if ids:
            connection.sendall(packed(b"HSET", b"readers", name, ids[-1]) + read(ids[-1]))

connection = socket.create_connection((host, port))
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
connection.sendall(read(b"0-0"))
threading.Thread(target=follow, args=(connection,), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""
"""The least that a process can do: it reads news from a socket, and acknowledges them."""


@contextmanager
def fleet(url, processes, readers=1):
    """Starts processes with tiered caches, and provides them once all are registered."""
    with started([MEMBER, url, str(readers)] for _ in range(processes)) as members:
        yield members


@contextmanager
def started(programs):
    """Starts processes, each with a program and arguments. Provides them once all are ready."""
    with ExitStack() as stack:
        members = []
        for program in programs:
            member = subprocess.Popen(
                [sys.executable, "-c", *program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(member.wait)
            stack.callback(member.stdin.close)
            members.append(member)
        for member in members:
            assert member.stdout.readline() == "ready\n"
        yield members


async def revocations(cache, rate):
    """Returns the durations of revocations at a rate, in seconds, in rising order."""
    durations = []
    began = time.monotonic()
    count = max(SLOWEST, int(rate * SECONDS))
    rate = max(rate, SLOWEST / (3 * SECONDS))
    tasks = []

    async def revoke(number):
        called = time.perf_counter()
        await cache.invalidate(f"user-{number}")
        durations.append(time.perf_counter() - called)

    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        tasks.append(asyncio.create_task(revoke(number)))
    await asyncio.gather(*tasks)
    return sorted(durations)


def figures(durations):
    """Returns the figures of durations, in milliseconds."""

    def at(part):
        return durations[min(len(durations) - 1, int(part * len(durations)))]

    return {
        "revocations": len(durations),
        "p50_ms": round(1e3 * at(0.5), 2),
        "p99_ms": round(1e3 * at(0.99), 2),
        "longest_ms": round(1e3 * durations[-1], 2),
    }


async def measure_revocations(server):
    """Returns the figures for each number of processes and each rate."""
    found = {}
    for processes in PROCESSES:
        with fleet(server.url, processes) as members:
            async with TieredPolicyCache(server.url, command_timeout=5.0) as cache:
                assert await cache.confirm()
                await asyncio.sleep(1.2)
                for rate in RATES:
                    name = f"{processes} processes, {rate} revocations a second"
                    spent = spending(members, server)
                    found[name] = figures(await revocations(cache, rate))
                    if rate == max(RATES):  # the rest is mostly the cost of the confirmations
                        found[name] |= spent(found[name]["revocations"])
                    show(name, found[name])
                members[0].send_signal(signal.SIGSTOP)
                called = time.perf_counter()
                await cache.invalidate("alice")
                name = f"{processes} processes, one of them stopped"
                found[name] = {"ms": round(1e3 * (time.perf_counter() - called), 1)}
                show(name, found[name])
                members[0].send_signal(signal.SIGCONT)
        server.command("FLUSHALL")
    return found


def measure_bare_sockets(server):
    """Returns how long readers take to acknowledge that do nothing else, and have no cache."""
    at = urlsplit(server.url)
    durations = []
    processes = max(PROCESSES)
    programs = ([BARE, at.hostname, str(at.port), str(one)] for one in range(processes))
    with started(programs) as members:
        spent = spending(members, server)
        for _ in range(100):
            time.sleep(0.1)
            called = time.perf_counter()
            added = server.command("XADD", "log", "*", "r", '{"user_id": "alice"}')
            pause = FIRST_PAUSE_SECONDS
            while server.command("HVALS", "readers") != [added] * processes:
                time.sleep(pause)
                pause *= PAUSE_GROWTH
            durations.append(time.perf_counter() - called)
        found = {"processes": processes, **figures(sorted(durations)), **spent(len(durations))}
    server.command("FLUSHALL")
    show("bare sockets", found)
    return found


def cpu_seconds(pid):
    """Returns the processor time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spending(members, server):
    """Returns a function that takes a number of records, and returns the processor time of each."""
    before, of_server = [cpu_seconds(one.pid) for one in members], cpu_seconds(server.pid)

    def spent(records):
        after = [cpu_seconds(one.pid) for one in members]
        of_members = (sum(after) - sum(before)) / len(members)
        of_each = (cpu_seconds(server.pid) - of_server) / len(members)
        return {
            "cpu_ms_of_a_process": round(1e3 * of_members / records, 2),
            "cpu_ms_of_the_server_for_a_process": round(1e3 * of_each / records, 3),
        }

    return spent


def measure_idle_readers(server):
    """Returns the share of a core that idle readers cost the server, in percent."""
    with fleet(server.url, IDLE_READERS // READERS_OF_A_PROCESS, READERS_OF_A_PROCESS):
        time.sleep(2.0)
        before, began = cpu_seconds(server.pid), time.monotonic()
        time.sleep(IDLE_SECONDS)
        spent = cpu_seconds(server.pid) - before
        share = 100 * spent / (time.monotonic() - began)
    found = {"readers": IDLE_READERS, "max_staleness": 1.0, "percent_of_a_core": round(share, 2)}
    show("idle readers", found)
    return found


def measure_replay(server, records):
    """Returns how a process that was away catches up with records, and what that costs it."""
    member = subprocess.Popen(
        [sys.executable, "-c", AWAY, server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with member:
        assert member.stdout.readline() == "ready\n"
        member.send_signal(signal.SIGSTOP)
        log = InvalidationLog("")
        for start in range(0, records, 10_000):
            numbers = range(start, min(start + 10_000, records))
            revoked = ({"user_id": f"user-{number}"} for number in numbers)
            server.commands(*(log.append(record, with_decisions=True) for record in revoked))
        resumed = time.monotonic()
        member.send_signal(signal.SIGCONT)
        [[newest, _]] = server.command("XREVRANGE", log.key, "+", "-", "COUNT", 1)
        while newest not in server.command("HVALS", log.readers):
            time.sleep(0.001)
        caught_up = time.monotonic()
        member.stdin.write("\n")
        member.stdin.flush()
        gaps, applied, flushes, grown = json.loads(member.stdout.readline())
    blocked = max((end - max(begin, resumed) for begin, end in gaps if end > resumed), default=0.0)
    server.command("FLUSHALL")
    found = {
        "records": records,
        "applied": applied,
        "flushes": flushes,
        "seconds": round(caught_up - resumed, 3),
        "event_loop_blocked_ms": round(1e3 * blocked, 1),
        "memory_grown_mib": round(grown / 1024, 1),
    }
    show("replay", found)
    return found


async def measure_hits(server, turns=60, count=5_000):
    """Returns the median time of a hit with and without a tier, in nanoseconds, in one run."""
    from sark_cache import RustPolicyCache

    native, tiered = RustPolicyCache(), tier(server.url, max_staleness=1.0)
    assert await tiered.confirm()
    request = ("alice", "read", "doc:1")
    times = {"native": [], "tiered": []}
    for cache in (native, tiered):
        await cache.set(*request, {"allow": True, "reason": "owner"})
    for _ in range(turns):
        for name, cache in (("native", native), ("tiered", tiered)):
            get = cache.get_decision
            began = time.perf_counter_ns()
            for _ in range(count):
                await get(*request)
            times[name].append((time.perf_counter_ns() - began) / count)
    await tiered.close()
    medians = {f"{name}_ns": round(statistics.median(each), 1) for name, each in times.items()}
    differences = [one - other for one, other in zip(times["tiered"], times["native"], strict=True)]
    found = {**medians, "difference_ns": round(statistics.median(differences), 1)}
    show("hit, get_decision", found)
    return found


def show(name, found):
    """Prints the figures of one measurement."""
    sys.stdout.write(f"{name}: {json.dumps(found)}\n")
    sys.stdout.flush()


def main():
    """Measures all, and saves the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--save", type=Path, metavar="FILE", help="writes the figures as JSON")
    options = parser.parse_args()
    server = Server()
    try:
        found = {
            "hit": asyncio.run(measure_hits(server)),
            "counted_hits": count_hits(server.url),
            "revocations": asyncio.run(measure_revocations(server)),
            "bare_sockets": measure_bare_sockets(server),
            "replay": [measure_replay(server, records) for records in (10_000, 1_000_000)],
            "idle_readers": measure_idle_readers(server),
        }
    finally:
        server.stop()
    if options.save:
        options.save.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
