"""Results of the methods, which are coroutines to a type checker.

The methods are functions that return coroutines, not coroutine functions: each acts when it is
called.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, assert_type

from sark_cache import (
    AsyncCache,
    Decision,
    PolicyCache,
    PolicyCacheProtocol,
    RustPolicyCache,
)
from sark_cache.types import JSONObject


async def in_tasks(cache: RustPolicyCache) -> None:
    task = asyncio.create_task(cache.get("alice", "read", "doc"), name="look up")
    assert_type(task, asyncio.Task[JSONObject | None])
    assert_type(await task, JSONObject | None)
    async with asyncio.TaskGroup() as group:
        decision = group.create_task(cache.get_decision("alice", "read", "doc"))
        removed = group.create_task(cache.invalidate(user_id="alice"))
    assert_type(decision.result(), Decision | None)
    assert_type(removed.result(), int)


async def together(cache: RustPolicyCache) -> None:
    sizes = await asyncio.gather(cache.size(), cache.get_cache_size(), cache.clear())
    assert_type(sizes, tuple[int, int, bool])
    several = await asyncio.gather(*(cache.get(user, "read", "doc") for user in ("a", "b")))
    assert_type(several, list[JSONObject | None])
    done, _ = await asyncio.wait([asyncio.ensure_future(cache.health_check())])
    assert_type(done.pop().result(), bool)


async def within_a_time(cache: RustPolicyCache) -> None:
    assert_type(await asyncio.wait_for(cache.size(), 1), int)
    assert_type(await asyncio.shield(cache.delete("alice", "read", "doc")), bool)


def from_outside(cache: RustPolicyCache, event_loop: asyncio.AbstractEventLoop) -> None:
    assert_type(asyncio.run(cache.cleanup_expired()), int)
    assert_type(event_loop.run_until_complete(cache.clear()), bool)
    assert_type(asyncio.run_coroutine_threadsafe(cache.size(), event_loop).result(), int)


def by_hand(cache: RustPolicyCache) -> None:
    """Uses the members of `Coroutine`, which is all there is: it is no `types.CoroutineType`."""
    coroutine = assert_type(cache.size(), Coroutine[object, None, int])
    awaitable: Awaitable[int] = coroutine
    as_written: Coroutine[Any, Any, int] = coroutine
    del awaitable, as_written
    assert_type(coroutine.send(None), object)
    coroutine.close()


def as_callables(native: RustPolicyCache, redis: PolicyCache, general: AsyncCache) -> None:
    """Passes the methods where a function that returns a coroutine is expected."""
    size: Callable[[], Coroutine[object, None, int]]
    for size in (native.size, redis.size, general.size):
        assert_type(asyncio.run(size()), int)


class Own:
    """A part of a user-defined cache."""

    async def size(self) -> int:
        return 0


def by_anybody(cache: PolicyCacheProtocol, own: Own) -> None:
    sizes: list[Callable[[], Coroutine[object, None, int]]] = [cache.size, own.size]
    del sizes
