"""A log of faults that writes one message per burst, so that failing requests do not flood it."""

import logging
import os
import time
from typing import Final

logger: Final = logging.getLogger("sark_cache")

QUIET_SECONDS = 10.0
"""The length of a burst, from its first fault. Only the first fault of a burst is logged."""

LEFT_OUT = " (%d more left out since the last such message)"
"""The end of a message if the previous burst had more faults than the logged one."""


class FaultLog:
    """Logs the first fault of a burst, with the number of faults left out of the previous burst.

    Messages never contain the user, resource, context or decision of a request. There is no lock:
    at worst two threads log the same burst. A forked child starts with new bursts, because without
    a GIL a dict has an internal lock, which the child could inherit in the locked state.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._bursts = _Bursts()

    def report(self, operation: str, reason: str) -> None:
        """Logs at WARNING, once per burst, that `operation` failed because of `reason`."""
        self._log(
            logging.WARNING,
            operation,
            "%s cache: %s failed: %s",
            reason,
        )

    def unconfirmed(self, operation: str, reason: str) -> None:
        """Logs at ERROR, once per burst, that a revocation that no caller awaits failed."""
        self._log(
            logging.ERROR,
            f"unconfirmed {operation}",
            "%s cache: %s could not be confirmed: %s. No caller awaits it. The cache may still "
            "serve the decisions that it should have revoked",
            reason,
            operation,
        )

    def revokes_everything(self) -> None:
        """Logs at WARNING, once per burst, that `invalidate()` was called without arguments."""
        self._log(
            logging.WARNING,
            "invalidate()",
            "%s cache: %s %s; use clear() to revoke everything on purpose",
            "without arguments revokes everything",
        )

    def _log(
        self, level: int, burst: str, message: str, reason: str, operation: str | None = None
    ) -> None:
        bursts = self._bursts
        if bursts.process != os.getpid():
            bursts = self._bursts = _Bursts()
        now = time.monotonic()
        if now < bursts.quiet_until.get(burst, 0.0):
            bursts.left_out[burst] = bursts.left_out.get(burst, 0) + 1
            return
        bursts.quiet_until[burst] = now + QUIET_SECONDS
        left_out = bursts.left_out.pop(burst, 0)
        named = operation or burst
        message, counts = (f"{message}{LEFT_OUT}", (left_out,)) if left_out else (message, ())
        logger.log(
            level,
            message,
            self._backend,
            named,
            reason,
            *counts,
            extra={"backend": self._backend, "operation": named, "left_out": left_out},
        )


class _Bursts:
    """The bursts of one process, by operation."""

    def __init__(self) -> None:
        self.process: Final = os.getpid()
        self.quiet_until: Final[dict[str, float]] = {}
        self.left_out: Final[dict[str, int]] = {}
