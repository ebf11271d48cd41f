"""The cost of 300,000 cached decisions for the garbage collector."""

import gc

import pytest

from awaiting import ready
from sark_cache import RustPolicyCache

ENTRIES = 300_000
TIMES = 20
DECISION = {"allow": True, "reason": "granted by role analyst", "policy": "tools", "ttl": 60}


@pytest.mark.benchmark(group="memory")
def test_collection(compare):
    """A full collection with nothing cached, with 300,000 decisions, and with all returned."""
    cache = RustPolicyCache(max_size=ENTRIES)

    def empty():
        nonlocal cache
        cache = RustPolicyCache(max_size=ENTRIES)
        gc.collect()

    def fill():
        for i in range(ENTRIES):
            cache.set("alice", "read", str(i), DECISION)
        assert ready(cache.get("alice", "read", str(ENTRIES - 1))) == DECISION
        gc.collect()

    def hand_out():
        for i in range(ENTRIES):
            assert ready(cache.get_decision("alice", "read", str(i))).allow
        gc.collect()

    def collections():
        for _ in range(TIMES):
            gc.collect()

    before = {
        "baseline: nothing cached": empty,
        "RustPolicyCache, 300,000 decisions": fill,
        "RustPolicyCache, each handed out by get_decision()": hand_out,
    }
    compare(dict.fromkeys(before, collections), before=before, rounds=7, per_call=TIMES)
