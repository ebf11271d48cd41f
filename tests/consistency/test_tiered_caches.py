"""Native caches that follow a log serve nothing after its revocation, whatever fails.

`nox -s consistency -- --cache consistency.factories:tiered --max-staleness 1` lets all faults
happen, for longer.
"""

import asyncio
import json
import sys
from pathlib import Path

import pytest

import consistency
from consistency import faults
from consistency.run import Plan, run
from servers import partition

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
        pytest.param((faults.FailoverOrdered,), 1.0, id="failover"),
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


@pytest.mark.skipif(not partition.can_be_made(), reason="it takes root, ip and unshare")
async def test_a_primary_that_the_others_cannot_reach_settles_nothing(server_available, tmp_path):
    """In a process of its own, which has a network of its own."""
    saved = tmp_path / "figures.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "consistency", "--fault=PrimaryCutOff", "--max-staleness=1"),
        *("--cache=consistency.factories:tiered", f"--seconds={SECONDS}", f"--save={saved}"),
        cwd=Path(consistency.__file__).parents[1],
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    figures = json.loads(saved.read_text(encoding="utf-8"))["PrimaryCutOff"]
    assert figures["answers"] > 500
    assert figures["unconfirmed"] > 0, "the primary that was cut off could confirm nothing"
