"""The stamp of a decision: the state of the invalidation log before its evaluation."""

import time
from dataclasses import dataclass, field
from math import ceil, floor

from sark_cache.backends.redis import scripts
from sark_cache.backends.redis.lookup import boot_time


@dataclass(frozen=True, slots=True)
class Stamp:
    """The state of a cache's invalidation log at one moment, as far as this process knew it."""

    log: str
    """The key of the log."""
    position: str | None
    """The position of the log. None: this process did not know it yet."""
    taken_at: float = field(default_factory=boot_time)
    """The `boot_time()` of the stamp."""
    taken_at_time: float = field(default_factory=time.time)
    """The time of the stamp by this process's clock, in seconds since 1970."""

    def fence(self) -> str:
        """Returns the position, or the age of the stamp if it has none, in the scripts' format."""
        if self.position is not None:
            return self.position
        age = ceil(1e3 * (boot_time() - self.taken_at)) + scripts.AGE_MARGIN_MS
        time_ms = floor(1e3 * self.taken_at_time) - scripts.AGE_MARGIN_MS
        return f"{max(0, age)}:{max(0, time_ms)}"
