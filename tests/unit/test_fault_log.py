"""Faults in the log: once per burst, at their level, and without the request."""

import logging
import os

import pytest

from interpreters import needs_fork
from sark_cache._core import fault_log as faults
from sark_cache._core.fault_log import FaultLog


@pytest.fixture
def log():
    return FaultLog("redis")


def logged(caplog):
    return [(record.levelname, record.operation, record.left_out) for record in caplog.records]


def test_a_burst_is_logged_once_and_the_next_record_counts_the_suppressed_ones(
    log, caplog, monkeypatch
):
    for _ in range(3):
        log.report("get", "no answer in time")
    assert logged(caplog) == [("WARNING", "get", 0)]
    monkeypatch.setattr(faults, "QUIET_SECONDS", -1.0)
    log.report("set", "no answer in time")
    log._bursts.quiet_until.clear()
    log.report("get", "no answer in time")
    assert logged(caplog)[1:] == [("WARNING", "set", 0), ("WARNING", "get", 2)]
    assert [record.message for record in caplog.records[1:]] == [
        "redis cache: set failed: no answer in time",
        "redis cache: get failed: no answer in time (2 more left out since the last such message)",
    ]


def test_an_unconfirmed_revocation_is_an_error_and_a_burst_of_its_own(log, caplog):
    log.report("invalidate", "no answer in time")
    for _ in range(2):
        log.unconfirmed("invalidate", "no answer in time")
    assert logged(caplog) == [("WARNING", "invalidate", 0), ("ERROR", "invalidate", 0)]
    assert "redis cache: invalidate could not be confirmed" in caplog.text
    assert "No caller awaits it" in caplog.text
    assert caplog.records[1].levelno == logging.ERROR


def test_the_warning_of_a_revocation_of_everything_suggests_clear(log, caplog):
    for _ in range(2):
        log.revokes_everything()
    [record] = caplog.records
    assert "invalidate() without arguments revokes everything; use clear()" in record.message


@needs_fork
def test_a_forked_child_has_bursts_of_its_own(log, caplog):
    log.report("get", "no answer in time")
    inherited = log._bursts
    child = os.fork()
    if child == 0:
        caplog.clear()
        log.report("get", "no answer in time")
        os._exit(0 if log._bursts is not inherited and len(caplog.records) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    log.report("get", "no answer in time")
    assert len(caplog.records) == 1
