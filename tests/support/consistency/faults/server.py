"""Faults of the server, its memory and its log."""

import asyncio
import shutil
from abc import abstractmethod
from contextlib import suppress
from typing import ClassVar

from consistency.faults.base import InjectedFault
from servers import wait_until

AGAIN_SECONDS = 0.2
"""Seconds between two blows of a fault that repeats one."""


class ServerPaused(InjectedFault):
    """The server is suspended (SIGSTOP)."""

    async def happen(self, scene, seconds):
        scene.server.pause()
        await asyncio.sleep(seconds)
        scene.server.resume()


class ServerEmptied(InjectedFault):
    """The server is killed, and comes back empty."""

    loses_log = True

    async def happen(self, scene, seconds):
        await asyncio.to_thread(scene.server.kill)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(scene.server.start)


class ServerRestored(InjectedFault):
    """The server is killed, and comes back with a snapshot from before some revocations."""

    loses_log = True

    async def happen(self, scene, seconds):
        snapshot = scene.server.directory / "dump.rdb"
        kept = snapshot.with_name("kept.rdb")
        await asyncio.to_thread(scene.server.command, "SAVE")
        shutil.move(snapshot, kept)
        await asyncio.sleep(seconds / 2)
        await asyncio.to_thread(scene.server.kill)
        shutil.move(kept, snapshot)
        await asyncio.sleep(seconds / 2)
        await asyncio.to_thread(scene.server.start)
        snapshot.unlink()  # for the next fault, the server has no snapshot


class ServerSleeps(InjectedFault):
    """The server executes one long command. Redis 6.2 refuses the directive."""

    directives: ClassVar = {"enable_debug_command": "local"}

    async def happen(self, scene, seconds):
        from redis import RedisError

        with suppress(RedisError):  # it takes longer than a command of the tests may
            await asyncio.to_thread(scene.server.command, "DEBUG", "SLEEP", seconds)
        await asyncio.to_thread(
            wait_until, lambda: scene.server.command("PING") == "PONG", "the server is awake"
        )


class ClientsPaused(InjectedFault):
    """The server reads no commands (CLIENT PAUSE)."""

    async def happen(self, scene, seconds):
        await asyncio.to_thread(scene.server.command, "CLIENT", "PAUSE", int(seconds * 1000))
        await asyncio.sleep(seconds)


class MemoryFull(InjectedFault):
    """The server refuses every write that could need memory. A revocation then removes the log."""

    loses_log = True

    async def happen(self, scene, seconds):
        configure = ("CONFIG", "SET", "maxmemory")
        await asyncio.to_thread(scene.server.command, *configure, 1)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(scene.server.command, *configure, 0)


class _RepeatedOnServer(InjectedFault):
    """A blow that falls again and again."""

    async def happen(self, scene, seconds):
        async with asyncio.TaskGroup() as blows:
            end = asyncio.get_running_loop().time() + seconds
            while (left := end - asyncio.get_running_loop().time()) > 0:
                blows.create_task(asyncio.to_thread(self.strike, scene.server))
                await asyncio.sleep(min(left, AGAIN_SECONDS))

    @abstractmethod
    def strike(self, server):
        """Does the damage once."""


class ClientsKilled(_RepeatedOnServer):
    """The server closes the connections of all clients (CLIENT KILL)."""

    def strike(self, server):
        server.command("CLIENT", "KILL", "TYPE", "normal")


class ServerFlushed(_RepeatedOnServer):
    """All keys are deleted (FLUSHALL)."""

    loses_log = True

    def strike(self, server):
        server.command("FLUSHALL")


class LogDeleted(_RepeatedOnServer):
    """The log is deleted. Decisions stay."""

    loses_log = True

    def strike(self, server):
        for log in logs_of(server):
            server.command("DEL", log)


class LogTrimmed(_RepeatedOnServer):
    """The log loses all its records. Decisions stay."""

    loses_log = True

    def strike(self, server):
        for log in logs_of(server):
            if server.command("TYPE", log) == "stream":
                server.command("XTRIM", log, "MAXLEN", 0)
            else:
                server.command("LTRIM", log, 1, 0)


def logs_of(server):
    """Returns the keys of the logs, whatever the form of the log."""
    keys = server.command("KEYS", "*")
    return [key for key in keys if key.endswith((".log", ".invalidations"))]
