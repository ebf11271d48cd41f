"""Loaders that wait for themselves or for each other get an error, or wait for a limited time."""

import asyncio
import threading

import pytest

from in_tasks import in_a_group, in_a_task, in_its_own_task, later, reason
from loaders import ALLOW, DENY, REQUEST, bringing, never
from sark_cache import AsyncCache, RustPolicyCache
from sark_cache.backends._shared.loading import current_flights

OTHER = ("bob", "read", "doc")
SOON = 4
"""Seconds, fewer than a waiter waits."""


async def gathered(request):
    return (await asyncio.gather(asyncio.sleep(0), request))[1]


async def waited_for(request):
    [task], _ = await asyncio.wait([asyncio.create_task(request)])
    return task.result()


async def with_a_time_out(request):
    return await asyncio.wait_for(request, 60)


WAYS = [in_its_own_task, in_a_task, gathered, in_a_group, waited_for, with_a_time_out, later]


@pytest.mark.parametrize("asks", WAYS)
async def test_a_loader_that_would_wait_for_itself_gets_an_error(cache, asks):
    async def load():
        return await asks(cache.get_or_load(*REQUEST, never))

    async with asyncio.timeout(SOON):
        with pytest.raises((RuntimeError, ExceptionGroup)) as raised:
            await cache.get_or_load(*REQUEST, load)
    assert "must not load its own key" in reason(raised.value)
    assert await cache.get_or_load(*REQUEST, bringing(ALLOW)) == ALLOW


async def answers_of_both(first, second, asks=in_its_own_task):
    """Returns the answers of two requests whose loaders each make the other request.

    `first` and `second` are functions that make a request with a given loader.
    """
    both = asyncio.Barrier(2)

    async def load(other):
        await both.wait()
        return await asks(other(never))

    async with asyncio.timeout(SOON):
        return await asyncio.gather(
            first(lambda: load(second)), second(lambda: load(first)), return_exceptions=True
        )


@pytest.mark.parametrize("asks", WAYS)
async def test_loaders_that_would_wait_for_each_other_get_an_error(cache, asks):
    answers = await answers_of_both(
        lambda loader: cache.get_or_load(*REQUEST, loader),
        lambda loader: cache.get_or_load(*OTHER, loader),
        asks,
    )
    assert all("must not load each other's keys" in reason(answer) for answer in answers)


@pytest.mark.parametrize("second", [RustPolicyCache, AsyncCache])
async def test_loaders_of_two_caches_that_would_wait_for_each_other_get_an_error(cache, second):
    key = ("key",) if second is AsyncCache else REQUEST
    second = second()
    answers = await answers_of_both(
        lambda loader: cache.get_or_load(*REQUEST, loader),
        lambda loader: second.get_or_load(*key, loader),
    )
    assert all("must not load each other's keys" in reason(answer) for answer in answers)


async def test_a_cycle_through_a_task_that_outlives_its_loader_is_detected(cache):
    """one → the task of two's loader → three → one."""
    one, two, three = (("u", "read", name) for name in "123")
    tasks, two_ended, three_runs = [], asyncio.Event(), asyncio.Event()

    async def load_three():
        three_runs.set()
        await two_ended.wait()
        await asyncio.sleep(0.01)
        return await cache.get_or_load(*one, never)

    async def load_two():
        tasks.append(asyncio.create_task(cache.get_or_load(*three, never)))
        await asyncio.sleep(0.01)
        return ALLOW

    async def load_one():
        await cache.get_or_load(*two, load_two)
        two_ended.set()
        return await tasks[0]

    third = asyncio.create_task(cache.get_or_load(*three, load_three))
    await three_runs.wait()
    async with asyncio.timeout(SOON):
        answers = await asyncio.gather(
            third, cache.get_or_load(*one, load_one), return_exceptions=True
        )
    assert all("must not load each other's keys" in reason(answer) for answer in answers)


@pytest.mark.parametrize("seconds", [0, 1.2], ids=["at once", "after looking twice"])
async def test_a_task_that_the_loader_does_not_await_is_answered(cache, seconds):
    background = []

    async def load():
        background.append(asyncio.create_task(cache.get_or_load(*REQUEST, never)))
        await asyncio.sleep(seconds)
        return ALLOW

    assert await cache.get_or_load(*REQUEST, load) == ALLOW
    assert await background[0] == ALLOW
    assert cache.metrics.overdue == 0


async def test_a_loader_that_waits_for_the_first_of_two_tasks_is_in_no_cycle(cache):
    async def load():
        own = asyncio.create_task(cache.get_or_load(*REQUEST, never))
        other = asyncio.create_task(asyncio.sleep(1.2))
        await asyncio.wait([own, other], return_when=asyncio.FIRST_COMPLETED)
        background.append(own)
        return ALLOW

    background = []
    assert await cache.get_or_load(*REQUEST, load) == ALLOW
    assert await background[0] == ALLOW


async def test_tasks_that_loaders_schedule_do_not_keep_earlier_loads_alive(cache):
    """Each load schedules the next one of its own decision."""
    loads, over = [], asyncio.Event()

    async def load():
        loads.append(len(current_flights.get()))
        if len(loads) == 100:
            over.set()
        else:
            tasks.append(asyncio.create_task(again()))
        return ALLOW

    async def again():
        await cache.delete(*REQUEST)
        await cache.get_or_load(*REQUEST, load)

    tasks = [asyncio.create_task(again())]
    await over.wait()
    await asyncio.gather(*tasks)
    assert set(loads) == {1}


# Undetected deadlocks


def ask_elsewhere(cache, loader):
    return asyncio.run(cache.get_or_load(*REQUEST, loader))


@pytest.mark.parametrize("way", ["executor", "thread", "shield"])
async def test_a_request_that_waits_for_too_long_evaluates_on_its_own(cache, way):
    async def load():
        match way:
            case "executor":
                run = asyncio.get_running_loop().run_in_executor
                return await run(None, ask_elsewhere, cache, bringing(ALLOW))
            case "thread":
                return await asyncio.to_thread(ask_elsewhere, cache, bringing(ALLOW))
            case _:
                own = asyncio.create_task(cache.get_or_load(*REQUEST, bringing(ALLOW)))
                return {**await asyncio.shield(own), "allow": False}

    async with asyncio.timeout(20):
        await cache.get_or_load(*REQUEST, load)
    assert cache.metrics.overdue == 1
    assert await cache.get(*REQUEST) == ALLOW, "what the overtaken load brought is not stored"


async def test_one_of_many_that_wait_for_too_long_evaluates_and_the_others_wait_for_it(cache):
    runs = []

    async def stuck():
        await asyncio.Event().wait()

    async def load():
        runs.append(threading.get_ident())
        await asyncio.sleep(0.1)
        return DENY

    leader = asyncio.create_task(cache.get_or_load(*REQUEST, stuck))
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        tasks = [asyncio.create_task(cache.get_or_load(*REQUEST, load)) for _ in range(100)]
        assert await asyncio.gather(*tasks) == [DENY] * 100
    assert len(runs) == cache.metrics.overdue == 1
    leader.cancel()
