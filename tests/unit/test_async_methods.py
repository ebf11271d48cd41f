"""Methods of the native caches: frameworks recognize them as async, and each acts when called."""

import asyncio
import contextlib
import functools
import gc
import inspect
import pickle
import sys
import time
from unittest.mock import MagicMock, create_autospec

import pytest

from awaiting import ready
from interpreters import run
from sark_cache import AsyncCache, RustPolicyCache

ALLOW = {"allow": True}
MANY = 3_000
"""More entries than one step visits: an operation on all of them is not ready at once."""

METHODS = [
    *[
        (RustPolicyCache, name)
        for name in (
            "get",
            "get_decision",
            "get_batch",
            "set",
            "delete",
            "get_or_load",
            "set_batch",
            "preload_cache",
            "invalidate",
            "invalidate_pattern",
            "clear",
            "clear_all",
            "size",
            "get_cache_size",
            "cleanup_expired",
            "health_check",
            "close",
        )
    ],
    *[
        (AsyncCache, name)
        for name in ("get", "set", "delete", "get_or_load", "clear", "size", "cleanup_expired")
    ],
]

each_method = pytest.mark.parametrize(
    ("kind", "name"), METHODS, ids=[f"{kind.__name__}.{name}" for kind, name in METHODS]
)


@each_method
def test_a_method_is_recognized_as_a_coroutine_function(kind, name):
    for owner in (kind, kind()):
        method = getattr(owner, name)
        assert asyncio.iscoroutinefunction(method)
        assert asyncio.iscoroutinefunction(functools.partial(method)) or sys.version_info < (3, 12)
        if sys.version_info >= (3, 12):
            assert inspect.iscoroutinefunction(method)


def test_a_method_without_an_awaitable_is_not_recognized_as_one():
    for name in ("stamp", "get_metrics", "record_opa_latency", "reset_metrics"):
        assert not asyncio.iscoroutinefunction(getattr(RustPolicyCache(), name))


@each_method
def test_starlette_awaits_it(kind, name):
    background = pytest.importorskip("starlette.background", reason="starlette is not installed")
    assert background.BackgroundTask(getattr(kind(), name)).is_async is True


@each_method
async def test_a_mock_of_it_returns_awaitables(kind, name):
    for mocked in (
        MagicMock(spec=kind),
        MagicMock(spec=kind()),
        create_autospec(kind, instance=True),
        create_autospec(kind()),
    ):
        method = getattr(mocked, name)
        method.return_value = 7
        arguments = inspect.signature(getattr(kind(), name)).parameters.values()
        needed = [7 for one in arguments if one.default is one.empty]
        assert await method(*needed) == 7
        method.assert_awaited_once()


@each_method
def test_it_looks_like_a_method(kind, name):
    method, bound = getattr(kind, name), getattr(kind(), name)
    assert method.__name__ == bound.__name__ == name
    assert method.__qualname__.endswith(f".{name}")
    assert method.__doc__ == bound.__doc__
    assert inspect.isroutine(method)
    assert inspect.ismethod(bound)
    assert [*inspect.signature(method).parameters] == [
        "self",
        *inspect.signature(bound).parameters,
    ]
    assert name in repr(method)


def test_it_is_called_like_a_method():
    cache = RustPolicyCache()
    bound = cache.set
    assert bound.__self__ is cache
    assert ready(bound("alice", "read", "doc", ALLOW)) is True
    request = {"user_id": "alice", "action": "read", "resource": "doc"}
    assert ready(cache.get(**request)) == ALLOW
    assert ready(RustPolicyCache.get(cache, "alice", "read", resource="doc")) == ALLOW
    assert ready(functools.partial(RustPolicyCache.get, cache, "alice")("read", "doc")) == ALLOW
    assert cache.get == cache.get
    assert cache.get is not cache.set
    for wrong in (
        RustPolicyCache.get,
        lambda: RustPolicyCache.get(7, "alice", "read", "doc"),
        lambda: RustPolicyCache.get(AsyncCache(), "alice", "read", "doc"),
        lambda: cache.get("alice", "read"),
        lambda: cache.get("alice", "read", "doc", unknown=1),
        lambda: cache.get("alice", "read", "doc", user_id="bob"),
        type(RustPolicyCache.get),
        lambda: pickle.dumps(RustPolicyCache.get),
    ):
        with pytest.raises(TypeError):
            wrong()


