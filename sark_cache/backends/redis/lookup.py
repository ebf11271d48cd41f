"""The result of a look-up, read from the value of a key."""

import time
from typing import NamedTuple

from sark_cache._core.errors import UnavailableError
from sark_cache._core.keys import RequestKey
from sark_cache.backends.redis import scripts
from sark_cache.backends.redis.entry import CorruptEntryError, Entry, decode
from sark_cache.backends.redis.replies import Held
from sark_cache.backends.redis.write import lifetime_ms

STRETCHED = "an entry with more time left than its time to live: the server's clock went back"

_RESERVATION = {str: scripts.RESERVATION, bytes: scripts.RESERVATION.encode()}


class LookupResult(NamedTuple):
    """The result of a look-up."""

    entry: Entry | None = None
    left_seconds: float = 0.0
    position: str | None = None
    """The log's position. None: it was not requested, or is unknown."""
    held: str | bytes | None = None
    """The value of the key, which the next decision replaces. None: the key is empty."""
    fault: str | None = None
    """The reason for which the value cannot be used, or the server's error. None: there is none."""
    marker: str | None = None
    """The marker beside the key. A decision was stored there at most `MARKER_MS` ago."""
    era: int = 0
    """The number, in this process, of the newest revocation that may concern the request."""
    asked_at: float = 0.0
    """The `boot_time()` at which the look-up began."""
    spent: float = 0.0
    """The part of the request's time that the look-up took, in seconds."""


def result_of(key: RequestKey, held: Held | UnavailableError) -> LookupResult:
    """Returns the result of a look-up, given the value of the key or the server's error."""
    if isinstance(held, UnavailableError):
        return LookupResult(fault=str(held))
    value, left_ms = held
    if value is None or value.startswith(_RESERVATION[type(value)]):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        return LookupResult()
    try:
        entry = decode(value, key)
    except CorruptEntryError as error:
        return LookupResult(held=value, fault=str(error))
    # Below 0: without expiration, so another writer's. 0: in its last millisecond.
    if left_ms < 0:
        return LookupResult(held=value)
    if left_ms > lifetime_ms(entry.ttl_seconds):
        return LookupResult(held=value, fault=STRETCHED)
    return LookupResult(entry, left_ms / 1e3, held=value)


def boot_time() -> float:
    """Returns a monotonic time, in seconds. On Linux it includes the time of suspension."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)
