"""The clock that all processes of a run share."""

import time

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


def now():
    """Returns the seconds since the machine started; on Linux they include suspension."""
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)
