"""`get_or_load`: one loader for concurrent requests, in the task of the first one."""

import asyncio
import contextvars
import gc
import sys
import threading
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from awaiting import ready
from loaders import ALLOW, DENY, REQUEST, ControlledLoader, begun, bringing, never
from sark_cache import AsyncCache, Loaded


async def test_the_result_of_the_loader_is_returned_and_stored(cache):
    assert await cache.get_or_load(*REQUEST, bringing(ALLOW)) == ALLOW
    assert await cache.get_or_load(*REQUEST, never) == ALLOW
    assert await cache.get(*REQUEST) == ALLOW
    metrics = cache.metrics
    assert (metrics.hits, metrics.misses, metrics.loads, metrics.coalesced) == (2, 1, 1, 0)


async def test_a_hit_is_ready_at_once(cache):
    await cache.set(*REQUEST, ALLOW)
    assert ready(cache.get_or_load(*REQUEST, never)) == ALLOW


async def test_the_context_is_part_of_the_request(cache):
    assert await cache.get_or_load(*REQUEST, bringing(ALLOW), {"mfa": True}) == ALLOW
    assert await cache.get_or_load(*REQUEST, bringing(DENY), context={"mfa": False}) == DENY
    assert await cache.get(*REQUEST, {"mfa": True}) == ALLOW


async def test_every_caller_gets_a_separate_copy(cache):
    loader = ControlledLoader()
    tasks = await begun(cache, loader, 3)
    brought = {"allow": True, "roles": ["admin"]}
    loader.bring(brought)
    decisions = await asyncio.gather(*tasks)
    for decision in decisions:
        decision["roles"].clear()
    brought["roles"].append("more")
    assert await cache.get(*REQUEST) == ALLOW
    assert len({id(decision) for decision in decisions}) == 3


async def test_nothing_happens_before_it_is_awaited(cache):
    loading = cache.get_or_load(*REQUEST, never)
    assert asyncio.iscoroutine(loading)
    loading.close()
    assert await cache.get_or_load(*REQUEST, bringing(ALLOW)) == ALLOW


async def test_the_leader_is_the_first_to_be_awaited(cache):
    abandoned = cache.get_or_load(*REQUEST, never)
    assert await cache.get_or_load(*REQUEST, bringing(ALLOW)) == ALLOW
    assert await abandoned == ALLOW, "answered by the entry stored in between"
    assert cache.metrics.coalesced == 1


# Together


def ask_from_loops(cache, loader, loops=4, per_loop=250):
    """Requests one decision from many tasks on each of many loops; returns all answers."""
    barrier = threading.Barrier(loops)

    async def ask(number):
        barrier.wait()
        return await asyncio.gather(
            *(cache.get_or_load(*REQUEST, loader) for _ in range(per_loop)), return_exceptions=True
        )

    with ThreadPoolExecutor(loops) as pool:
        answers = pool.map(lambda number: asyncio.run(ask(number)), range(loops))
    return [answer for loop in answers for answer in loop]


async def all_have_asked(cache, callers):
    """Waits until `count` requests have missed, however long their threads take to start."""
    while cache.metrics.misses < callers:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("round_", range(5))
def test_1000_callers_on_4_loops_are_answered_by_one_load(cache, round_):
    runs = []

    async def load():
        runs.append(threading.get_ident())
        await all_have_asked(cache, 1_000)
        return ALLOW

    assert ask_from_loops(cache, load) == [ALLOW] * 1_000
    assert len(runs) == 1
    metrics = cache.metrics
    assert (metrics.loads, metrics.coalesced, metrics.misses) == (1, 999, 1_000)


def test_1000_callers_on_4_loops_are_answered_even_if_the_leader_is_cancelled(cache):
    runs = []

    async def load():
        runs.append(asyncio.current_task())
        await all_have_asked(cache, 1_000)
        if len(runs) == 1:
            runs[0].cancel()
            await asyncio.sleep(0)
        return ALLOW

    answers = ask_from_loops(cache, load)
    assert answers.count(ALLOW) == 999
    assert [type(answer) for answer in answers if answer != ALLOW] == [asyncio.CancelledError]
    assert len(runs) == 2


async def test_tasks_of_uvloop_are_answered_too(cache):
    uvloop = pytest.importorskip("uvloop")
    loader = ControlledLoader()
    tasks = await begun(cache, loader, 2)
    elsewhere = asyncio.get_running_loop().run_in_executor(
        None, uvloop.run, cache.get_or_load(*REQUEST, never)
    )
    await all_have_asked(cache, 3)
    loader.bring(ALLOW)
    assert await asyncio.gather(*tasks, elsewhere) == [ALLOW] * 3


# The leader's own task


async def test_the_loader_runs_in_the_task_and_context_of_the_leader(cache):
    variable = contextvars.ContextVar("variable")
    variable.set("before")

    async def load():
        assert asyncio.current_task() is task
        assert variable.get() == "before"
        variable.set("after")
        return ALLOW

    task = asyncio.current_task()
    await cache.get_or_load(*REQUEST, load)
    assert variable.get() == "after"


