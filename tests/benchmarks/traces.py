"""Generated request traces, each the same in every run: what is drawn is drawn from a fixed seed.

A trace is a list of `REQUESTS` keys. Zipf is the popularity that Breslau et al. found in web
requests (exponents 0.64 to 0.83, INFOCOM 1999) and that YCSB (0.99) and the caching literature
took on. Scans, loops and shifting hot sets are what the eviction policies differ in: LRU keeps
nothing of a loop larger than itself and forgets what is popular over a scan; a policy by frequency
alone holds on to what was popular before.
"""

import random
from collections.abc import Callable, Iterator
from itertools import accumulate, count, cycle, islice

REQUESTS = 240_000
KEYS = 40_000

Trace = list[int]


def zipf(exponent: float) -> Trace:
    """`KEYS` keys; the k-th most popular is asked for in proportion to k^-exponent."""
    return draws(exponent, random.Random(1), REQUESTS)


def zipf_with_scans() -> Trace:
    """Zipf 0.9, and after every 8,000 requests a scan of 4,000 keys that are never asked again."""
    popular, once = iter(draws(0.9, random.Random(2), REQUESTS)), count(KEYS)
    trace: Trace = []
    while len(trace) < REQUESTS:
        trace += islice(popular, 8_000)
        trace += islice(once, 4_000)
    return trace


def loops() -> Trace:
    """The first 1.1, 2.2, 5.5, 11, 22 and 100 % of 20,000 keys, each asked in turn over and over.

    So whichever capacity a cache has, one of the loops is just too large for it.
    """
    keys, lengths = 20_000, (220, 440, 1_100, 2_200, 4_400, 20_000)
    each = REQUESTS // len(lengths)
    return [key for length in lengths for key in islice(cycle(range(min(length, keys))), each)]


def shifting_hot_set() -> Trace:
    """90 % of the requests go to 1,000 hot keys, which are others after every 24,000 requests.

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
    """Half Zipf 0.9, a fifth a shifting hot set, a fifth loops, a tenth keys asked for once.

    Each has keys of its own; which of them a request comes from is drawn for each request.
    """
    chance = random.Random(4)
    parts: list[Iterator[int]] = [iter(zipf(0.9)), iter(shifting_hot_set()), iter(loops()), count()]
    drawn = chance.choices(range(len(parts)), (50, 20, 20, 10), k=REQUESTS)
    return [next(parts[part]) * len(parts) + part for part in drawn]


def draws(exponent: float, chance: random.Random, number: int) -> Trace:
    """So many independent draws of keys `0 … KEYS - 1`, Zipf-distributed."""
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
