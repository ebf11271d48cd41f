"""Faults of the processes that serve."""

import asyncio

from consistency.faults.base import InjectedFault


class WorkersSuspended(InjectedFault):
    """Half of the workers are suspended (SIGSTOP)."""

    async def happen(self, scene, seconds):
        suspended = scene.some(scene.fleet.workers)
        for worker in suspended:
            worker.pause()
        await asyncio.sleep(seconds)
        for worker in suspended:
            worker.resume()


class _Ordered(InjectedFault):
    """Half of the workers carry out a command for all the time."""

    command: str

    async def happen(self, scene, seconds):
        for worker in scene.some(scene.fleet.workers):
            worker.tell(self.command, seconds)
        await asyncio.sleep(seconds)


class LoopBlocked(_Ordered):
    """The event loops of half of the workers are blocked. Their other threads run."""

    command = "block"


class GilHeld(_Ordered):
    """C code holds the GIL of half of the workers, so none of their threads runs Python."""

    command = "hold"


class WorkersForked(_Ordered):
    """Half of the workers fork under load. Child and parent both answer requests."""

    command = "fork"
