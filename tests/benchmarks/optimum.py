"""The most hits that any cache can have which knows the future: Bélády's MIN (IBM Syst. J. 1966).

On a full cache the key that is asked for again last leaves; that may be the one that just came,
for a policy like TinyLFU may refuse it too. O(n log n) for n requests.
"""

from collections.abc import Hashable, Sequence
from heapq import heappop, heappush


def most_hits(trace: Sequence[Hashable], capacity: int) -> int:
    """The hits of the optimum on `trace` with `capacity` entries, from an empty cache."""
    held: set[Hashable] = set()
    # The latest next request first. That of a key which was asked for since has passed: such rows
    # stay at the bottom, below one row for each held key.
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
    """For each request the place of the next one for the same key; past the end if none."""
    place: dict[Hashable, int] = {}
    following = [0] * len(trace)
    for i in reversed(range(len(trace))):
        # Each of those that are asked for no more has a place of its own behind all others.
        following[i] = place.get(trace[i], len(trace) + i)
        place[trace[i]] = i
    return following
