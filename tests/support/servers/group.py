"""Several servers that are started, settled and stopped together."""

from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import Self

from servers.process import Server, Setting


class ServerGroup(ABC):
    """Servers that are stopped together, the last one first: replicas before their masters."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self._stops = ExitStack()

    def _start(self, **config: Setting) -> Server:
        server = self._stops.enter_context(Server(**config))
        self.servers.append(server)
        return server

    def revive(self) -> None:
        """Starts or resumes every server and waits until they are settled."""
        for server in self.servers:
            server.revive()
        self.settle()

    @abstractmethod
    def settle(self) -> None:
        """Waits until the servers agree on who is a master."""

    def stop(self) -> None:
        """Stops all servers for good."""
        self._stops.close()

    def _with_port(self, port: int) -> Server:
        return next(server for server in self.servers if server.port == port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
