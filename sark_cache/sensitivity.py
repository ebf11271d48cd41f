"""Sensitivities: names that bound how long a decision lives."""

from collections.abc import Mapping

from sark_cache.faults import logger

MAX_WARNED_OF = 64
"""So many unknown names are warned of in a process, each once."""
MAX_SHOWN = 64
"""The most characters of a name that are logged."""

_warned_of: set[str] = set()


def bounded_ttl(ttl_seconds: float, sensitivity: str | None, table: Mapping[str, float]) -> float:
    """Returns how long a decision of a sensitivity lives: a sensitivity can only shorten it.

    An unknown name changes nothing and is warned of once.

    Args:
        ttl_seconds: How long it lives otherwise, in seconds.
        sensitivity: A name, or None.
        table: How long decisions of each name live at most, in seconds.
    """
    if sensitivity is None:
        return ttl_seconds
    longest = table.get(sensitivity)
    if longest is None:
        warn_of_unknown(sensitivity, table)
        return ttl_seconds
    return min(ttl_seconds, longest)


def warn_of_unknown(sensitivity: str, table: Mapping[str, float]) -> None:
    """Logs at WARNING, once in a process, that a name is none in the table."""
    shown = str.__getitem__(sensitivity, slice(MAX_SHOWN))
    if shown in _warned_of or len(_warned_of) >= MAX_WARNED_OF:
        return
    _warned_of.add(shown)
    logger.warning(
        "unknown sensitivity %r: it shortens no time to live. Known are %s",
        shown,
        ", ".join(sorted(table)),
    )