async def test_a_traceback_shows_the_loader(cache):
    async def ask_the_engine():
        raise ConnectionError

    async def load():
        return await ask_the_engine()

    with pytest.raises(ConnectionError) as raised:
        await cache.get_or_load(*REQUEST, load)
    names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert names[-2:] == ["load", "ask_the_engine"]


# Failures


async def test_an_exception_of_the_loader_is_raised_to_every_waiter(cache):
    loader, error = ControlledLoader(), ConnectionError("no engine")
    tasks = await begun(cache, loader, 5)
    loader.fail(error)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(answer is error for answer in answers)
    assert loader.runs == 1
    assert await cache.get(*REQUEST) is None
    assert await cache.get_or_load(*REQUEST, bringing(ALLOW)) == ALLOW, "tried again"
    assert (cache.metrics.load_errors, cache.metrics.loads, cache.metrics.coalesced) == (1, 2, 4)


async def test_a_shared_exception_does_not_accumulate_tracebacks(cache):
    loader = ControlledLoader()
    tasks = await begun(cache, loader, 50)
    loader.fail(ConnectionError())
    for task in tasks:
        with pytest.raises(ConnectionError) as raised:
            await task
    assert len(traceback.extract_tb(raised.value.__traceback__)) < 15


@pytest.mark.parametrize("brought", [None, True, "allow", [ALLOW], object(), Loaded("allow")])
async def test_a_result_that_is_not_a_decision_is_a_type_error_for_every_waiter(cache, brought):
    loader = ControlledLoader()
    tasks = await begun(cache, loader, 3)
    loader.bring(brought)
    for answer in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(answer, TypeError)
        assert "loader must return a decision" in str(answer)
    assert await cache.get(*REQUEST) is None
    assert cache.metrics.load_errors == 1


async def test_a_loader_that_is_not_async_is_a_type_error(cache):
    with pytest.raises(TypeError, match=r"loader must be an async function.*returned dict"):
        await cache.get_or_load(*REQUEST, lambda: ALLOW)
    with pytest.raises(TypeError, match=r"loader must be an async function.*not dict"):
        cache.get_or_load(*REQUEST, ALLOW)


@pytest.mark.parametrize(
    ("late", "error"),
    [
        (Loaded(ALLOW, ttl_seconds=-1), "ttl_seconds must be"),
        (Loaded(ALLOW, ttl_seconds="1"), "ttl_seconds must be"),
        (Loaded(ALLOW, tags="role:admin"), "tags must be"),
        (Loaded(ALLOW, tags=[1]), "a tag must be"),
    ],
)
async def test_a_wrong_loaded_is_an_error_for_every_waiter(cache, late, error):
    loader = ControlledLoader()
    tasks = await begun(cache, loader, 2)
    loader.bring(late)
    for answer in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(answer, (TypeError, ValueError))
        assert error in str(answer)
    assert await cache.get(*REQUEST) is None


async def test_wrong_arguments_raise_at_the_call(cache):
    for arguments in [(1, "a", "r"), ("u", 1, "r"), ("u", "a", 1)]:
        with pytest.raises(TypeError, match="must be a str, not int"):
            cache.get_or_load(*arguments, never)
    with pytest.raises(ValueError, match="ttl_seconds"):
        cache.get_or_load(*REQUEST, never, ttl_seconds=-1)
    with pytest.raises(TypeError, match="tags"):
        cache.get_or_load(*REQUEST, never, tags="role:admin")
    with pytest.raises(TypeError, match="sensitivity"):
        cache.get_or_load(*REQUEST, never, sensitivity=1)
    assert cache.metrics.misses == 0


class Interrupt(BaseException):
    """A BaseException that is no Exception, like KeyboardInterrupt."""


async def test_an_interrupted_leader_hands_over(cache):
    first = ControlledLoader()

    async def lead():
        with pytest.raises(Interrupt):
            await cache.get_or_load(*REQUEST, first)

    leading = asyncio.create_task(lead())
    await first.begun.wait()
    waiter = asyncio.create_task(cache.get_or_load(*REQUEST, bringing(ALLOW)))
    await asyncio.sleep(0)
    first.fail(Interrupt())
    assert await waiter == ALLOW
    await leading
    assert cache.metrics.load_errors == 0


async def test_every_loader_that_fails_is_counted(cache, caplog):
    async def fail():
        raise ConnectionError

    for options in ({}, {"context": {"at": object()}}, {"tags": ["\ud800"]}):
        with pytest.raises(ConnectionError):
            await cache.get_or_load(*REQUEST, fail, **options)
    assert (cache.metrics.loads, cache.metrics.load_errors) == (3, 3)


