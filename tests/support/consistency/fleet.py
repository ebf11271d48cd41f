"""The processes of a run, started and stopped together."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from consistency.member import READY

START_SECONDS = 60.0
STOP_SECONDS = 60.0


class MemberProcess:
    """A running member.

    Attributes:
        orders: Its task.
    """

    def __init__(self, orders):
        self.orders = orders
        self._errors = Path(orders.directory) / f"stderr-{orders.number}"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "consistency.member", orders.text()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # its forked children are killed with it
            )

    async def wait_until_ready(self):
        """Waits until the cache of the member has answered a request."""
        async with asyncio.timeout(START_SECONDS):
            line = await asyncio.to_thread(self._process.stdout.readline)
        if line.decode().strip() != READY:
            self._fail("did not start")

    def tell(self, command, seconds):
        """Sends a command of `Member`."""
        self._process.stdin.write(f"{command} {seconds}\n".encode())
        self._process.stdin.flush()

    def pause(self):
        """Suspends the process (SIGSTOP)."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self):
        """Resumes the process (SIGCONT)."""
        self._process.send_signal(signal.SIGCONT)

    async def stop(self):
        """Lets the member end, and returns the counters of its cache."""
        self._process.stdin.close()
        async with asyncio.timeout(STOP_SECONDS):
            output = await asyncio.to_thread(self._process.stdout.read)
            status = await asyncio.to_thread(self._process.wait)
        if status:
            self._fail(f"ended with status {status}")
        return json.loads(output)

    def kill(self):
        """Kills the member and its children; does nothing if it has ended."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()
        self._process.wait()

    def errors(self):
        """Returns the last lines that the member wrote to stderr."""
        return self._errors.read_text(encoding="utf-8", errors="replace")[-3_000:]

    def _fail(self, what):
        message = f"member {self.orders.number} {what}:\n{self.errors()}"
        raise RuntimeError(message)


class Fleet:
    """All members; as an async context manager, until the block is left.

    Attributes:
        members: All of them.
        workers: The members that answer requests.
    """

    def __init__(self, orders):
        self._orders = orders
        self.members = []

    @property
    def workers(self):
        return [member for member in self.members if member.orders.tasks]

    async def stop(self):
        """Stops all members, and returns the counters of their caches."""
        return await asyncio.gather(*(member.stop() for member in self.members))

    async def __aenter__(self):
        self.members = [MemberProcess(orders) for orders in self._orders]
        try:
            await asyncio.gather(*(member.wait_until_ready() for member in self.members))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_):
        for member in self.members:
            member.kill()
