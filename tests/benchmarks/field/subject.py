"""The interface of a measured cache."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

Context = dict[str, Any] | None
Decision = Mapping[str, Any]


class Subject(Protocol):
    """A measured cache of decisions."""

    get: Callable[..., Awaitable[Decision | None]]
    """`get(user, action, resource, context=None)`"""
    set: Callable[..., Awaitable[object]]
    """`set(user, action, resource, decision, context=None)`"""
    close: Callable[[], Awaitable[object]]


Factory = Callable[[int, float], Subject]
"""Makes a subject with a capacity and a TTL in seconds."""
