"""The rules: compares the answers of all processes with the revocations of all processes."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from itertools import accumulate

from consistency.history import EVALUATED, FAILED
from consistency.recovery import HitRatio, slow_recoveries
from consistency.report import Report
from consistency.violations import Violations, explained

TOLERANCE = 0.0001
"""Seconds by which the clocks of two processor cores may differ."""


def check(history, phases, counters, *, may_flush):
    """Checks a history, and returns its report.

    After a revocation was confirmed, and its `allowed_seconds` have passed, no request that begins
    may be answered with an older version.

    Args:
        history: The logs.
        phases: The faults, in the order of time.
        counters: The counters of the cache of each member, as dicts.
        may_flush: True if a fault lost the log, so that caches may have dropped everything.
    """
    promises = _promises(history.revocations)
    changes = _changes(history.revocations)
    hits = HitRatio()
    violations = Violations()
    answered = failed = 0
    worst_staleness = 0.0
    for process, answer in history.answers():
        answered += 1
        if answer.flags & FAILED:
            failed += 1
            violations.add(f"a request of {process} failed", answer)
            continue
        hits.add(answer.began, is_hit=not answer.flags & EVALUATED)
        superseded = changes.get(answer.user, _NEVER).end_of(answer.version)
        if superseded is None:
            continue
        worst_staleness = max(worst_staleness, answer.began - superseded)
        promised, since = promises.get(answer.user, _NEVER).at(answer.began - TOLERANCE)
        if promised > answer.version:
            what = (
                f"{process} answered with version {answer.version} of user {answer.user} "
                f"{answer.began - since:.4f} s after it had to answer with {promised}"
            )
            violations.add(what, answer)
    if not answered:
        violations.add("no request was answered")
    if hits.is_meaningless(phases):
        violations.add("no request was a hit before the first fault")
    recoveries = hits.recoveries(phases)
    for slow in slow_recoveries(phases, recoveries):
        violations.add(slow)
    flushes = _sum(counters, "flushes")
    if flushes and not may_flush:
        violations.add(f"caches dropped everything {flushes} times, and no log was lost")
    confirmed = [one for one in history.revocations if not one.error]
    return Report(
        answers=answered,
        failed=failed,
        revocations=len(confirmed),
        unconfirmed=len(history.revocations) - len(confirmed),
        worst_staleness=worst_staleness,
        settles=sorted(one.returned - one.called for one in confirmed),
        hit_ratio=hits.overall(),
        recoveries=recoveries,
        flushes=flushes,
        faults=[phase.name for phase in phases],
        violations=violations.count,
        first_violations=explained(violations.first, history, phases),
    )


class _Versions:
    """The versions of one user that grow with time."""

    def __init__(self, pairs):
        ordered = sorted(pairs)
        self.times = [time for time, _ in ordered]
        self.versions = list(accumulate((version for _, version in ordered), max))

    def at(self, time):
        """Returns the version at a time and the time since which it holds; `(0, 0)`: none yet."""
        number = bisect_right(self.times, time)
        if not number:
            return 0, 0.0
        version = self.versions[number - 1]
        return version, self.times[bisect_left(self.versions, version)]

    def end_of(self, version):
        """Returns the time at which the next version took the place of one; None: it has not."""
        number = bisect_right(self.versions, version)
        return self.times[number] if number < len(self.times) else None


_NEVER = _Versions([])


def _promises(revocations):
    """Returns, for each user, the versions that answers must show, with the times since when."""
    pairs = defaultdict(list)
    for one in revocations:
        if not one.error:
            pairs[one.user].append((one.returned + one.allowed_seconds, one.version))
    return {user: _Versions(given) for user, given in pairs.items()}


def _changes(revocations):
    """Returns, for each user, the versions with the times at which they became the present one."""
    pairs = defaultdict(set)
    for one in revocations:
        pairs[one.user].add((one.changed, one.version))
    return {user: _Versions(given) for user, given in pairs.items()}


def _sum(counters, name):
    """Returns the sum of a counter over all members; None if the caches do not have it."""
    values = [one[name] for one in counters if name in one]
    return sum(values) if values else None
