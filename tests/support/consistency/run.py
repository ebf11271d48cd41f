"""A whole run: a server, a fleet, faults one after the other, and the check."""

import asyncio
import tempfile
from collections import ChainMap
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

from consistency.checker import check
from consistency.clock import now
from consistency.engine import VersionedEngine
from consistency.fleet import Fleet
from consistency.history import History, Phase
from consistency.member import Orders
from consistency.recovery import RECOVERY_SECONDS, WINDOW_SECONDS
from consistency.scene import Scene
from servers import Server
from servers.proxy import FaultyProxy

WARM_UP_SECONDS = 1.5
"""The time before the first fault, in which the usual hit ratio is measured."""
QUIET_SECONDS = RECOVERY_SECONDS + 2 * WINDOW_SECONDS
"""The time after each fault."""
SHORTEST, LONGEST = 0.5, 10.0
"""The bounds of the length of one fault, in seconds."""
USERS_OF_EACH = 3
"""The number of users whose decisions a member revokes."""


@dataclass(frozen=True)
class Plan:
    """The arguments of a run.

    Attributes:
        cache: The cache to check, as `module:function`; see `consistency.factories`.
        faults: The classes of the faults, which happen one after the other.
        seconds: The time for each fault, recoveries included. A fault may happen several times.
        max_staleness: The promise of the cache, in seconds. If it is not 0, half of the members
            revoke without waiting for other processes, so that both promises are checked.
        revokers_cache: The cache of the members that only revoke. None: the same.
        workers: The number of members that answer requests, and revoke.
        revokers: The number of members that only revoke.
        revocations_per_second: The number of revocations of each member in a second.
        pause: The mean pause between the requests of a task, in seconds.
        seed: The seed for lengths and choices of faults.
    """

    cache: str
    faults: tuple
    seconds: float = 5.0
    max_staleness: float = 0.0
    revokers_cache: str | None = None
    workers: int = 4
    revokers: int = 1
    revocations_per_second: float = 5.0
    pause: float = 0.01
    seed: int = 0


async def run(plan, progress=lambda _line: None):
    """Carries out a plan, and returns its report.

    Args:
        plan: The plan.
        progress: Called with a line of text now and then.
    """
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="consistency-")))
        server = await asyncio.to_thread(
            _servers(plan), **ChainMap(*(dict(fault.directives) for fault in plan.faults))
        )
        stack.push_async_callback(asyncio.to_thread, server.stop)
        proxies = []
        if any(fault.through_proxies for fault in plan.faults):
            proxies = [
                await stack.enter_async_context(FaultyProxy(server)) for _ in range(plan.workers)
            ]
        orders = _orders(plan, directory, server, proxies)
        fleet = await stack.enter_async_context(Fleet(orders))
        progress(f"{len(fleet.members)} members are ready")
        await asyncio.sleep(WARM_UP_SECONDS)
        phases = await _faults(plan, Scene(fleet, server, proxies, Random(plan.seed)), progress)
        if not plan.faults:
            await asyncio.sleep(plan.seconds)
        counters = await fleet.stop()
        progress("checks the logs")
        return await asyncio.to_thread(
            check,
            History(directory),
            phases,
            counters,
            may_flush=any(fault.loses_log for fault in plan.faults),
        )


def _servers(plan):
    """Returns the function that starts the servers, which all faults share."""
    [servers] = {fault.servers for fault in plan.faults} or {Server}
    return servers


def _orders(plan, directory, server, proxies):
    """Returns the orders of all members, and creates the engine."""
    members = plan.workers + plan.revokers
    users = members * USERS_OF_EACH
    VersionedEngine.create(directory / "versions", users)
    return [
        Orders(
            number=number,
            directory=str(directory),
            factory=plan.cache if number < plan.workers else plan.revokers_cache or plan.cache,
            url=proxies[number].url if number < len(proxies) else server.url,
            max_staleness=plan.max_staleness,
            settles=plan.max_staleness == 0 or number % 2 == 0,
            users=users,
            revokes=tuple(range(number, users, members)),
            revocations_per_second=plan.revocations_per_second,
            tasks=4 if number < plan.workers else 0,
            pause=plan.pause,
        )
        for number in range(members)
    ]


async def _faults(plan, scene, progress):
    """Lets the faults happen, each one for its time. Returns their phases."""
    phases = []
    for fault in plan.faults:
        end = now() + plan.seconds
        while not phases or phases[-1].name != fault.__name__ or _time_for_another(end):
            longest = max(SHORTEST, min(LONGEST, end - now() - QUIET_SECONDS))
            length = scene.random.uniform(SHORTEST, longest)
            progress(f"{fault.__name__} for {length:.1f} s, {end - now():.0f} s left")
            began = now()
            await fault().happen(scene, length)
            phases.append(Phase(fault.__name__, began, now()))
            await asyncio.sleep(QUIET_SECONDS)
    return phases


def _time_for_another(end):
    return end - now() >= SHORTEST + QUIET_SECONDS
