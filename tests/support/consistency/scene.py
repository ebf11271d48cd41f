"""Everything that a fault can reach."""

from dataclasses import dataclass
from random import Random
from typing import Any


@dataclass(frozen=True)
class Scene:
    """The fleet, its server and the proxies between them.

    Attributes:
        fleet: The processes.
        server: The server of all, or the group of servers.
        proxies: One proxy for each worker, in the same order; empty if no fault needs them.
        random: The source of all choices, seeded by the run.
    """

    fleet: Any
    server: Any
    proxies: list[Any]
    random: Random

    def some(self, of):
        """Returns half of some things, at least one."""
        return self.random.sample(of, max(1, len(of) // 2))
