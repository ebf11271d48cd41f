"""Real servers of `documents_app`, as separate processes on a free loopback port."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx

from servers import HOST, free_port

HERE = Path(__file__).parent
PATIENCE = 60.0
"""The maximum number of seconds to wait where no limit is promised."""

PYTHON = (sys.executable, "-X", "dev", "-W", "error::ResourceWarning")
UVICORN = (*PYTHON, "documents_app.py", "{port}")
GUNICORN = (
    *(*PYTHON, "-m", "gunicorn", "--preload", "--workers=2", "--bind=127.0.0.1:{port}"),
    *("--keep-alive=60", "--timeout=120", "--log-level=warning", "--worker-class={worker}"),
    "documents_app:create_app()",
)
UVICORN_WORKER = tuple(
    word.replace("{worker}", "uvicorn_worker.UvicornWorker") for word in GUNICORN
)
ASGI_WORKER = tuple(word.replace("{worker}", "asgi") for word in GUNICORN)


class Serving:
    """A server and its workers."""

    def __init__(self, command, environment, output, errors):
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        self._output, self._errors = output, errors
        self.process = subprocess.Popen(
            [word.replace("{port}", str(port)) for word in command],
            cwd=HERE,
            env={**_clean_environment(), **environment},
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )

    @property
    def output(self):
        return _text(self._output)

    @property
    def errors(self):
        return _text(self._errors)

    def wait_until_up(self):
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                httpx.get(f"{self.url}/policy-cache/health")
                return
            time.sleep(0.02)
        message = f"not up (exit code {self.process.poll()}):\n{self.errors}"
        raise RuntimeError(message)

    def terminate(self):
        """Terminates the server (SIGTERM) and returns its exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    @contextmanager
    def workers(self):
        """Returns a client for each of two workers."""
        with ExitStack() as stack:
            first = stack.enter_context(closing(Worker(self.url)))
            os.kill(first.pid, signal.SIGSTOP)  # so that the other one accepts the next connection
            try:
                second = stack.enter_context(closing(_another_worker(self.url, first.pid)))
            finally:
                os.kill(first.pid, signal.SIGCONT)
            yield first, second


class Worker(httpx.Client):
    """A client that keeps its connection, and so its worker."""

    def __init__(self, url, timeout=PATIENCE):
        super().__init__(base_url=url, timeout=timeout)
        self.pid = self._ask()

    def _ask(self):
        return int(self.get("/threads-at-import").headers["x-worker"])

    def request(self, *arguments, **options):
        response = super().request(*arguments, **options)
        pid = int(response.headers["x-worker"])
        assert pid == getattr(self, "pid", pid), "another worker has answered"
        return response


def _another_worker(url, stopped):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(httpx.TimeoutException):  # accepted just before the worker was suspended
            worker = Worker(url, timeout=2)
            assert worker.pid != stopped
            worker.timeout = PATIENCE
            return worker
    message = "no second worker has answered"
    raise TimeoutError(message)


@contextmanager
def served(command, **environment):
    """Serves the app; kills all its processes on leaving."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        serving = Serving(command, environment, output, errors)
        try:
            yield serving
        finally:
            with suppress(ProcessLookupError):
                os.killpg(serving.process.pid, signal.SIGKILL)
            serving.process.wait()


def _clean_environment():
    ours = ("SARK_CACHE_", "RUST_ENABLED")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _text(file):
    return os.pread(file.fileno(), 1 << 20, 0).decode()
