"""The processes of a run, started and stopped together."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from consistency.member import READY

START_SECONDS = 60.0
STOP_SECONDS = 60.0


class MemberProcess:
    """A running member, and a guard that kills it with its children if this process ends.

    Attributes:
        orders: Its task.
    """

    GUARD = 'read -r _; kill -KILL -- "-$1"'

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
        # The guard waits for the end of its input, which comes with any kind of exit.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", self.GUARD, "guard", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    async def wait_until_ready(self):
        """Waits until the cache of the member has answered a request."""
        async with asyncio.timeout(START_SECONDS):
            line = await asyncio.to_thread(self._process.stdout.readline)
        if line.decode().strip() != READY:
            self._fail("did not start")

    def tell(self, command, seconds):
        """Sends a command of `Member`."""
        try:
            self._process.stdin.write(f"{command} {seconds}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail("has ended")

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
        """Kills the member, if it has not ended, and its children."""
        with suppress(ProcessLookupError):  # all of them have ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._guard.kill()
        self._guard.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._guard.stdin):
            with suppress(BrokenPipeError):  # from a command that could not be sent
                pipe.close()

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
