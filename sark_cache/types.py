"""Type aliases of the public interface, and `Loaded`."""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from sark_cache._core.limits import MAX_TAGS

__all__ = [
    "BatchEntry",
    "BatchRequest",
    "Context",
    "JSONObject",
    "Loaded",
    "Loader",
    "RevalidateCallback",
]

JSONObject: TypeAlias = dict[str, Any]
"""A JSON object: str keys; str, int, float, bool, None, list and dict values, 64 levels deep."""

Context: TypeAlias = Mapping[str, Any]
"""A JSON object with the facts that a decision depends on, besides user, action and resource."""

BatchRequest: TypeAlias = tuple[str, str, str] | tuple[str, str, str, Context | None]
"""`(user_id, action, resource, context)`; the context is optional."""

BatchEntry: TypeAlias = (
    tuple[str, str, str, Mapping[str, Any]]
    | tuple[str, str, str, Mapping[str, Any], Context | None]
    | tuple[str, str, str, Mapping[str, Any], Context | None, float | None]
)
"""`(user_id, action, resource, decision, context, ttl_seconds)`; the last two are optional."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loader's return value that also sets the time to live and tags of the stored decision.

    Args:
        decision: The decision.
        ttl_seconds: The time to live in seconds. 0: the decision is not stored. None: the time
            that `get_or_load` was given, or otherwise the cache's. A sensitivity can shorten it.
        tags: Names by which the decision can be revoked, in addition to those of `get_or_load`.
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
"""Evaluates one request: an async function without arguments that returns the decision."""

RevalidateCallback: TypeAlias = Callable[
    [str, str, str, Context | None], Awaitable[Mapping[str, Any] | Loaded | None]
]
"""Evaluates one request again: `(user_id, action, resource, context) -> decision`.

If it returns None, the entry stays until its time to live is over.
"""
