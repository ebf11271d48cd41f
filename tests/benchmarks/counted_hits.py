"""Counts what a hit takes with and without a tier: instructions, and allocations.

Run as a program it serves hits, and ends: `counted_hits.py native|tiered HITS URL`. `count_hits`
runs it under valgrind with few and with many hits. So what the start takes is in both counts.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HITS = (1_000, 1_001_000)
"""The numbers of hits of the two runs, whose counts are compared."""
REQUEST = ("alice", "read", "doc:1")
ALLOCATES = re.compile(r"(mi_)?(heap_)?([mcz]|re|um)alloc")
"""The beginning of the names of the functions that allocate: of C, and of the compiled module."""


async def serve(kind, hits, url):
    """Serves hits of `get_decision`."""
    from sark_cache import RustPolicyCache, TieredPolicyCache

    cache = RustPolicyCache()
    if kind == "tiered":
        cache = TieredPolicyCache(url, max_staleness=60.0)  # so that few confirmations are counted
        assert await cache.confirm()
    await cache.set(*REQUEST, {"allow": True, "reason": "owner"})
    get = cache.get_decision
    for _ in range(hits):
        await get(*REQUEST)
    metrics = cache.metrics
    assert (metrics.hits, metrics.misses) == (hits, 0)
    await cache.close()


def count_hits(url):
    """Returns the instructions of a hit, native and tiered, and the calls that allocate memory.

    Only those of the thread that asks are counted. A call inside of another one counts, too.

    Args:
        url: The URL of the server.
    """
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is missing: install it to count instructions")
    found = {}
    for kind in ("native", "tiered"):
        few, many = (counted(kind, hits, url) for hits in HITS)
        for name in few:
            found[f"{kind}_{name}"] = round((many[name] - few[name]) / (HITS[1] - HITS[0]), 2)
    return found


def counted(kind, hits, url):
    """Returns the counts of one run."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        tool = ["--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={out}"]
        subprocess.run(
            ["valgrind", *tool, sys.executable, __file__, kind, f"{hits}", url],  # noqa: S607
            env={**os.environ, "PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"},
            capture_output=True,
            check=True,
        )
        return counts_of(Path(f"{out}-01").read_text(encoding="utf-8"))


def counts_of(profile):
    """Returns what a profile of callgrind has of one thread.

    A name stands beside its number only where it is first used.
    """
    names, called, allocations = {}, "", 0
    for line in profile.splitlines():
        if function := re.match(r"c?fn=(\(\d+\))(?: (.*))?", line):
            names.setdefault(function[1], function[2])
            called = names[function[1]]
        elif calls := re.match(r"calls=(\d+)", line):
            allocations += int(calls[1]) if ALLOCATES.match(called) else 0
    total = re.search(r"^(?:summary|totals): (\d+)", profile, re.MULTILINE)[1]
    return {"instructions": int(total), "allocations": allocations}


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
