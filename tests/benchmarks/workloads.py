"""Workloads: requests, contexts and decisions by size, and orders of requests.

Of Zipf's law, web caches see exponents of 0.64–0.83 (Breslau et al., Web Caching and Zipf-like
Distributions, INFOCOM 1999); 0.9 and 1.1 are those of fewer and busier clients.
"""

import random
from collections.abc import Iterator
from functools import cache
from itertools import accumulate, count, cycle, islice

REQUEST = ("alice@example.com", "tool:invoke", "server:jira/search")

CONTEXT = {
    "ip": "10.0.0.1",
    "mfa": True,
    "hour": 12,
    **{f"header_{number}": f"value {number}" for number in range(9)},
    **{f"count_{number}": number * 1000 for number in range(8)},
}
DECISION = {
    "allow": True,
    "reason": "granted by role analyst",
    "policy": "tools",
    "ttl": 60,
    "obligations": ["audit"],
    **{f"detail_{number}": f"because of rule {number}" for number in range(30)},
    **{f"weight_{number}": number for number in range(15)},
}


def context(fields: int):
    """Returns a context of 0 to 20 fields, the usual ones first; None for 0."""
    return dict(islice(CONTEXT.items(), fields)) or None


def decision(fields: int):
    """Returns a decision of 1 to 50 fields, the usual ones first; 5 fields are 99 bytes of JSON."""
    return dict(islice(DECISION.items(), fields))


def uniform(entries: int) -> Iterator[int]:
    """Yields every entry as often as every other."""
    draw = random.Random(1)
    while True:
        yield draw.randrange(entries)


def zipf(entries: int, exponent: float) -> Iterator[int]:
    """Yields the entry of rank r with a weight of r to the -exponent; ranks are in random order."""
    weights, ranked = _ranks(entries, exponent)
    draw = random.Random(1)
    while True:
        yield from draw.choices(ranked, cum_weights=weights, k=1_000)


def scan_mixed(entries: int) -> Iterator[int]:
    """Yields Zipf 0.9, and after each 1,000 requests the next 1,000 entries one by one."""
    popular, scan = zipf(entries, 0.9), cycle(range(entries))
    while True:
        yield from islice(popular, 1_000)
        yield from islice(scan, 1_000)


@cache
def _ranks(entries: int, exponent: float):
    weights = list(accumulate(rank**-exponent for rank in islice(count(1), entries)))
    return weights, random.Random(2).sample(range(entries), entries)


ACCESS = {
    "uniform": uniform,
    "Zipf 0.9": lambda entries: zipf(entries, 0.9),
    "Zipf 1.1": lambda entries: zipf(entries, 1.1),
    "scan-mixed": scan_mixed,
}
"""Orders of requests by name: endless, and equal each time."""


def request(entry: int):
    """Returns the request for an entry made of new strings, as if parsed from the network."""
    return f"user-{entry % 1_000}@example.com", "tool:invoke", f"server:jira/search/{entry}"
