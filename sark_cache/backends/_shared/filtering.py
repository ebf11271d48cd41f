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
from typing import TypeVar, cast

from sark_cache._core import arguments
from sark_cache._core.compiled import PolicyStore
from sark_cache.backends._shared.load_many import PARALLEL_CALLS, copied
from sark_cache.protocol import PolicyCacheProtocol
from sark_cache.types import BatchLoader, Context

T = TypeVar("T")


async def allowed_parts(
    cache: PolicyCacheProtocol,
    user_id: str,
    action: str,
    resources: Iterable[T] | AsyncIterable[T],
    loader: BatchLoader,
    context: Context | None,
    key: Callable[[T], str] | None,
    max_batch: int,
    *,
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
    names = arguments.read_tags(tags)
    arguments.check_loader(loader)
    size = min(PARALLEL_CALLS * arguments.read_max_batch(max_batch), sys.maxsize)
    context = copied(context)
    async for part in _parts(resources, size):
        named = part if key is None else [key(one) for one in part]
        known: list[bool | None] = [None] * len(part)
        if isinstance(cache, PolicyStore):
            known = cache._allowed(user_id, action, named, context, policy)  # noqa: SLF001 - made for this
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
