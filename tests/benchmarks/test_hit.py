"""The time of a hit, compared with the shortest awaited look-up in Python."""

import pytest

from sark_cache import RustPolicyCache
from turns import FLOOR, LOOPS, calls, gets, hosted, look_ups, sets
from workloads import REQUEST, context, decision

AWAITS, ROUNDS = 500, 400
CONTEXT, DECISION = context(3), decision(5)
PLAIN, WITH_CONTEXT, MISSED = (*REQUEST, None), (*REQUEST, CONTEXT), (*REQUEST[:2], "another", None)
ENTRY = (*REQUEST, DECISION, None)


async def load():
    raise AssertionError


def operations(cache: RustPolicyCache):
    def get_or_load():
        return cache.get_or_load(*REQUEST, load)

    return {
        FLOOR: lambda: look_ups(["key"] * AWAITS, {"key": DECISION}),
        "RustPolicyCache.get(), a hit": lambda: gets(cache.get, [PLAIN] * AWAITS),
        "RustPolicyCache.get(), a hit, 3-field context": lambda: gets(
            cache.get, [WITH_CONTEXT] * AWAITS
        ),
        "RustPolicyCache.get_decision(), a hit": lambda: gets(cache.get_decision, [PLAIN] * AWAITS),
        "RustPolicyCache.get_decision(), a hit, 3-field context": lambda: gets(
            cache.get_decision, [WITH_CONTEXT] * AWAITS
        ),
        "RustPolicyCache.get_or_load(), a hit": lambda: calls(get_or_load, AWAITS),
        "RustPolicyCache.get(), a miss": lambda: gets(cache.get, [MISSED] * AWAITS),
        "RustPolicyCache.set(), overwriting": lambda: sets(cache.set, [ENTRY] * AWAITS),
    }


def compare_operations(take_turns, loop):
    with hosted({"cache": RustPolicyCache}, loop) as hosts:
        cache, run = hosts["cache"].subject, hosts["cache"].run
        for asked in (PLAIN, WITH_CONTEXT):
            assert run(cache.set(*REQUEST, DECISION, asked[3]))
        turns = {name: lambda call=call: run(call()) for name, call in operations(cache).items()}
        take_turns(turns, rounds=ROUNDS, per_call=AWAITS)
        assert cache.metrics.hits == 5 * cache.metrics.misses


@pytest.mark.benchmark(group="hit")
def test_hit(take_turns):
    """Each operation of RustPolicyCache."""
    compare_operations(take_turns, "asyncio")


@pytest.mark.benchmark(group="hit")
@pytest.mark.skipif("uvloop" not in LOOPS, reason="there is no uvloop for Windows")
def test_hit_on_uvloop(take_turns):
    """Each operation of RustPolicyCache, in an event loop of uvloop."""
    compare_operations(take_turns, "uvloop")
