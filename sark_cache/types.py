"""Type aliases of the public interface, and `Loaded`."""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from sark_cache._core.arguments import MAX_TAGS

JSONObject: TypeAlias = dict[str, Any]
"""A JSON object: str keys; str, int, float, bool, None, list and dict values, 64 levels deep."""

Context: TypeAlias = Mapping[str, Any]
"""What a decision depends on besides user, action and resource: a JSON object."""

BatchRequest: TypeAlias = tuple[str, str, str] | tuple[str, str, str, Context | None]
"""`(user_id, action, resource, context)`; the context may be left out."""

BatchEntry: TypeAlias = (
    tuple[str, str, str, Mapping[str, Any]]
    | tuple[str, str, str, Mapping[str, Any], Context | None]
    | tuple[str, str, str, Mapping[str, Any], Context | None, float | None]
)
"""`(user_id, action, resource, decision, context, ttl_seconds)`; the last two may be left out."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a loader returns when it decides late how its decision is stored.

    Args:
        decision: The decision, as a loader could return it alone.
        ttl_seconds: How long it lives, in seconds; 0 stores nothing. None: as `get_or_load` was
            told, or as the cache says. A sensitivity can shorten it.
        tags: Names to revoke it by, besides those that `get_or_load` was given.
    """

    decision: Mapping[str, Any]
    ttl_seconds: float | None = None
    tags: Collection[str] = ()

    def __post_init__(self) -> None:
        # An iterator is read here: it would be empty when it is read again. What its tags are is
        # checked where they are stored.
        if isinstance(self.tags, Iterator):
            object.__setattr__(self, "tags", tuple(islice(self.tags, MAX_TAGS + 1)))


Loader: TypeAlias = Callable[[], Awaitable[Mapping[str, Any] | Loaded]]
"""Evaluates one request: an async function without arguments that returns the decision."""

RevalidateCallback: TypeAlias = Callable[
    [str, str, str, Context | None], Awaitable[Mapping[str, Any] | Loaded | None]
]
"""Evaluates one request again: `(user_id, action, resource, context) -> decision`.

None means that there is nothing new: the entry stays until its time to live is over.
"""
