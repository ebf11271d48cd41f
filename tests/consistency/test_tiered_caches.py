"""Native caches that follow a log serve nothing after its revocation, whatever fails.

`nox -s consistency -- --cache consistency.factories:tiered --max-staleness 1` lets all faults
happen, for longer.
"""

import pytest

from consistency import faults
from consistency.run import Plan, run

SECONDS = 5.0
"""The time for each fault."""


@pytest.mark.parametrize(
    ("happening", "max_staleness"),
    [
        pytest.param(
            (
                *(faults.WorkersSuspended, faults.GilHeld, faults.WorkersForked),
                *(faults.ServerPaused, faults.ServerRestored, faults.LogDeleted),
            ),
            0.25,
            id="processes",
        ),
        pytest.param(
            (faults.WorkersCutOff, faults.ConnectionsReset, faults.ClientsKilled), 1.0, id="network"
        ),
    ],
)
async def test_no_process_serves_a_decision_after_its_revocation(
    server_available, happening, max_staleness
):
    plan = Plan("consistency.factories:tiered", happening, SECONDS, max_staleness=max_staleness)
    report = await run(plan)
    assert report.violations == 0, report
    assert set(report.faults) == {fault.__name__ for fault in happening}
    assert report.answers > 500
    assert report.revocations > 20
    assert report.worst_staleness > 0, "answers and revocations were concurrent"


async def test_a_process_without_a_tier_revokes_in_processes_with_one(server_available):
    report = await run(
        Plan(
            "consistency.factories:tiered",
            (faults.ConnectionsReset,),
            SECONDS,
            max_staleness=0.25,
            revokers_cache="consistency.factories:shared",
        )
    )
    assert report.violations == 0, report
