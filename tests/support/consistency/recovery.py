"""The hit ratio over time, and its recovery after a fault."""

from collections import defaultdict

WINDOW_SECONDS = 0.25
"""The length of the windows in which hits are counted."""
RECOVERED = 0.8
"""The share of the hit ratio before the first fault that counts as recovered."""
RECOVERY_SECONDS = 2.0
"""The maximum time from the end of a fault to the recovery."""


class HitRatio:
    """Counts hits and answers in windows of time."""

    def __init__(self):
        self._answers = defaultdict(int)
        self._hits = defaultdict(int)

    def add(self, began, *, is_hit):
        """Adds an answer to the window in which its request began."""
        window = int(began / WINDOW_SECONDS)
        self._answers[window] += 1
        self._hits[window] += is_hit

    def overall(self):
        """Returns the hit ratio of all answers."""
        return sum(self._hits.values()) / max(1, sum(self._answers.values()))

    def recoveries(self, phases):
        """Returns the seconds from the end of each fault until the hit ratio had recovered.

        None: it did not recover before the next fault or the end.
        """
        if not phases:
            return []
        usual = self._between(0, int(phases[0].began / WINDOW_SECONDS))
        last = max(self._answers, default=0)
        ends = [int(phase.began / WINDOW_SECONDS) for phase in phases[1:]] + [last]
        return [
            self._recovery(phase, end, usual * RECOVERED)
            for phase, end in zip(phases, ends, strict=True)
        ]

    def _recovery(self, phase, end, enough):
        """Returns the seconds until the first whole window that has hits enough."""
        for window in range(int(phase.healed / WINDOW_SECONDS) + 1, end):
            if self._answers[window] and self._between(window, window + 1) >= enough:
                return (window + 1) * WINDOW_SECONDS - phase.healed
        return None

    def _between(self, first, end):
        windows = [window for window in self._answers if first <= window < end]
        answers = sum(self._answers[window] for window in windows)
        return sum(self._hits[window] for window in windows) / max(1, answers)

    def is_meaningless(self, phases):
        """Returns whether no request was a hit before the first fault."""
        return bool(phases) and not self._between(0, int(phases[0].began / WINDOW_SECONDS))


def slow_recoveries(phases, recoveries):
    """Returns a sentence for each fault after which the hit ratio recovered too late."""
    return [
        f"{phase.name}: the hit ratio had not recovered {RECOVERY_SECONDS:g} s after the end"
        for phase, seconds in zip(phases, recoveries, strict=True)
        if seconds is None or seconds > RECOVERY_SECONDS + WINDOW_SECONDS
    ]
