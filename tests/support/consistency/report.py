"""The result of a run, as numbers and as text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """The result of a run. Durations are seconds.

    Attributes:
        answers: The number of answers that were checked.
        failed: The number of requests that raised an error.
        revocations: The number of revocations that were confirmed.
        unconfirmed: The number of attempts that raised an InvalidationError.
        worst_staleness: The longest time from a change of a version to a request that was still
            answered with the version before, whether or not that was allowed.
        settles: The duration of each confirmed revocation, in ascending order.
        hit_ratio: The share of the answers that took no evaluation of their own.
        recoveries: The time from the end of each fault to a usual hit ratio; None: never.
        flushes: The number of times that a cache dropped everything; None: not counted.
        faults: The name of each fault that happened.
        violations: The number of broken promises.
        first_violations: A sentence and the events around it, for each of the first ones.
    """

    answers: int
    failed: int
    revocations: int
    unconfirmed: int
    worst_staleness: float
    settles: list[float]
    hit_ratio: float
    recoveries: list[float | None]
    flushes: int | None
    faults: list[str]
    violations: int
    first_violations: list[tuple[str, list[str]]]

    def settle(self, percent):
        """Returns a percentile of the durations of revocations; None if there were none."""
        if not self.settles:
            return None
        return self.settles[min(len(self.settles) - 1, len(self.settles) * percent // 100)]

    def figures(self):
        """Returns the numbers as a dict for JSON."""
        recovered = [seconds for seconds in self.recoveries if seconds is not None]
        return {
            "faults": self.faults,
            "answers": self.answers,
            "failed": self.failed,
            "revocations": self.revocations,
            "unconfirmed": self.unconfirmed,
            "worst_staleness": round(self.worst_staleness, 6),
            "settle_p50": self.settle(50),
            "settle_p99": self.settle(99),
            "hit_ratio": round(self.hit_ratio, 4),
            "slowest_recovery": max(recovered, default=None),
            "flushes": self.flushes,
            "violations": self.violations,
            "first_violations": self.first_violations,
        }

    def __str__(self):
        lines = [
            f"{self.answers:,} answers, {self.hit_ratio:.1%} without an evaluation",
            f"{self.revocations:,} revocations confirmed, {self.unconfirmed:,} attempts were not",
            f"worst staleness {_milliseconds(self.worst_staleness)}",
            f"settle p50 {_milliseconds(self.settle(50))}, p99 {_milliseconds(self.settle(99))}",
            f"flushes: {'not counted' if self.flushes is None else self.flushes}",
        ]
        if recovered := [seconds for seconds in self.recoveries if seconds is not None]:
            lines.append(f"hit ratio back at the latest {max(recovered):.2f} s after a fault")
        lines.append(f"violations: {self.violations:,}")
        for what, events in self.first_violations:
            lines += [f"- {what}", *(f"    {event}" for event in events)]
        return "\n".join(lines)


def _milliseconds(seconds):
    return "none" if seconds is None else f"{seconds * 1000:.2f} ms"
