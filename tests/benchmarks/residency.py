"""What a cache adds to the resident memory of a process of its own, and to its collections.

Run as a script, so that every subject begins from a clean heap: the arguments are the name of a
subject and a number of entries, or `churn` and a number of operations; the answer is JSON.

Resident is what the kernel counts (`Rss` of `/proc/self/smaps_rollup`, which is exact where `statm`
may be some pages behind). Both readings are taken after a collection and with the allocators as
they are: nothing is handed back to the system for the occasion and no arena is tuned. The first
one follows the very same workload generated and dropped, entry by entry, so the difference is what
storing it added: entries, tables, and whatever the cache needed on the way and did not give back.
"""

import asyncio
import gc
import json
import random
import statistics
import sys
import time
from pathlib import Path

from field import FIELD

ROLLUP = Path("/proc/self/smaps_rollup")
TTL = 3_600
COLLECTIONS, LONG_ENOUGH_MS = 15, 1_000
COMPARED_EVERY = 997
WARM_UP = 1_000

# Churn: twice as many keys as there is room for, so that about every other look-up finds one.
CAPACITY, KEYS = 50_000, 100_000
SAMPLES = 100


def resident():
    """Bytes of this process that are in memory; fails where the kernel does not say."""
    for line in ROLLUP.read_text(encoding="ascii").splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise LookupError(ROLLUP)


def request(i):
    """A user, an action and a resource of 60 bytes together."""
    return f"user{i:06}@example.com", "tool:invoke", f"server:jira/project-{i:07}"


def decision(i):
    """About 150 bytes as JSON, every field of its own; the list is that of a real policy's."""
    return {
        "allow": i % 10 != 0,
        "reason": f"analyst may invoke tools of project-{i:07}",
        "policy": f"tools/jira@v{i % 97}",
        "ttl": 300 + i % 600,
        "obligations": [f"audit:project-{i:07}"],
    }


def collection():
    """Milliseconds of a full collection: a median, of this thread's own time.

    What else the machine does is left out; nothing interrupts a collection but that.
    """
    taken = []
    while len(taken) < 3 or (len(taken) < COLLECTIONS and sum(taken) < LONG_ENOUGH_MS):
        started = time.thread_time()
        gc.collect()
        taken.append((time.thread_time() - started) * 1e3)
    return statistics.median(taken)


async def fill(cache, entries):
    for i in range(entries):
        await cache.set(*request(i), decision(i))


async def look_up(cache, entries):
    """Each entry once: a cache may keep something of what it handed out."""
    for i in range(entries):
        found = await cache.get(*request(i))
        assert found is not None
        if i % COMPARED_EVERY == 0:
            assert found == decision(i)


def generate(entries):
    for i in range(entries):
        assert request(i) != decision(i)


async def filled(subject, entries):
    """What so many entries take in a cache with room for as many."""
    # What is imported, started and allocated once for all caches of a process is not counted.
    warm = FIELD[subject](WARM_UP, TTL)
    await fill(warm, WARM_UP)
    await look_up(warm, WARM_UP)
    await warm.close()
    del warm
    generate(entries)
    empty_ms = collection()
    empty = resident()

    cache = FIELD[subject](entries, TTL)
    await fill(cache, entries)
    await look_up(cache, entries)
    full_ms = collection()
    full = resident()
    return {
        "bytes_per_entry": (full - empty) / entries,
        "gc_ms": full_ms,
        "gc_ratio": full_ms / empty_ms,
    }


async def churned(subject, operations):
    """How the resident size moves while decisions of all lengths come and go at capacity."""
    chance = random.Random(5)
    requests = [request(i) for i in range(KEYS)]
    cache = FIELD[subject](CAPACITY, TTL)
    sizes, hits, done = [], 0, 0
    for sample in range(1, SAMPLES + 1):
        while done < operations * sample // SAMPLES:
            i = int(chance.random() * KEYS)
            if await cache.get(*requests[i]) is not None:
                hits += 1
                done += 1
                continue
            # Of any length, or what was freed would fit exactly.
            reason = "x" * int(chance.random() * 200)
            await cache.set(*requests[i], decision(i) | {"reason": reason})
            done += 2
        gc.collect()
        sizes.append(resident())
    warm = sizes[SAMPLES // 10 :]
    return {
        "operations": done,
        "hit_ratio": hits / (hits + (done - hits) / 2),
        "first_mb": warm[0] / 1e6,
        "last_mb": warm[-1] / 1e6,
        "last_percent": (warm[-1] / warm[0] - 1) * 100,
        "max_percent": (max(warm) / warm[0] - 1) * 100,
    }


if __name__ == "__main__":
    what, subject, count = sys.argv[1:]
    measure = {"fill": filled, "churn": churned}[what]
    json.dump(asyncio.run(measure(subject, int(count))), sys.stdout)
