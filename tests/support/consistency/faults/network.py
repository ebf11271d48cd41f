"""Faults of the network between workers and the server. Each one hits half of the workers."""

import asyncio
from abc import abstractmethod

from consistency.faults.base import InjectedFault
from consistency.faults.server import AGAIN_SECONDS


class _Lasting(InjectedFault):
    """A fault of some proxies that lasts."""

    through_proxies = True

    async def happen(self, scene, seconds):
        hit = scene.some(scene.proxies)
        for proxy in hit:
            self.begin(proxy)
        await asyncio.sleep(seconds)
        for proxy in hit:
            proxy.heal()

    @abstractmethod
    def begin(self, proxy):
        """Makes a proxy faulty."""


class WorkersCutOff(_Lasting):
    """No byte arrives in either direction. What was sent arrives once the network has healed."""

    def begin(self, proxy):
        proxy.cut()


class RepliesDelayed(_Lasting):
    """Each reply takes 0.1 s."""

    def begin(self, proxy):
        proxy.delay = 0.1


class _RepeatedOnConnections(InjectedFault):
    """A fault of the connections that exist, again and again. New connections work."""

    through_proxies = True

    async def happen(self, scene, seconds):
        hit = scene.some(scene.proxies)
        end = asyncio.get_running_loop().time() + seconds
        while (left := end - asyncio.get_running_loop().time()) > 0:
            for proxy in hit:
                self.strike(proxy)
            await asyncio.sleep(min(left, AGAIN_SECONDS))

    @abstractmethod
    def strike(self, proxy):
        """Breaks the connections of a proxy."""


class ConnectionsHalfOpen(_RepeatedOnConnections):
    """The server's ends are closed. The workers' ends stay open, and nothing arrives there."""

    def strike(self, proxy):
        proxy.half_open()


class ConnectionsReset(_RepeatedOnConnections):
    """The workers' connections are reset."""

    def strike(self, proxy):
        proxy.reset()