def test_a_subclass_overrides_it_and_calls_the_original():
    class Counting(RustPolicyCache):
        asked = 0

        def get(self, *request, **settings):
            self.asked += 1
            return super().get(*request, **settings)

    cache = Counting()
    ready(cache.set("alice", "read", "doc", ALLOW))
    assert ready(cache.get("alice", "read", "doc")) == ALLOW
    assert cache.asked == 1
    assert asyncio.iscoroutinefunction(cache.invalidate)
    assert not asyncio.iscoroutinefunction(cache.get)


def test_calls_leave_no_reference_behind():
    cache, method = RustPolicyCache(), RustPolicyCache.get
    gc.collect()
    before = sys.getrefcount(cache), sys.getrefcount(method)
    for _ in range(1_000):
        ready(cache.get("alice", "read", "doc"))
        bound = cache.get
        ready(bound("alice", "read", "doc"))
        with contextlib.suppress(TypeError):
            cache.get()
    del bound
    gc.collect()
    assert (sys.getrefcount(cache), sys.getrefcount(method)) == before


def filled(size, **settings):
    cache = RustPolicyCache(**settings)
    ready(cache.set_batch([("alice", "read", str(number), ALLOW) for number in range(size)]))
    return cache


DROPPED = {
    "delete": lambda cache: cache.delete("alice", "read", "1"),
    "invalidate": lambda cache: cache.invalidate(user_id="alice"),
    "invalidate_pattern": lambda cache: cache.invalidate_pattern("policy:decision:alice:*"),
    "clear": lambda cache: cache.clear(),
    "clear_all": lambda cache: cache.clear_all(),
    "close": lambda cache: cache.close(),
}


@pytest.mark.parametrize("size", [10, MANY])
@pytest.mark.parametrize("revoke", DROPPED.values(), ids=DROPPED)
def test_a_revocation_that_is_not_awaited_has_taken_effect(revoke, size):
    cache = filled(size)
    assert ready(cache.get("alice", "read", "1")) == ALLOW
    revoke(cache)
    gc.collect()
    assert ready(cache.get("alice", "read", "1")) is None
    assert ready(cache.get_decision("alice", "read", "1")) is None


def test_a_decision_is_stored_without_awaiting():
    cache = RustPolicyCache()
    cache.set("alice", "read", "1", ALLOW)
    cache.set_batch([("alice", "read", "2", ALLOW)])
    cache.preload_cache([("alice", "read", "3", ALLOW)])
    found = ready(cache.get_batch([("alice", "read", number) for number in "123"]))
    assert found == [ALLOW, ALLOW, ALLOW]


@pytest.mark.parametrize("size", [10, MANY])
def test_a_cleanup_that_is_not_awaited_is_done(size):
    cache = filled(size, ttl_seconds=1e-9)
    cache.cleanup_expired()
    until = time.monotonic() + 30
    while cache.metrics.expirations < size:
        assert time.monotonic() < until
    assert cache.metrics.expirations == size


async def test_a_load_that_is_not_awaited_does_not_lead():
    async def load():
        return ALLOW

    cache = RustPolicyCache()
    with pytest.warns(RuntimeWarning, match="never awaited"):
        cache.get_or_load("alice", "read", "doc", load)
    assert await cache.get_or_load("alice", "read", "doc", load) == ALLOW
    cache.get_or_load("alice", "read", "doc", load)
    assert cache.metrics.hits == 1


def test_the_general_cache_acts_at_the_call_too():
    cache = AsyncCache()
    cache.set("key", 1)
    assert ready(cache.get("key")) == 1
    cache.delete("key")
    assert ready(cache.get("key")) is None
    cache.set("key", 1)
    cache.clear()
    assert ready(cache.get("key")) is None


def test_closing_a_cache_that_refreshes_needs_no_await():
    run("""
    import asyncio, gc
    from sark_cache import RustPolicyCache

    async def main():
        cache = RustPolicyCache(ttl_seconds=60)
        cache.STALE_THRESHOLD_RATIO = 1.0
        asked = asyncio.Event()

        async def evaluate(*request):
            asked.set()
            await asyncio.Event().wait()

        cache.set_revalidate_callback(evaluate)
        await cache.set("alice", "read", "doc", {"allow": True}, sensitivity="critical")
        await cache.get("alice", "read", "doc", sensitivity="critical")
        await asked.wait()
        cache.close()
        gc.collect()
        assert cache.closed
        assert await cache.get("alice", "read", "doc") is None

    asyncio.run(main())
    """)