def test_waiters_are_woken_even_if_the_leader_has_no_stack_left(cache):
    """The leader ends near the recursion limit, where even waking a waiter needs too much stack."""

    async def deep(levels, waiting):
        if levels:
            return await deep(levels - 1, waiting)
        return await cache.get_or_load(*REQUEST, bringing_after(waiting))

    def bringing_after(waiting):
        async def load():
            await waiting.wait()
            return ALLOW

        return load

    async def scene(levels):
        waiting = asyncio.Event()
        leading = asyncio.create_task(deep(levels, waiting))
        await asyncio.sleep(0)
        waiters = [asyncio.create_task(cache.get_or_load(*REQUEST, never)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting.set()
        try:
            async with asyncio.timeout(5):
                answers = await asyncio.gather(leading, *waiters, return_exceptions=True)
        finally:
            await cache.clear()
        return answers

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        for levels in range(100, 190):
            for answer in asyncio.run(scene(levels)):
                assert answer == ALLOW or isinstance(
                    answer, (RecursionError, pytest.fail.Exception)
                )
    finally:
        sys.setrecursionlimit(limit)


# Loads inside loads


async def test_a_loader_that_requests_its_own_key_gets_an_error(cache):
    async def load():
        return await cache.get_or_load(*REQUEST, load)

    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="must not load its own key"):
            await cache.get_or_load(*REQUEST, load)
    assert await cache.get_or_load(*REQUEST, bringing(ALLOW)) == ALLOW


async def test_a_task_that_a_loader_created_is_inside_it(cache):
    async def load():
        return await asyncio.create_task(cache.get_or_load(*REQUEST, never))

    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="must not load its own key"):
            await cache.get_or_load(*REQUEST, load)


async def test_a_task_that_outlives_its_loader_may_request_the_key(cache):
    outlived = asyncio.Event()

    async def later():
        await outlived.wait()
        return await cache.get_or_load(*REQUEST, bringing(DENY))

    async def load():
        nonlocal task
        task = asyncio.create_task(later())
        return ALLOW

    task = None
    await cache.get_or_load(*REQUEST, load)
    await cache.clear()
    outlived.set()
    assert await task == DENY


async def test_loaders_that_wait_for_each_other_get_an_error(cache):
    other = ("bob", "read", "doc")
    both = asyncio.Barrier(2)

    async def load(asks):
        await both.wait()
        return await cache.get_or_load(*asks, never)

    async with asyncio.timeout(5):
        answers = await asyncio.gather(
            cache.get_or_load(*REQUEST, lambda: load(other)),
            cache.get_or_load(*other, lambda: load(REQUEST)),
            return_exceptions=True,
        )
    assert all("must not load each other's keys" in str(answer) for answer in answers)


async def test_loaders_may_request_other_decisions_and_use_other_caches(cache):
    general = AsyncCache()

    async def base():
        return {"allow": True, "base": await general.get_or_load("base", bringing(1))}

    async def load():
        decision = await cache.get_or_load("group", "read", "doc", base)
        return {**decision, "of": "group"}

    wanted = {"allow": True, "base": 1, "of": "group"}
    assert await asyncio.gather(*(cache.get_or_load(*REQUEST, load) for _ in range(3))) == (
        [wanted] * 3
    )
    assert await cache.size() == 2


# Nothing is kept


async def test_a_finished_load_holds_no_references(cache):
    class Engine:
        async def evaluate(self):
            await asyncio.sleep(0)
            return ALLOW

        async def fail(self):
            await asyncio.sleep(0)
            raise ConnectionError

    engine = Engine()
    gone = weakref.ref(engine)
    await asyncio.gather(*(cache.get_or_load(*REQUEST, engine.evaluate) for _ in range(3)))
    await asyncio.gather(
        *(cache.get_or_load("bob", "read", "doc", engine.fail) for _ in range(3)),
        return_exceptions=True,
    )
    del engine
    await asyncio.sleep(0)  # asyncio releases the gathered tasks
    gc.collect()
    assert gone() is None


# The general cache


async def test_the_general_cache_loads_too():
    cache = AsyncCache()
    assert await cache.get_or_load(("a", 1), bringing([1, "two"])) == [1, "two"]
    assert await cache.get_or_load(("a", 1), never) == [1, "two"]
    assert await cache.get_or_load("nothing", bringing(None)) is None
    assert await cache.get_or_load("nothing", never) is None
    assert await cache.get_or_load("brief", bringing(1), ttl_seconds=0.01) == 1
    await asyncio.sleep(0.02)
    assert await cache.get_or_load("brief", bringing(2)) == 2


async def test_the_general_cache_raises_an_error_to_every_waiter_if_it_cannot_store():
    cache = AsyncCache()
    loader = ControlledLoader()
    tasks = [asyncio.create_task(cache.get_or_load("key", loader)) for _ in range(3)]
    await loader.begun.wait()
    loader.bring(object())
    for answer in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(answer, ValueError)
    assert loader.runs == 1
    with pytest.raises(ValueError, match="bytes"):
        await cache.get_or_load("key", bringing("x" * 70_000))
    with pytest.raises(TypeError, match="loader"):
        cache.get_or_load("key", 1)
    assert await cache.get("key") is None
