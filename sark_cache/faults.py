"""Logging faults once per burst: a backend that fails every request must not flood the log."""

import logging
import time
from typing import Final

logger: Final = logging.getLogger("sark_cache")

QUIET_SECONDS = 10.0
"""A burst is logged once; after this long, the next fault is logged again."""


class FaultLog:
    """Logs the first fault of a burst, and with the next burst how many were left out.

    Never logs what was asked for or decided: no user, no resource, no context. Takes no lock, which
    a forked child could inherit taken; at worst two threads log the same burst.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._quiet_until: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def report(self, operation: str, reason: str) -> None:
        """Logs that `operation` failed because of `reason`, unless this burst was logged."""
        now = time.monotonic()
        if now < self._quiet_until.get(operation, 0.0):
            self._left_out[operation] = self._left_out.get(operation, 0) + 1
            return
        self._quiet_until[operation] = now + QUIET_SECONDS
        left_out = self._left_out.pop(operation, 0)
        logger.warning(
            "%s cache: %s failed: %s (%d more left out since the last such message)",
            self._backend,
            operation,
            reason,
            left_out,
            extra={"backend": self._backend, "operation": operation, "left_out": left_out},
        )
