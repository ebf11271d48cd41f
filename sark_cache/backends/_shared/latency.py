"""A latency histogram in pure Python, with the buckets of the compiled module's histogram.

There are 32 buckets per power of two of nanoseconds, so a percentile is at most 3.2 % off.
Recording a duration costs about 0.4 µs. Each bucket that is not empty takes some 100 bytes, and
there are at most 32 such buckets for each doubling of the recorded durations.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import ceil, frexp, isfinite, ldexp

from sark_cache.metrics import LATENCY_BOUNDS_SECONDS, LatencyHistogram

_PER_SECOND = 1e9


class Latency:
    """Recorded durations, read as a mean, as percentiles or as a histogram. Any thread may use it.

    With a global interpreter lock there is no other lock, so a forked child inherits no locked one.
    CPython switches threads only when a call returns or a loop repeats. `record` ends with two
    additions that call nothing, and a snapshot is one call, so no duration is lost or counted only
    in part. On a free-threaded build CPython takes a lock inside the dict for each operation, and
    two durations that are recorded at the same time may count as one.
    """

    __slots__ = ("_buckets", "_seconds")

    def __init__(self) -> None:
        self._buckets: defaultdict[int, int] = defaultdict(int)
        self._seconds = 0.0

    def record(self, seconds: float) -> None:
        """Records a duration in seconds, which must be finite and not negative."""
        mantissa, exponent = frexp(seconds * _PER_SECOND)
        bucket = exponent * 32 + int(mantissa * 64)
        self._buckets[bucket] += 1
        self._seconds += seconds

    @property
    def count(self) -> int:
        """The number of recorded durations."""
        return sum(self._buckets.copy().values())

    @property
    def mean_ms(self) -> float:
        """The mean duration in milliseconds; 0 if there is none."""
        seconds, buckets = self._seconds, self._buckets.copy()
        return seconds / sum(buckets.values()) * 1e3 if buckets else 0.0

    def percentile(self, fraction: float) -> float:
        """Returns the duration that a `fraction` (0 to 1) of all durations did not exceed.

        The result is in seconds. It is at most 3.2 % too large and never too small. It is 0 if
        there are no durations.
        """
        ends, counts = _cumulative(self._buckets.copy())
        if not counts:
            return 0.0
        rank = max(1, ceil(fraction * counts[-1]))
        return ends[bisect_left(counts, rank)] / _PER_SECOND

    def histogram(self, bounds: Sequence[float] = LATENCY_BOUNDS_SECONDS) -> LatencyHistogram:
        """Returns the number of durations below each of `bounds`, which are in seconds.

        Raises:
            ValueError: The bounds do not rise.
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
        """Removes all durations."""
        self._buckets, self._seconds = defaultdict(int), 0.0


def whole_nanoseconds(bounds: Sequence[float]) -> list[int]:
    """Converts the bounds of a histogram from seconds to nanoseconds.

    Raises:
        ValueError: The bounds do not rise by a nanosecond each, or one is not finite.
    """
    seconds = tuple(bounds)
    if not all(map(isfinite, seconds)):
        message = (
            "bounds must be finite: leave infinity out, since `count` includes the durations above "
            "the last bound"
        )
        raise ValueError(message)
    limits = [round(bound * _PER_SECOND) for bound in seconds]
    if any(later <= earlier for earlier, later in pairwise((0, *limits))):
        message = (
            "bounds must rise from above 0: each must be at least a nanosecond (0.000000001) more "
            "than the one before"
        )
        raise ValueError(message)
    return limits


def _cumulative(buckets: dict[int, int]) -> tuple[list[float], list[int]]:
    """Returns the ends of the buckets in nanoseconds, and the number of durations below each."""
    rising = sorted(buckets)
    return (
        [ldexp(bucket % 32 + 33, bucket // 32 - 7) for bucket in rising],
        list(accumulate(buckets[bucket] for bucket in rising)),
    )
