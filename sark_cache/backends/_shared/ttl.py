"""The rules of sensitivities: the time to live of a decision, and which entries are refreshed.

The time to live is the given one or the cache's. A sensitivity can only shorten it. An unknown one
changes nothing and is logged once.
"""

import logging
from collections.abc import Collection, Mapping
from typing import Final

from sark_cache._core import arguments

logger: Final = logging.getLogger("sark_cache")

MOST_WARNED = 64
"""The maximum number of unknown names logged in a process, and of characters of each."""

_warned: set[str] = set()


def time_to_live(
    explicit: float | None,
    default: float,
    sensitivity: str | None,
    sensitivities: Mapping[str, float] | None,
) -> float:
    """Returns the time to live of a decision in seconds.

    Args:
        explicit: The time to live that the caller gave; None: none.
        default: The time to live of the cache.
        sensitivity: The sensitivity of the request; None: none.
        sensitivities: The maximum time to live of each sensitivity; None: sensitivities have no
            effect.
    """
    seconds = default if explicit is None else explicit
    if sensitivity is None or sensitivities is None:
        return seconds
    longest = sensitivities.get(sensitivity)
    if longest is None:
        warn_of_unknown(sensitivity, sensitivities)
        return seconds
    return min(seconds, arguments.read_ttl(longest) or 0.0)


def is_refreshed(
    sensitivity: str | None,
    refreshed: Collection[str],
    sensitivities: Mapping[str, float] | None,
) -> bool:
    """Returns whether entries of a sensitivity are refreshed before they expire.

    Args:
        sensitivity: The sensitivity of the request; None: none.
        refreshed: The sensitivities whose entries are refreshed.
        sensitivities: As in `time_to_live`. An unknown name is logged.
    """
    if sensitivity is None:
        return False
    if sensitivity in refreshed:
        return True
    if sensitivities is not None and sensitivity not in sensitivities:
        warn_of_unknown(sensitivity, sensitivities)
    return False


def warn_of_unknown(sensitivity: str, known: Mapping[str, float]) -> None:
    """Logs at WARNING, once per process, that a sensitivity is unknown."""
    name = sensitivity[:MOST_WARNED]
    if name in _warned or len(_warned) >= MOST_WARNED:
        return
    _warned.add(name)
    logger.warning(
        "sensitivity %r is unknown and has no effect on the time to live: use one of %s",
        name,
        ", ".join(known),
    )
