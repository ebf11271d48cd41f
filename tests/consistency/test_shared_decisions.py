"""Processes that share decisions on a server serve none after its revocation, whatever fails.

`nox -s consistency` lets all faults happen, for longer.
"""

import pytest

from consistency import faults
from consistency.run import Plan, run

SECONDS = 5.0
"""The time for each fault."""


@pytest.mark.parametrize(
    "happening",
    [
        pytest.param(
            (
                *(faults.WorkersSuspended, faults.WorkersForked),
                *(faults.ServerPaused, faults.ServerEmptied, faults.ClientsKilled),
            ),
            id="processes",
        ),
        pytest.param((faults.WorkersCutOff, faults.ConnectionsReset), id="network"),
    ],
)
async def test_no_process_serves_a_decision_after_its_revocation(server_available, happening):
    report = await run(Plan("consistency.factories:shared", happening, SECONDS))
    assert report.violations == 0, report
    assert set(report.faults) == {fault.__name__ for fault in happening}
    assert report.answers > 500
    assert report.revocations > 20
    assert report.worst_staleness > 0, "answers and revocations were concurrent"
