"""The highest hit count of a cache that knows the future: Bélády's MIN (IBM Syst. J. 1966).

A full cache evicts the key whose next request is the latest. That may be the new key, because a
policy like TinyLFU may reject it, too. O(n log n) for n requests.
"""

from collections.abc import Hashable, Sequence
from heapq import heappop, heappush


def most_hits(trace: Sequence[Hashable], capacity: int) -> int:
    """Returns the hits of the optimum on `trace` with `capacity` entries, from an empty cache."""
    held: set[Hashable] = set()
    # The latest next request first. Rows of keys that were requested since are outdated: they stay
    # at the bottom, below one row for each held key.
    latest: list[tuple[int, Hashable]] = []
    hits = 0
    for key, again in zip(trace, next_requests(trace), strict=True):
        hits += key in held
        held.add(key)
        heappush(latest, (-again, key))
        if len(held) > capacity:
            held.remove(heappop(latest)[1])
    return hits


def next_requests(trace: Sequence[Hashable]) -> list[int]:
    """Returns for each request the position of the next one for its key; past the end if none."""
    place: dict[Hashable, int] = {}
    following = [0] * len(trace)
    for i in reversed(range(len(trace))):
        # Each key that is not requested again has its own position after all others.
        following[i] = place.get(trace[i], len(trace) + i)
        place[trace[i]] = i
    return following
