"""Broken promises, and what happened around them."""

from collections import defaultdict, deque

from consistency.history import EVALUATED

FIRST = 10
"""The number of violations that are kept with their history."""
BEFORE, AFTER = 12.0, 3.0
"""The seconds before and after an answer whose events are shown."""
EVALUATIONS = 3
"""The number of evaluations that are shown: the last ones that began before the answer."""


class Violations:
    """All violations as a number, the first ones with the answer that shows it, or None."""

    def __init__(self):
        self.count = 0
        self.first = []

    def add(self, what, answer=None):
        """Adds a violation."""
        self.count += 1
        if len(self.first) < FIRST:
            self.first.append((what, answer))


def explained(violations, history, phases):
    """Returns each violation with the events around its answer, as lines of text."""
    answers = [answer for _, answer in violations if answer is not None]
    evaluations = _evaluations(history, answers)
    return [
        (what, [] if answer is None else _events(history, phases, answer, evaluations[answer]))
        for what, answer in violations
    ]


def _events(history, phases, answer, evaluations):
    """Returns what happened to the user of an answer, and the faults, in the order of time."""
    events = [(answer.began, f"asks, is answered after {answer.answered - answer.began:.4f} s")]
    for process, one in evaluations:
        what = f"{process} evaluates version {one.version}: took {one.answered - one.began:.4f} s"
        events.append((one.began, what))
    for one in history.revocations:
        if one.user != answer.user or one.version <= answer.version:
            continue
        outcome = f"was not confirmed: {one.error}" if one.error else "was confirmed"
        call = f"member {one.member} calls {one.way} for version {one.version}"
        events.append((one.changed, f"the version becomes {one.version}"))
        events.append((one.called, f"{call}: took {one.returned - one.called:.4f} s, {outcome}"))
    for phase in phases:
        events.append((phase.began, f"{phase.name} begins"))
        events.append((phase.healed, f"{phase.name} is healed"))
    near = {event for event in events if -BEFORE < event[0] - answer.began < AFTER}
    return [f"{time - answer.began:+9.4f} s  {what}" for time, what in sorted(near)]


def _evaluations(history, answers):
    """Returns the last evaluations with the user and version of each answer, and who ran them."""
    if not answers:
        return {}
    wanted = defaultdict(list)
    for answer in answers:
        wanted[answer.user, answer.version].append(answer)
    found = {answer: deque(maxlen=EVALUATIONS) for answer in answers}
    evaluations = [
        (process, one)
        for process, one in history.answers()
        if one.flags & EVALUATED and (one.user, one.version) in wanted
    ]
    for process, one in sorted(evaluations, key=lambda evaluation: evaluation[1].began):
        for answer in wanted[one.user, one.version]:
            if one.began <= answer.began:
                found[answer].append((process, one))
    return found
