"""The time to live of a decision: the given one or the cache's, at most a sensitivity's.

A sensitivity may only shorten. One that no cache knows changes nothing, and is warned of once.
"""

import logging
from collections.abc import Mapping
from typing import Final

from sark_cache._core import arguments

logger: Final = logging.getLogger("sark_cache")

MOST_WARNED = 64
"""The most names that are warned of in one process, and the most characters of one in the log."""

_warned: set[str] = set()


def time_to_live(
    explicit: float | None,
    default: float,
    sensitivity: str | None,
    sensitivities: Mapping[str, float] | None,
) -> float:
    """Returns how long a decision lives, in seconds.

    Args:
        explicit: What the caller gave; None: nothing.
        default: What the cache has.
        sensitivity: The sensitivity of the request, if it has one.
        sensitivities: The longest time for each sensitivity; None: they do not count.
    """
    seconds = default if explicit is None else explicit
    if sensitivity is None or sensitivities is None:
        return seconds
    longest = sensitivities.get(sensitivity)
    if longest is None:
        warn_of_unknown(sensitivity, sensitivities)
        return seconds
    return min(seconds, arguments.read_ttl(longest) or 0.0)


def warn_of_unknown(sensitivity: str, known: Mapping[str, float]) -> None:
    """Logs at WARNING that a sensitivity has no time to live of its own, once in a process."""
    name = sensitivity[:MOST_WARNED]
    if name in _warned or len(_warned) >= MOST_WARNED:
        return
    _warned.add(name)
    logger.warning(
        "sensitivity %r is unknown, and changes no time to live: use one of %s",
        name,
        ", ".join(known),
    )
