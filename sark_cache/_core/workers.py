"""Detection of services that run as several processes.

The sources, in order of precedence: the number of workers that a gunicorn or uvicorn server object
in this process knows; the environment variables and the command line that servers read the number
from; a fork after this package was imported, which happens to apps that are loaded before their
workers start. Copies of the service on other machines, and copies that are started one by one, are
not detected.
"""

import multiprocessing
import os
import re
import signal
import sys
from pathlib import PurePath
from typing import Final

from sark_cache._core.poller import forks

VARIABLES: Final = ("WEB_CONCURRENCY", "UVICORN_WORKERS", "GRANIAN_WORKERS")
"""The environment variables from which servers read the number of their workers."""

SERVERS: Final = frozenset({"uvicorn", "gunicorn", "hypercorn", "granian", "fastapi"})
"""The servers whose command line is parsed: `-w 4`, `--workers 4` or `--workers=4`."""

_WORKERS: Final = re.compile(r"(?:^|\s)(?:-w\s*|--workers[=\s]\s*)(\d+)")


def several_workers() -> str | None:
    """Returns the evidence for several processes, for the log. None: there is no evidence."""
    by_server = _of_server()
    if by_server is not None:
        server, workers = by_server
        return f"{server} runs {workers} workers" if workers > 1 else None
    for variable in VARIABLES:
        value = os.environ.get(variable, "")
        if value.isdecimal() and int(value) > 1:
            return f"{variable}={value}"
    for where, text in (
        ("GUNICORN_CMD_ARGS", _gunicorn_arguments()),
        ("its command line", _argv()),
    ):
        workers = _workers_in(text)
        if workers > 1:
            return f"{where} says {workers} workers"
    return "it was forked after sark_cache was imported" if forks() else None


def _of_server() -> tuple[str, int] | None:
    """Returns the server that runs this process, and the number of its workers, if it is known."""
    handler = getattr(signal, "SIGUSR1", None) and signal.getsignal(signal.SIGUSR1)
    if "gunicorn" in sys.modules:
        settings = getattr(getattr(handler, "__self__", None), "cfg", None)
        workers = getattr(settings, "workers", None)
        if isinstance(workers, int):
            return "gunicorn", workers
    # Uvicorn passes its configuration to the processes that it starts, also to a reloading one.
    given = getattr(multiprocessing.current_process(), "_kwargs", {})
    workers = getattr(given.get("config"), "workers", None)
    if "uvicorn" in sys.modules and isinstance(workers, int):
        return "uvicorn", workers
    return None


def _gunicorn_arguments() -> str:
    return os.environ.get("GUNICORN_CMD_ARGS", "")


def _argv() -> str:
    """Returns the command line if it starts a server. Workers inherit it from their parent."""
    command = getattr(sys, "argv", None) or [""]  # an embedded interpreter has no `argv`
    program = PurePath(command[0])
    named = {program.stem, program.parent.name}  # `uvicorn`, or `uvicorn/__main__.py`
    return " ".join(command[1:]) if named & SERVERS else ""


def _workers_in(text: str) -> int:
    """Returns the number of workers that a command line sets. 0: it sets none."""
    found = _WORKERS.findall(text)
    return int(found[-1]) if found else 0
