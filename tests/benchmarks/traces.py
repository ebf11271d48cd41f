"""Generated request traces, equal in every run: all draws use a fixed seed.

A trace is a list of `REQUESTS` keys. Zipf is the popularity that Breslau et al. found in web
requests (exponents 0.64 to 0.83, INFOCOM 1999) and that YCSB (0.99) and the caching literature
adopted. Eviction policies differ in scans, loops and shifting hot sets. LRU keeps nothing of a loop
larger than its capacity and loses popular keys in a scan. A policy by frequency alone keeps keys
that used to be popular.
"""

import random
from collections.abc import Callable, Iterator
from itertools import accumulate, count, cycle, islice

REQUESTS = 240_000
KEYS = 40_000

Trace = list[int]


def zipf(exponent: float) -> Trace:
    """Returns a trace of `KEYS` keys; the k-th most popular is requested in proportion to
    k^-exponent."""
    return draws(exponent, random.Random(1), REQUESTS)


def zipf_with_scans() -> Trace:
    """Returns Zipf 0.9, with a scan of 4,000 keys that never recur after every 8,000 requests."""
    popular, once = iter(draws(0.9, random.Random(2), REQUESTS)), count(KEYS)
    trace: Trace = []
    while len(trace) < REQUESTS:
        trace += islice(popular, 8_000)
        trace += islice(once, 4_000)
    return trace


def loops() -> Trace:
    """Returns loops over the first 1.1, 2.2, 5.5, 11, 22 and 100 % of 20,000 keys, each repeated.

    So for every capacity, one of the loops is just too large.
    """
    keys, lengths = 20_000, (220, 440, 1_100, 2_200, 4_400, 20_000)
    each = REQUESTS // len(lengths)
    return [key for length in lengths for key in islice(cycle(range(min(length, keys))), each)]


def shifting_hot_set() -> Trace:
    """Returns a trace with 90 % of the requests for 1,000 hot keys, which change every 24,000
    requests.

    The rest goes to any of `KEYS` keys. Both are uniform.
    """
    chance = random.Random(3)
    hot: list[int] = []
    trace: Trace = []
    for i in range(REQUESTS):
        if i % 24_000 == 0:
            hot = chance.sample(range(KEYS), 1_000)
        trace.append(chance.choice(hot) if chance.random() < 0.9 else chance.randrange(KEYS))
    return trace


def mix() -> Trace:
    """Returns half Zipf 0.9, a fifth shifting hot sets, a fifth loops, a tenth keys requested once.

    Each part has its own keys; the part of each request is drawn at random.
    """
    chance = random.Random(4)
    parts: list[Iterator[int]] = [iter(zipf(0.9)), iter(shifting_hot_set()), iter(loops()), count()]
    drawn = chance.choices(range(len(parts)), (50, 20, 20, 10), k=REQUESTS)
    return [next(parts[part]) * len(parts) + part for part in drawn]


def draws(exponent: float, chance: random.Random, number: int) -> Trace:
    """Returns independent draws of keys `0 … KEYS - 1`, Zipf-distributed."""
    weights = accumulate(rank**-exponent for rank in range(1, KEYS + 1))
    return chance.choices(range(KEYS), cum_weights=list(weights), k=number)


TRACES: dict[str, Callable[[], Trace]] = {
    "Zipf 0.7": lambda: zipf(0.7),
    "Zipf 0.9": lambda: zipf(0.9),
    "Zipf 1.1": lambda: zipf(1.1),
    "Zipf 0.9 with scans": zipf_with_scans,
    "loops": loops,
    "shifting hot set": shifting_hot_set,
    "mix": mix,
}
