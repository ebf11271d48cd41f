"""The program of each process of the fleet: answers requests, revokes, and obeys the run.

Its only argument is an `Orders` as JSON. Its input has one command per line. It stops at the end of
its input, and then prints its counters as JSON.
"""

import asyncio
import ctypes
import itertools
import json
import os
import random
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from pkgutil import resolve_name

from consistency.clock import now
from consistency.engine import VersionedEngine
from consistency.history import EVALUATED, FAILED, AnswerLog, Revocation, RevocationLog
from sark_cache import InvalidationError

READY = "ready"
"""The line that a member prints once the cache has answered."""
LOADED, SET = ("doc-0", "doc-1"), ("doc-2",)
"""The resources whose decisions are loaded with `get_or_load`, and those stored with `set`.

A `set` that fails has its decision removed later, which can hide a defect of `get_or_load`. So no
resource has both.
"""
SLOW_EVALUATION = 0.02
"""The maximum duration of a slow evaluation, in seconds. One in ten is slow."""
RETRY_SECONDS = 0.05
"""Seconds until a revocation that was not confirmed is repeated."""


@dataclass(frozen=True)
class Orders:
    """The task of a member.

    Attributes:
        number: The number of the member.
        directory: Holds the engine's file and the logs.
        factory: The cache, as `module:function`; see `consistency.factories`.
        url: The URL of the server, or of the proxy in front of it.
        max_staleness: The argument of the factory.
        settles: The argument of the factory. True: a revocation returns when no process serves
            older decisions any more. False: when it is recorded.
        users: The number of all users.
        revokes: The users whose decisions this member revokes.
        revocations_per_second: The number of revocations it begins in a second, if none is slow.
        tasks: The number of requests it answers at once. 0: it only revokes.
        pause: The mean time between an answer and the task's next request, in seconds.
    """

    number: int
    directory: str
    factory: str
    url: str
    max_staleness: float
    settles: bool
    users: int
    revokes: tuple[int, ...]
    revocations_per_second: float
    tasks: int
    pause: float

    @property
    def allowed_seconds(self):
        """Returns the time after a revocation in which older decisions may be served."""
        return 0.0 if self.settles else self.max_staleness

    def text(self):
        """Returns the orders as an argument of the program."""
        return json.dumps(asdict(self))


class Member:
    """One process of the fleet."""

    def __init__(self, orders):
        self._orders = orders
        self._engine = VersionedEngine(Path(orders.directory) / "versions")
        self._cache = resolve_name(orders.factory)(
            orders.url, orders.max_staleness, settles=orders.settles
        )
        self._answers = AnswerLog(orders.directory, orders.number)
        self._revocations = RevocationLog(orders.directory, orders.number)
        self._children = []
        self._stops = False

    async def run(self):
        """Works until the end of the input."""
        await self._ask(0)
        tell(READY)
        async with asyncio.TaskGroup() as working:
            for _ in range(self._orders.tasks):
                working.create_task(self._answer())
            if self._orders.revokes:
                working.create_task(self._revoke())
            await self._obey()
            self._stops = True
        await self._end()

    async def _obey(self):
        """Carries out the commands of the input, each in the event loop, as it must block it."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        commands = {"block": time.sleep, "hold": hold_gil, "fork": self._fork}
        async for line in reader:
            command, seconds = line.decode().split()
            commands[command](float(seconds))

    async def _end(self):
        for pid in self._children:
            _, status = await asyncio.to_thread(os.waitpid, pid, 0)
            if status:
                sys.exit(f"the forked child {pid} ended with status {status}")
        self._answers.close()
        self._revocations.close()
        counters = asdict(self._cache.metrics)
        await self._cache.close()
        tell(json.dumps(counters))

    # Requests

    async def _answer(self):
        """Answers requests, some at once and most after a pause, so that requests coincide."""
        while not self._stops:
            await self._ask(random.randrange(self._orders.users))
            await asyncio.sleep(random.choice((0, 2, 2)) * self._orders.pause * 0.75)

    async def _ask(self, user):
        version = flags = 0
        began = now()

        async def evaluate():
            nonlocal flags
            flags |= EVALUATED
            present = self._engine.version(user)
            if random.random() < 0.1:
                await asyncio.sleep(random.uniform(0, SLOW_EVALUATION))
            return {"allow": True, "version": present}

        resource = random.choice((*LOADED, *SET))
        request = (name_of(user), "read", resource)
        ask = self._load if resource in LOADED else self._look_up
        try:
            decision = await ask(request, evaluate, [tag_of(user)])
            version = decision["version"]
        except Exception:  # noqa: BLE001 - the checker reports it
            traceback.print_exc()
            flags |= FAILED
        self._answers.add(began, now(), user, version, flags)

    async def _load(self, request, evaluate, tags):
        return await self._cache.get_or_load(*request, evaluate, tags=tags)

    async def _look_up(self, request, evaluate, tags):
        """Answers as a service does that evaluates by its own means."""
        decision = await self._cache.get(*request)
        if decision is None:
            stamp = self._cache.stamp()
            decision = await evaluate()
            await self._cache.set(*request, decision, tags=tags, stamp=stamp)
        return decision

    # Revocations

    async def _revoke(self):
        ways = itertools.cycle(
            (
                ("invalidate(user_id)", lambda user: self._cache.invalidate(name_of(user))),
                ("invalidate(tags)", lambda user: self._cache.invalidate(tags=[tag_of(user)])),
                ("invalidate_pattern", lambda user: self._cache.invalidate_pattern(glob_of(user))),
            )
        )
        while not self._stops:
            user, way = random.choice(self._orders.revokes), next(ways)
            begin = now()
            version = self._engine.raise_version(user)
            while not await self._confirmed(user, version, begin, *way) and not self._stops:
                await asyncio.sleep(RETRY_SECONDS)
            spent = now() - begin
            await asyncio.sleep(max(0, 1 / self._orders.revocations_per_second - spent))

    async def _confirmed(self, user, version, changed, name, revoke):
        """Tries to revoke once. Returns whether the cache confirmed it."""
        error = ""
        called = now()
        try:
            await revoke(user)
        except InvalidationError as unconfirmed:
            error = str(unconfirmed)
        times = (changed, called, now())
        self._revocations.add(
            Revocation(
                *(self._orders.number, user, version, name, *times, error),
                self._orders.allowed_seconds,
            )
        )
        return not error

    # Faults

    def _fork(self, seconds):
        """Forks a child that answers for some time with the cache that it inherits."""
        self._answers.flush()
        pid = os.fork()
        if pid:
            self._children.append(pid)
            return
        status = 1
        try:
            self._answers = AnswerLog(self._orders.directory, self._orders.number)
            asyncio.run(self._answer_for(seconds))
            self._answers.close()
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)

    async def _answer_for(self, seconds):
        async with asyncio.TaskGroup() as working:
            for _ in range(self._orders.tasks):
                working.create_task(self._answer())
            await asyncio.sleep(seconds)
            self._stops = True


def tell(line):
    """Writes a line to the run."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def hold_gil(seconds):
    """Sleeps in C code that keeps the GIL, so that no thread of this process runs."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def name_of(user):
    """Returns the id of a user."""
    return f"user-{user}"


def tag_of(user):
    """Returns the tag of all decisions about a user."""
    return f"of-user-{user}"


def glob_of(user):
    """Returns the pattern of all decisions about a user."""
    return f"policy:decision:{name_of(user)}:*"


if __name__ == "__main__":
    asyncio.run(Member(Orders(**json.loads(sys.argv[1]))).run())
