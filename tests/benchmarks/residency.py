"""The resident memory and the collection time that a cache adds to a process.

Run as a script, so that every subject starts from a clean heap. The arguments are the name of a
subject and a number of entries, or `churn` and a number of operations; the output is JSON.

Resident is the kernel's figure (`Rss` of `/proc/self/smaps_rollup`, which is exact where `statm`
may be some pages behind). Both readings are taken after a collection and with unchanged allocators:
no memory is trimmed and no arena is tuned. Before the first one, the same workload is generated and
dropped, entry by entry. So the difference is the cost of storing it: entries, tables, and memory
that the cache needed on the way and did not return.
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

# Churn: twice as many keys as the capacity, so that about every other look-up hits.
CAPACITY, KEYS = 50_000, 100_000
SAMPLES = 100


def resident():
    """Returns the bytes of this process that are in memory; fails where the kernel does not report
    it."""
    for line in ROLLUP.read_text(encoding="ascii").splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise LookupError(ROLLUP)


def request(i):
    """Returns a user, an action and a resource of 60 bytes together."""
    return f"user{i:06}@example.com", "tool:invoke", f"server:jira/project-{i:07}"


def decision(i):
    """Returns a decision of about 150 bytes as JSON with separate fields; the list is from a real
    policy."""
    return {
        "allow": i % 10 != 0,
        "reason": f"analyst may invoke tools of project-{i:07}",
        "policy": f"tools/jira@v{i % 97}",
        "ttl": 300 + i % 600,
        "obligations": [f"audit:project-{i:07}"],
    }


def collection():
    """Returns the median milliseconds of a full collection, in this thread's own time.

    Other work of the machine is not counted, and nothing else interrupts a collection.
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
    """Looks up each entry once, since a cache may keep a part of a returned decision."""
    for i in range(entries):
        found = await cache.get(*request(i))
        assert found is not None
        if i % COMPARED_EVERY == 0:
            assert found == decision(i)


def generate(entries):
    for i in range(entries):
        assert request(i) != decision(i)


async def filled(subject, entries):
    """Returns the memory of a number of entries in a cache with that capacity."""
    # Memory that is imported, started and allocated once for all caches is not counted.
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
    """Returns the growth of the resident size while decisions of all lengths come and go."""
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
            # Of any length: otherwise freed memory would fit exactly.
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
