"""The resources that a user may use, out of many: `filter_allowed`."""

import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Collection,
    Iterable,
    Iterator,
)
from itertools import compress, islice
from typing import Any, TypeAlias, TypeVar, cast

from sark_cache._core import arguments
from sark_cache.backends._shared.load_many import PARALLEL_CALLS, copied
from sark_cache.protocol import PolicyCacheProtocol
from sark_cache.types import BatchLoader, Context

T = TypeVar("T")


Known: TypeAlias = Callable[[str, str, list[Any], Context | None, str], list[bool | None]]
"""Takes a user, an action, resources, a context and a policy. Returns whether each resource is
allowed. None: its decision is not known at once."""


async def allowed_parts(
    cache: PolicyCacheProtocol,
    look_up: Known,
    user_id: str,
    action: str,
    resources: Iterable[T] | AsyncIterable[T],
    loader: BatchLoader,
    context: Context | None,
    *,
    key: Callable[[T], str] | None,
    max_batch: int,
    ttl_seconds: float | None,
    sensitivity: str | None,
    tags: Collection[str],
    policy: str,
) -> AsyncGenerator[list[T], None]:
    """Yields the allowed resources of each part of the resources, in their order.

    Raises:
        TypeError: An argument has the wrong type. The message names it.
        BatchLoadError: The loader raised, or returned no decision for some of the resources.
    """
    arguments.check_request(user_id, action, "", context, sensitivity)
    arguments.check_loader(loader, arguments.BATCH_LOADER)
    arguments.read_ttl(ttl_seconds)
    arguments.read_policy(policy)
    names = arguments.read_tags(tags)
    size = min(PARALLEL_CALLS * arguments.read_max_batch(max_batch), sys.maxsize)
    context = copied(context)
    async for part in _parts(resources, size):
        named = part if key is None else [key(one) for one in part]
        known = look_up(user_id, action, named, context, policy)
        missed = [place for place, allow in enumerate(known) if allow is None]
        if missed:
            decisions = await cache.get_or_load_many(
                [(user_id, action, cast("str", named[place]), context) for place in missed],
                loader,
                ttl_seconds=ttl_seconds,
                sensitivity=sensitivity,
                tags=names,
                policy=policy,
                max_batch=max_batch,
            )
            for place, decision in zip(missed, decisions, strict=True):
                known[place] = decision.get("allow") is True
        yield [*compress(part, known)]


async def _parts(
    resources: Iterable[T] | AsyncIterable[T], size: int
) -> AsyncGenerator[list[T], None]:
    if isinstance(resources, AsyncIterable):
        part: list[T] = []
        async for one in resources:
            part.append(one)
            if len(part) == size:
                yield part
                part = []
        if part:
            yield part
        return
    left: Iterator[T] = iter(arguments.check_resources(resources))
    while part := list(islice(left, size)):
        yield part
