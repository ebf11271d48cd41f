"""The interface of faults."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from servers import Server


class InjectedFault(ABC):
    """Something that goes wrong for some seconds.

    Attributes:
        through_proxies: True if workers must reach the server through proxies.
        loses_log: True if the log's records are lost, so a cache may have to drop everything.
        servers: Starts the servers. All faults of a run need the same ones.
        has_own_network: True if the run needs a network of its own (see `servers.partition`).
        directives: Directives that a single server needs in its configuration, as for `Server`.
    """

    through_proxies: ClassVar[bool] = False
    loses_log: ClassVar[bool] = False
    has_own_network: ClassVar[bool] = False
    servers: ClassVar[Callable[..., Any]] = Server
    directives: ClassVar[dict[str, str]] = {}

    @abstractmethod
    async def happen(self, scene, seconds):
        """Begins, lasts for some seconds, and heals."""
