"""How long requests took: a histogram in pure Python, with the buckets of the compiled one.

32 buckets per power of two of nanoseconds, so that a percentile is at most 3.2 % off. To record
costs about 0.4 µs; memory is some 100 bytes for each bucket that anything fell into, of which there
are 32 for each doubling of what was ever recorded.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import ceil, frexp, isfinite, ldexp

from sark_cache.metrics import LATENCY_BOUNDS_SECONDS, LatencyHistogram

_PER_SECOND = 1e9


class Latency:
    """Durations as a mean, as percentiles and as a histogram. May be used from any thread.

    With a global interpreter lock it takes no other, so a forked child inherits none that is taken.
    CPython lets another thread in only when a call returns or a loop turns; to record ends with two
    additions that call nothing, and a snapshot is one call, so no duration is lost or counted by
    half. On a free-threaded build the dict has a lock inside, which CPython takes for each
    operation, and two threads that record at once may count as one.
    """

    __slots__ = ("_buckets", "_seconds")

    def __init__(self) -> None:
        self._buckets: defaultdict[int, int] = defaultdict(int)
        self._seconds = 0.0

    def record(self, seconds: float) -> None:
        """Adds a duration, in seconds: finite and not negative."""
        mantissa, exponent = frexp(seconds * _PER_SECOND)
        bucket = exponent * 32 + int(mantissa * 64)
        self._buckets[bucket] += 1
        self._seconds += seconds

    @property
    def count(self) -> int:
        """How many durations were recorded."""
        return sum(self._buckets.copy().values())

    @property
    def mean_ms(self) -> float:
        """The mean, in milliseconds; 0 when nothing was recorded."""
        seconds, buckets = self._seconds, self._buckets.copy()
        return seconds / sum(buckets.values()) * 1e3 if buckets else 0.0

    def percentile(self, fraction: float) -> float:
        """What `fraction` (0 to 1) of the durations did not exceed, in seconds.

        At most 3.2 % too much, and never too little; 0 when nothing was recorded.
        """
        ends, counts = _cumulative(self._buckets.copy())
        if not counts:
            return 0.0
        rank = max(1, ceil(fraction * counts[-1]))
        return ends[bisect_left(counts, rank)] / _PER_SECOND

    def histogram(self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS) -> LatencyHistogram:
        """How many durations were below each of `bounds`, in seconds; see `LatencyHistogram`.

        Raises:
            ValueError: Bounds that do not rise.
        """
        rising = tuple(bounds)
        limits = whole_nanoseconds(rising)
        seconds, buckets = self._seconds, self._buckets.copy()
        ends, counts = _cumulative(buckets)
        up_to = (0, *counts)
        return LatencyHistogram(
            bounds=rising,
            counts=tuple(up_to[bisect_right(ends, limit)] for limit in limits),
            sum_seconds=seconds,
            count=up_to[-1],
        )

    def reset(self) -> None:
        """Forgets everything."""
        self._buckets, self._seconds = defaultdict(int), 0.0


def whole_nanoseconds(bounds: Sequence[float]) -> list[int]:
    """The bounds of a histogram, given in seconds, in nanoseconds.

    Raises:
        ValueError: They do not rise, or one is not finite or below a nanosecond.
    """
    seconds = tuple(bounds)
    if not all(map(isfinite, seconds)):
        message = "bounds must be finite; whatever lies above the last one is in `count`"
        raise ValueError(message)
    limits = [round(bound * _PER_SECOND) for bound in seconds]
    if any(later <= earlier for earlier, later in pairwise((0, *limits))):
        message = "bounds must rise, each by at least a nanosecond (0.000000001), from above 0"
        raise ValueError(message)
    return limits


def _cumulative(buckets: dict[int, int]) -> tuple[list[float], list[int]]:
    """Where the buckets end, in nanoseconds, and how many durations are below that."""
    rising = sorted(buckets)
    return (
        [ldexp(bucket % 32 + 33, bucket // 32 - 7) for bucket in rising],
        list(accumulate(buckets[bucket] for bucket in rising)),
    )
