"""Awaitables of the native caches work wherever coroutines do."""

import asyncio
import collections.abc
import gc
import inspect
import weakref

import anyio
import pytest

from awaiting import ready
from sark_cache import RustPolicyCache

ALLOW = {"allow": True}
MANY = 3_000
"""More entries than one step visits: an operation on all of them is not ready at once."""


@pytest.fixture(params=["ready", "pending"])
def ask(request, cache):
    """A call whose awaitable is ready at once, and one whose awaitable is not."""
    entries = [("alice", "read", str(i), ALLOW) for i in range(MANY)]
    asyncio.run(cache.set_batch(entries))
    if request.param == "ready":
        return lambda: cache.get("alice", "read", "1"), ALLOW
    return cache.size, MANY


def test_it_is_a_coroutine_to_asyncio_and_to_collections(ask):
    call, _ = ask
    awaitable = call()
    assert asyncio.iscoroutine(awaitable)
    assert isinstance(awaitable, collections.abc.Coroutine)
    assert inspect.isawaitable(awaitable)
    awaitable.close()


def test_a_hit_is_ready_without_any_event_loop(cache):
    assert ready(cache.set("alice", "read", "doc", ALLOW)) is True
    assert ready(cache.get("alice", "read", "doc")) == ALLOW
    assert ready(cache.get("bob", "read", "doc")) is None
    assert ready(cache.get_batch([("alice", "read", "doc")])) == [ALLOW]


def test_functions_that_take_coroutines_accept_it(ask):
    call, expected = ask

    async def main():
        assert await call() == expected
        assert await asyncio.create_task(call()) == expected
        assert await asyncio.ensure_future(call()) == expected
        assert await asyncio.gather(call(), call()) == [expected, expected]
        assert await asyncio.wait_for(call(), 5) == expected
        async with asyncio.timeout(5):
            assert await call() == expected
        async with asyncio.TaskGroup() as group:
            task = group.create_task(call())
        assert task.result() == expected
        done, _ = await asyncio.wait([asyncio.ensure_future(call())])
        assert done.pop().result() == expected
        assert await asyncio.shield(call()) == expected
        [first] = [await future for future in asyncio.as_completed([call()])]
        assert first == expected

    asyncio.run(main())


def test_asyncio_run_accepts_it(ask):
    call, expected = ask
    assert asyncio.run(call()) == expected


def test_it_can_be_run_in_the_loop_of_another_thread(ask):
    call, expected = ask

    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.to_thread(
            lambda: asyncio.run_coroutine_threadsafe(call(), loop).result(5)
        )

    assert asyncio.run(main()) == expected


def test_anyio_accepts_it(ask):
    call, expected = ask

    async def main():
        results = []

        async def one():
            results.append(await call())

        async with anyio.create_task_group() as group:
            group.start_soon(one)
            group.start_soon(one)
        with anyio.fail_after(5):
            results.append(await call())
        return results

    assert anyio.run(main) == [expected] * 3


def test_uvloop_accepts_it(ask):
    uvloop = pytest.importorskip("uvloop", reason="uvloop does not run on this platform")
    call, expected = ask

    async def main():
        return await asyncio.gather(
            call(), asyncio.create_task(call()), asyncio.wait_for(call(), 5)
        )

    assert uvloop.run(main()) == [expected] * 3


async def test_awaiting_twice_is_an_error(ask):
    call, expected = ask
    awaitable = call()
    assert await awaitable == expected
    with pytest.raises(RuntimeError, match="already awaited"):
        await awaitable
    with pytest.raises(RuntimeError, match="already awaited"):
        awaitable.send(None)
    with pytest.raises(RuntimeError, match="already awaited"):
        awaitable.throw(ValueError("late"))


async def test_a_second_await_during_the_first_fails_without_affecting_it(cache):
    await cache.set_batch([("alice", "read", str(i), ALLOW) for i in range(MANY)])
    awaitable = cache.size()
    future = awaitable.send(None)
    with pytest.raises(RuntimeError, match="being awaited already"):
        await awaitable
    await asyncio.wait([future])
    with pytest.raises(StopIteration) as stopped:
        awaitable.send(None)
    assert stopped.value.value == MANY


@pytest.mark.parametrize("spend", ["close", "throw"])
async def test_a_closed_or_thrown_into_awaitable_cannot_be_awaited(ask, spend):
    call, _ = ask
    awaitable = call()
    if spend == "close":
        assert awaitable.close() is None
    else:
        with pytest.raises(KeyError, match="thrown"):
            awaitable.throw(KeyError("thrown"))
    with pytest.raises(RuntimeError, match="already awaited"):
        await awaitable


def test_throw_takes_the_arguments_of_a_coroutine_s_throw(ask):
    call, _ = ask
    for arguments in [
        (KeyError("x"),),
        (KeyError,),
        (KeyError, "x"),
        (KeyError, KeyError("x"), None),
    ]:
        with pytest.raises(KeyError):
            call().throw(*arguments)
    with pytest.raises(TypeError):
        call().throw()


def test_sending_returns_the_result_by_stop_iteration(ask, cache):
    with pytest.raises(StopIteration) as stop:
        cache.get("alice", "read", "1").send(None)
    assert stop.value.value == ALLOW
    with pytest.raises(StopIteration) as stop:
        cache.get("nobody", "read", "1").send(None)
    assert stop.value.value is None
    assert next(iter(cache.get("nobody", "read", "1")), "nothing") == "nothing"


async def test_an_awaitable_that_is_never_awaited_does_not_warn(ask, recwarn):
    call, _ = ask
    for _ in range(10):
        call()
    assert not recwarn


async def test_a_task_that_is_cancelled_before_it_starts_raises_cancelled_error(ask):
    call, _ = ask
    task = asyncio.create_task(call())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_that_is_cancelled_half_way_does_not_stop_the_operation(cache):
    await cache.set_batch([("alice", "read", str(i), ALLOW) for i in range(MANY)])
    other = asyncio.create_task(cache.size())
    task = asyncio.create_task(cache.clear())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await other in range(MANY + 1)
    # The operation is finished although nothing waits for it: the entries are removed.
    async with asyncio.timeout(5):
        while cache.metrics.size:
            await asyncio.sleep(0.001)


def test_awaiting_a_pending_operation_without_asyncio_is_an_error_that_says_so(cache):
    asyncio.run(cache.set_batch([("alice", "read", str(i), ALLOW) for i in range(MANY)]))
    size = cache.size()
    with pytest.raises(RuntimeError, match="no running event loop"):
        size.send(None)
    assert asyncio.run(size) == MANY, "it can still be awaited where there is one"


def test_operations_act_when_called_not_when_awaited():
    cache = RustPolicyCache()
    asked = cache.get("alice", "read", "doc")
    stored = cache.set("alice", "read", "doc", ALLOW)
    assert ready(asked) is None
    assert ready(cache.get("alice", "read", "doc")) == ALLOW
    assert ready(stored) is True


async def test_results_leave_nothing_behind():
    class Marked(dict):
        pass

    cache = RustPolicyCache()
    decision = Marked(allow=True)
    gone = weakref.ref(decision)
    await cache.set("alice", "read", "doc", decision)
    del decision
    assert gone() is None
    before = len(gc.get_objects())
    for _ in range(100):
        await cache.get("alice", "read", "doc")
        await cache.size()
    gc.collect()
    assert len(gc.get_objects()) - before < 50
