"""How long a hit takes, beside the least that any awaited look-up in Python takes."""

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
        "await cache.get(), hit": lambda: gets(cache.get, [PLAIN] * AWAITS),
        "the same with a 3-field context": lambda: gets(cache.get, [WITH_CONTEXT] * AWAITS),
        "await cache.get_decision(), hit": lambda: gets(cache.get_decision, [PLAIN] * AWAITS),
        "get_decision() with a 3-field context": lambda: gets(
            cache.get_decision, [WITH_CONTEXT] * AWAITS
        ),
        "await cache.get_or_load(), hit": lambda: calls(get_or_load, AWAITS),
        "await cache.get(), miss": lambda: gets(cache.get, [MISSED] * AWAITS),
        "await cache.set(), overwriting": lambda: sets(cache.set, [ENTRY] * AWAITS),
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
    """What each operation of RustPolicyCache takes."""
    compare_operations(take_turns, "asyncio")


@pytest.mark.benchmark(group="hit")
@pytest.mark.skipif("uvloop" not in LOOPS, reason="there is no uvloop for Windows")
def test_hit_on_uvloop(take_turns):
    """What each operation of RustPolicyCache takes, in an event loop of uvloop's."""
    compare_operations(take_turns, "uvloop")
