"""The interface of faults."""

from abc import ABC, abstractmethod
from typing import ClassVar


class InjectedFault(ABC):
    """Something that goes wrong for some seconds.

    Attributes:
        through_proxies: True if workers must reach the server through proxies.
        loses_log: True if the log's records are lost, so a cache may have to drop everything.
        directives: Directives that the server needs in its configuration, as for `Server`.
    """

    through_proxies: ClassVar[bool] = False
    loses_log: ClassVar[bool] = False
    directives: ClassVar[dict[str, str]] = {}

    @abstractmethod
    async def happen(self, scene, seconds):
        """Begins, lasts for some seconds, and heals."""
