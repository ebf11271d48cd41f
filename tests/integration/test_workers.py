"""Detection of several workers in the processes of each server."""

import os
import signal
import subprocess
import sys

import pytest

from interpreters import needs_fork
from sark_cache._core import workers

APP = """
import os

from sark_cache._core.workers import several_workers


async def app(scope, receive, send):
    if scope["type"] != "lifespan":
        return
    await receive()
    os.write(1, f"several: {several_workers()}\\n".encode())  # at once: others write there, too
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
"""

UVICORN = ["uvicorn", "--port", "0", "--log-level", "critical", "app:app"]
GUNICORN = [
    *("gunicorn", "-b", "127.0.0.1:0", "-k", "uvicorn_worker.UvicornWorker"),
    *("--log-level", "critical", "app:app"),
]
BY_A_PROGRAM = """
import uvicorn
if __name__ == "__main__":
    uvicorn.run("app:app", port=0, workers=2, log_level="critical")
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this platform has no process groups")
@pytest.mark.parametrize(
    ("command", "variables", "known"),
    [
        (["-m", *UVICORN], {}, "None"),
        (["-m", *UVICORN, "--workers", "2"], {}, "uvicorn runs 2 workers"),
        (["-m", *UVICORN], {"WEB_CONCURRENCY": "2"}, "uvicorn runs 2 workers"),
        (["by_a_program.py"], {}, "uvicorn runs 2 workers"),
        (["-m", *GUNICORN], {}, "None"),
        (["-m", *GUNICORN, "--preload"], {}, "None"),
        (["-m", *GUNICORN, "-w2"], {}, "gunicorn runs 2 workers"),
        (["-m", *GUNICORN], {"WEB_CONCURRENCY": "2"}, "gunicorn runs 2 workers"),
        (["-m", *GUNICORN, "-c", "settings.py"], {}, "gunicorn runs 3 workers"),
    ],
)
def test_the_worker_of_a_server_knows_the_number_of_workers(tmp_path, command, variables, known):
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "by_a_program.py").write_text(BY_A_PROGRAM)
    (tmp_path / "settings.py").write_text("workers = 3")
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=tmp_path,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout.readline().strip() == f"several: {known}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("variables", "argv", "known"),
    [
        ({}, ["uvicorn", "app:app"], None),
        ({}, ["/usr/bin/hypercorn", "-w", "4", "app:app"], "its command line says 4 workers"),
        ({}, ["granian", "--workers=4", "app:app"], "its command line says 4 workers"),
        ({}, ["python/fastapi/__main__.py", "run", "--workers", "2"], "its command line says 2"),
        ({}, ["granian", "--workers=1", "app:app"], None),
        ({}, ["my-program", "-w", "4"], None),
        ({"WEB_CONCURRENCY": "3"}, [""], "WEB_CONCURRENCY=3"),
        ({"WEB_CONCURRENCY": "1"}, [""], None),
        ({"WEB_CONCURRENCY": "many"}, [""], None),
        ({"GUNICORN_CMD_ARGS": "--workers=5"}, [""], "GUNICORN_CMD_ARGS says 5 workers"),
    ],
)
def test_variables_and_the_command_line_give_the_number_too(monkeypatch, variables, argv, known):
    for variable in (*workers.VARIABLES, "GUNICORN_CMD_ARGS"):
        monkeypatch.delenv(variable, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", argv)
    found = workers.several_workers()
    assert found is known if known is None else found.startswith(known)


@needs_fork
def test_a_child_of_a_preloaded_app_knows_that_it_is_a_worker():
    code = """
import os, sys
from sark_cache._core.workers import several_workers
child = os.fork()
if child == 0:
    print(several_workers(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(several_workers())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["it was forked after sark_cache was imported", "None"]
