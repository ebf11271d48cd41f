"""The rules of the checker, on short histories."""

import os

import pytest

from consistency.checker import TOLERANCE, check
from consistency.history import (
    EVALUATED,
    FAILED,
    AnswerLog,
    History,
    Phase,
    Revocation,
    RevocationLog,
)
from consistency.recovery import RECOVERY_SECONDS

USER = 3


@pytest.fixture
def checked(tmp_path):
    """Checks answers, each a begin, a version and flags, and revocations of one user."""

    def check_history(
        answers, revocations=(), phases=(), counters=(), *, allowed=0.0, may_flush=False
    ):
        log = AnswerLog(tmp_path, 0)
        for began, version, *flags in answers:
            log.add(began, began + 0.001, USER, version, *(flags or [0]))
        log.close()
        log = RevocationLog(tmp_path, 0)
        for version, called, returned, *error in revocations:
            times = (called - 0.001, called, returned)
            [raised] = error or [""]
            log.add(Revocation(0, USER, version, "invalidate", *times, raised, allowed))
        log.close()
        return check(History(tmp_path), phases, counters, may_flush=may_flush)

    return check_history


REVOKED = (1, 10.0, 10.5)
"""Version 1 since 9.999, revoked by a call from 10.0 to 10.5."""


@pytest.mark.parametrize(
    ("began", "version", "violations"),
    [
        (9.0, 0, 0),
        (10.2, 0, 0),
        (10.5 + TOLERANCE / 2, 0, 0),
        (10.5 + TOLERANCE * 2, 0, 1),
        (60.0, 0, 1),
        (60.0, 1, 0),
        (60.0, 2, 0),
    ],
)
def test_a_request_from_after_the_return_must_show_the_new_version(
    checked, began, version, violations
):
    assert checked([(began, version)], [REVOKED]).violations == violations


def test_an_older_version_may_be_shown_for_the_allowed_time(checked):
    report = checked([(11.4, 0), (11.6, 0)], [REVOKED], allowed=1.0)
    assert report.violations == 1
    [(what, _)] = report.first_violations
    assert what.startswith(f"member 0, pid {os.getpid()} answered with version 0 of user {USER} ")
    assert "0.1000 s after" in what


def test_a_revocation_that_was_not_confirmed_promises_nothing(checked):
    report = checked([(20.0, 0)], [(*REVOKED, "no answer")])
    assert report.violations == 0
    assert (report.revocations, report.unconfirmed) == (0, 1)


def test_the_repetition_that_was_confirmed_counts(checked):
    repeated = (1, 30.0, 30.1)
    report = checked([(20.0, 0), (40.0, 0)], [(*REVOKED, "no answer"), repeated])
    assert report.violations == 1


def test_a_later_revocation_concerns_all_older_versions(checked):
    report = checked([(20.0, 0), (20.0, 1)], [(*REVOKED, "no answer"), (2, 12.0, 12.1)])
    assert report.violations == 2


def test_a_promise_counts_from_the_first_revocation_that_made_it(checked):
    revocations = [(1, 10.0, 10.5), (2, 11.0, 11.2), (3, 12.0, 12.9)]
    [(what, events)] = checked([(12.2, 0)], revocations).first_violations
    assert "1.0000 s after it had to answer with 2" in what
    assert [event.split("s  ")[1] for event in events] == [
        "the version becomes 1",
        "member 0 calls invalidate for version 1: took 0.5000 s, was confirmed",
        "the version becomes 2",
        "member 0 calls invalidate for version 2: took 0.2000 s, was confirmed",
        "the version becomes 3",
        "member 0 calls invalidate for version 3: took 0.9000 s, was confirmed",
        "asks, is answered after 0.0010 s",
    ]


def test_the_worst_staleness_counts_from_the_first_change_after_the_version(checked):
    report = checked([(12.0, 1), (10.3, 0)], [REVOKED, (2, 11.0, 11.9)], allowed=5.0)
    assert report.worst_staleness == pytest.approx(12.0 - 10.999)


def test_the_first_ten_violations_are_kept(checked):
    report = checked([(20.0 + number, 0) for number in range(12)], [REVOKED])
    assert report.violations == 12
    assert len(report.first_violations) == 10


def test_a_request_that_fails_is_a_violation(checked):
    report = checked([(20.0, 0, FAILED)])
    assert report.failed == report.violations == 1


def test_the_hit_ratio_must_recover_after_a_fault(checked):
    def answers(first, end, flags=0):
        return [(first + number / 20, 0, flags) for number in range(int((end - first) * 20))]

    fault = [Phase("Fault", 10.0, 12.0)]
    [soon] = checked(
        answers(8, 10) + answers(10, 13, EVALUATED) + answers(13, 15), phases=fault
    ).recoveries
    assert 1 < soon <= 1.5
    late = checked(answers(8, 10) + answers(10, 15, EVALUATED) + answers(15, 17), phases=fault)
    assert late.recoveries > [RECOVERY_SECONDS]
    never = checked(answers(8, 10) + answers(10, 17, EVALUATED), phases=fault)
    assert never.recoveries == [None]
    for report in (late, never):
        [(what, _)] = report.first_violations
        assert what.startswith("Fault: the hit ratio had not recovered")


def test_a_run_without_answers_or_hits_is_a_violation(checked):
    [(what, _)] = checked([]).first_violations
    assert what == "no request was answered"
    evaluated = [(8 + number / 20, 0, EVALUATED) for number in range(160)]
    report = checked(evaluated, phases=[Phase("Fault", 10.0, 12.0)])
    [(what, _)] = report.first_violations
    assert what == "no request was a hit before the first fault"


@pytest.mark.parametrize(("may_flush", "violations"), [(False, 1), (True, 0)])
def test_caches_drop_everything_only_if_the_log_was_lost(checked, may_flush, violations):
    report = checked([(1.0, 0)], counters=[{"flushes": 2}, {"flushes": 1}], may_flush=may_flush)
    assert report.flushes == 3
    assert report.violations == violations


def test_a_cache_that_does_not_count_flushes_is_not_blamed(checked):
    report = checked([(1.0, 0)], counters=[{"hits": 2}])
    assert report.flushes is None
    assert report.violations == 0
