"""The optimum equals the result of an exhaustive search."""

import random
from collections.abc import Sequence
from functools import cache

from optimum import most_hits


def test_the_optimum_is_the_best_of_all_ways_to_evict():
    chance = random.Random(5)
    for _ in range(300):
        trace = chance.choices("abcde", k=10)
        for capacity in range(4):
            assert most_hits(trace, capacity) == best_of_all_ways(trace, capacity)


def best_of_all_ways(trace: Sequence[str], capacity: int) -> int:
    @cache
    def best_from(start: int, held: frozenset[str]) -> int:
        if start == len(trace):
            return 0
        key = trace[start]
        with_it = held | {key}
        kept = [with_it] if len(with_it) <= capacity else [with_it - {gone} for gone in with_it]
        return (key in held) + max(best_from(start + 1, after) for after in kept)

    return best_from(0, frozenset())
