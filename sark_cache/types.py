"""Type aliases of the public interface, and `Loaded`."""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from sark_cache._core.limits import MAX_TAGS

__all__ = [
    "BatchEntry",
    "BatchLoader",
    "BatchRequest",
    "Context",
    "JSONObject",
    "Loaded",
    "Loader",
    "RevalidateCallback",
]

JSONObject: TypeAlias = dict[str, Any]
"""A JSON object: a dict with str keys, at most 64 levels deep.

Its values are str, int, float, bool, None, lists and dicts.
"""

Context: TypeAlias = Mapping[str, Any]
"""Further facts that a decision depends on, besides user, action and resource: a JSON object."""

BatchRequest: TypeAlias = tuple[str, str, str] | tuple[str, str, str, Context | None]
"""`(user_id, action, resource, context)`. The context is optional."""

BatchEntry: TypeAlias = (
    tuple[str, str, str, Mapping[str, Any]]
    | tuple[str, str, str, Mapping[str, Any], Context | None]
    | tuple[str, str, str, Mapping[str, Any], Context | None, float | None]
)
"""`(user_id, action, resource, decision, context, ttl_seconds)`. The last two are optional."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loader's return value that also sets the time to live and tags of the stored decision.

    Args:
        decision: The decision.
        ttl_seconds: The time to live in seconds. 0: the decision is not stored. None: the time
            that `get_or_load` was given, or otherwise the default of the cache. A sensitivity can
            shorten it.
        tags: Names by which the decision can be revoked, in addition to the tags that
            `get_or_load` was given.
    """

    decision: Mapping[str, Any]
    ttl_seconds: float | None = None
    tags: Collection[str] = ()

    def __post_init__(self) -> None:
        # An iterator is read here, because it can be read only once. The types of its tags are
        # checked when the decision is stored.
        if isinstance(self.tags, Iterator):
            object.__setattr__(self, "tags", tuple(islice(self.tags, MAX_TAGS + 1)))


Loader: TypeAlias = Callable[[], Awaitable[Mapping[str, Any] | Loaded]]
"""An async function without arguments that evaluates one request and returns the decision."""

BatchLoader: TypeAlias = Callable[
    [list[tuple[str, str, str, Context | None]]],
    Awaitable[list[Any] | tuple[Any, ...]],
]
"""An async function that evaluates many requests, `(user_id, action, resource, context)`.

It returns a list with a decision, a `Loaded` or an exception for each request, in their order.
"""

RevalidateCallback: TypeAlias = Callable[
    [str, str, str, Context | None], Awaitable[Mapping[str, Any] | Loaded | None]
]
"""An async function that evaluates one request again and returns the new decision.

Its arguments are `(user_id, action, resource, context)`. If it returns None, the entry stays until
it expires.
"""
