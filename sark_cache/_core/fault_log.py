"""Logging faults once per burst: a backend that fails every request must not flood the log."""

import logging
import os
import time
from typing import Final

logger: Final = logging.getLogger("sark_cache")

QUIET_SECONDS = 10.0
"""A burst is logged once; after this long, the next fault is logged again."""

LEFT_OUT = " (%d more left out since the last such message)"
"""Ends the message after a burst of which something was left out."""


class FaultLog:
    """Logs the first fault of a burst, and with the next burst how many were left out.

    Never logs what was asked for or decided: no user, no resource, no context. Has no lock: at
    worst two threads log the same burst. A forked child begins with bursts of its own. Without a
    GIL a dict has a lock inside, and a child could inherit it taken.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._bursts = _Bursts()

    def report(self, operation: str, reason: str) -> None:
        """Logs that `operation` failed because of `reason`, unless this burst was logged."""
        self._log(
            logging.WARNING,
            operation,
            "%s cache: %s failed: %s",
            reason,
        )

    def unconfirmed(self, operation: str, reason: str) -> None:
        """Logs at ERROR that a revocation could not be confirmed, and that nobody awaits it."""
        self._log(
            logging.ERROR,
            f"unconfirmed {operation}",
            "%s cache: %s, which nobody awaits, could not be confirmed: %s. What was to be revoked "
            "may still be served",
            reason,
            operation,
        )

    def revokes_everything(self) -> None:
        """Logs at WARNING that `invalidate()` without arguments revokes everything."""
        self._log(
            logging.WARNING,
            "invalidate()",
            "%s cache: %s %s; use clear() where that is meant",
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
    """The bursts of one process."""

    def __init__(self) -> None:
        self.process: Final = os.getpid()
        self.quiet_until: Final[dict[str, float]] = {}
        self.left_out: Final[dict[str, int]] = {}
