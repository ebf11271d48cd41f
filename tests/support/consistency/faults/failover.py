"""Faults in which another server takes over, of a pair with sentinels and of a cluster."""

import asyncio
import re
from abc import abstractmethod
from contextlib import suppress
from typing import ClassVar

from redis import ResponseError
from redis.crc import key_slot

from consistency.faults.base import InjectedFault
from sark_cache.backends.redis.log import InvalidationLog
from servers import Cluster, Sentinels
from servers.partition import cut_off


def slot_of_log():
    """Returns the slot of the log's keys."""
    return key_slot(InvalidationLog("").key.encode())


class _OfSentinels(InjectedFault):
    servers: ClassVar = Sentinels


class _OfCluster(InjectedFault):
    servers: ClassVar = staticmethod(lambda: Cluster(replicas=1))


class FailoverOrdered(_OfSentinels):
    """A sentinel makes the replica the primary by command."""

    async def happen(self, scene, seconds):
        await asyncio.to_thread(scene.server.failover)
        await asyncio.sleep(seconds)


class _PrimaryLost(_OfSentinels):
    """The primary falls silent until after the failover."""

    loses_log = True  # replication is asynchronous, so the last records may be lost

    async def happen(self, scene, seconds):
        old = scene.server.primary()
        await asyncio.to_thread(self.silence, old)
        await asyncio.to_thread(scene.server.wait_for_primary, other_than=old)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(scene.server.revive)

    @abstractmethod
    def silence(self, server):
        """Makes the server silent."""


class PrimaryKilled(_PrimaryLost):
    """The primary is killed, and comes back as the replica of the new one."""

    def silence(self, server):
        server.kill()


class PrimarySuspended(_PrimaryLost):
    """The primary is suspended (SIGSTOP) until after the failover. Then it still has that role."""

    def silence(self, server):
        server.pause()


class PrimaryCutOff(_OfSentinels):
    """The primary and half of the connections to it are cut off from its replica and sentinels.

    The others find the new primary. Both primaries take writes until the network has healed.
    """

    servers: ClassVar = staticmethod(lambda: Sentinels(separable=True))
    loses_log = True
    has_own_network = True

    async def happen(self, scene, seconds):
        old = scene.server.primary()
        with cut_off(old, scene.server.sources_of_others(old)):
            await asyncio.to_thread(scene.server.wait_for_primary, other_than=old)
            clients = await asyncio.to_thread(old.command, "CLIENT", "LIST", "TYPE", "normal")
            ids = re.findall(r"^id=(\d+)", clients, re.MULTILINE)
            for client in scene.some(ids):
                with suppress(ResponseError):  # it is gone
                    await asyncio.to_thread(old.command, "CLIENT", "KILL", "ID", client)
            await asyncio.sleep(seconds)
        await asyncio.to_thread(scene.server.revive)


class _NodeOfLogLost(_OfCluster):
    """The node with the log falls silent."""

    loses_log = True

    async def happen(self, scene, seconds):
        await asyncio.to_thread(self.silence, scene.server.owner_of(slot_of_log()))
        await asyncio.sleep(seconds)
        await asyncio.to_thread(scene.server.revive)

    @abstractmethod
    def silence(self, server):
        """Makes the server silent."""


class NodeOfLogKilled(_NodeOfLogLost):
    """The node with the log is killed, and comes back as a replica."""

    def silence(self, server):
        server.kill()


class MinoritySuspended(_NodeOfLogLost):
    """The node with the log is suspended (SIGSTOP), as if the network had cut it off."""

    def silence(self, server):
        server.pause()


class SlotOfLogMoved(_OfCluster):
    """The slot of the log moves to another node with all its keys."""

    loses_log = True  # the new node has another history

    async def happen(self, scene, seconds):
        slot = slot_of_log()
        source = scene.server.owner_of(slot)
        target = next(one for one in self._primaries(scene.server) if one is not source)
        await asyncio.to_thread(scene.server.move_slot, slot, target)
        await asyncio.sleep(seconds)

    def _primaries(self, cluster):
        return [one for one in cluster.servers if one.command("ROLE")[0] == "master"]
