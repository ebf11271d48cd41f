"""The checker finds what is broken: without these tests, its silence would prove nothing."""

import json
import os
import subprocess
import sys

import pytest

from consistency.run import Plan, run


@pytest.mark.parametrize("cache", ["broken_caches:swallows_half", "broken_caches:returns_early"])
async def test_a_cache_that_serves_revoked_decisions_is_caught(server_available, cache):
    report = await run(Plan(cache, faults=(), seconds=1.5, workers=2))
    [what, events] = report.first_violations[0]
    assert "answered with version" in what, report
    assert any("was confirmed" in event for event in events)
    assert any("evaluates version" in event for event in events)
    assert report.failed == 0


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
