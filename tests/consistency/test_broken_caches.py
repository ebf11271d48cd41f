"""The checker finds what is broken: without these tests, its silence would prove nothing."""

import json
import os
import subprocess
import sys

import pytest

from consistency import faults
from consistency.run import Plan, run


@pytest.mark.parametrize("cache", ["broken_caches:swallows_half", "broken_caches:returns_early"])
async def test_a_cache_that_serves_revoked_decisions_is_caught(server_available, cache):
    report = await run(Plan(cache, faults=(), seconds=1.5, workers=2))
    [what, events] = report.first_violations[0]
    assert "answered with version" in what, report
    assert any("was confirmed" in event for event in events)
    assert any("evaluates version" in event for event in events)
    assert report.failed == 0


@pytest.mark.parametrize(
    ("reader", "happening"),
    [
        ("broken_caches:skips_records", ()),
        ("broken_caches:acknowledges_first", ()),
        ("broken_caches:keeps_its_lease", (faults.WorkersCutOff,)),
    ],
)
async def test_a_broken_reader_of_the_log_is_caught(server_available, reader, happening):
    plan = Plan(reader, happening, seconds=3.0, max_staleness=0.25, workers=2)
    report = await run(plan)
    assert any("answered with version" in what for what, _ in report.first_violations), report


def test_the_command_exits_with_1_for_native_caches_that_do_not_know_each_other(
    server_available, tmp_path
):
    saved = tmp_path / "figures.json"
    command = [
        *(sys.executable, "-m", "consistency", "--cache", "consistency.factories:native"),
        *("--fault", "LoopBlocked", "--seconds", "1", "--workers", "2", "--save", str(saved)),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout.endswith("with violations: LoopBlocked\n")
    figures = json.loads(saved.read_text())["LoopBlocked"]
    assert figures["violations"] > 0
    assert "answered with version" in figures["first_violations"][0][0]
