"""One evaluation for all who ask at the same time, with the compiled module and without it."""

import asyncio
import gc

import pytest

from sark_cache.flights import AsyncioFlights, NativeFlights, new_flights

KEY = "alice may read, since position 1"


@pytest.fixture(params=[NativeFlights, AsyncioFlights])
def flights(request):
    return request.param()


def test_there_are_those_of_the_compiled_module_where_it_is():
    assert isinstance(new_flights(), NativeFlights)


async def together(flights, evaluate, count=5):
    """Tasks that ask for the same; the first of them evaluates when this returns."""
    tasks = [asyncio.create_task(flights.run(KEY, evaluate)) for _ in range(count)]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


class Evaluation:
    def __init__(self):
        self.runs = 0
        self.may_end = asyncio.Event()

    async def __call__(self):
        self.runs += 1
        await self.may_end.wait()
        return '{"allow":true}'


async def test_one_evaluates_for_all(flights):
    evaluation = Evaluation()
    tasks = await together(flights, evaluation)
    evaluation.may_end.set()
    assert await asyncio.gather(*tasks) == ['{"allow":true}'] * 5
    assert evaluation.runs == 1
    assert await flights.run(KEY, evaluation) == '{"allow":true}'
    assert evaluation.runs == 2, "nothing is kept"


async def test_nothing_is_an_answer_too(flights):
    async def evaluate():
        await asyncio.sleep(0)

    assert await asyncio.gather(*await together(flights, evaluate)) == [None] * 5


async def test_other_keys_are_evaluated_for_themselves(flights):
    evaluation = Evaluation()
    tasks = await together(flights, evaluation, 2)
    other = asyncio.create_task(flights.run("the same, since position 2", evaluation))
    await asyncio.sleep(0)
    evaluation.may_end.set()
    await asyncio.gather(*tasks, other)
    assert evaluation.runs == 2


async def test_what_it_raises_everybody_is_raised_and_it_is_forgotten(flights):
    async def fail():
        await asyncio.sleep(0.01)
        raise LookupError

    for answer in await asyncio.gather(*await together(flights, fail), return_exceptions=True):
        assert isinstance(answer, LookupError)
    evaluation = Evaluation()
    evaluation.may_end.set()
    assert await flights.run(KEY, evaluation) == '{"allow":true}'


async def test_a_failure_that_nobody_waited_for_is_not_reported_by_the_event_loop(flights, caplog):
    async def fail():
        raise LookupError

    with pytest.raises(LookupError):
        await flights.run(KEY, fail)
    gc.collect()
    await asyncio.sleep(0)
    assert not caplog.records


async def test_one_who_leads_and_is_cancelled_hands_over(flights):
    evaluation = Evaluation()
    leader, *others = await together(flights, evaluation)
    leader.cancel()
    while evaluation.runs < 2:
        await asyncio.sleep(0)
    evaluation.may_end.set()
    assert await asyncio.gather(*others) == ['{"allow":true}'] * 4
    assert evaluation.runs == 2
    assert leader.cancelled()


async def test_one_who_waits_and_is_cancelled_disturbs_nobody(flights):
    evaluation = Evaluation()
    leader, waiter, other = await together(flights, evaluation, 3)
    waiter.cancel()
    await asyncio.wait([waiter])
    evaluation.may_end.set()
    assert await asyncio.gather(leader, other) == ['{"allow":true}'] * 2
    assert evaluation.runs == 1
    assert waiter.cancelled()


async def test_an_evaluation_that_asks_for_itself_is_told_so(flights):
    async def evaluate():
        return await flights.run(KEY, evaluate)

    with pytest.raises(RuntimeError, match="own key"):
        await flights.run(KEY, evaluate)


async def test_an_evaluation_may_ask_for_another(flights):
    async def other():
        return "other"

    async def evaluate():
        return await flights.run("another", other)

    assert await flights.run(KEY, evaluate) == "other"


def test_one_that_is_abandoned_with_its_event_loop_is_not_waited_for(flights):
    """A loop that is closed under its tasks does not end them."""

    async def abandon():
        evaluation = Evaluation()
        coroutine = flights.run(KEY, evaluation)
        coroutine.send(None)
        coroutine.close()

    asyncio.run(abandon())

    async def ask():
        evaluation = Evaluation()
        evaluation.may_end.set()
        return await flights.run(KEY, evaluation)

    assert asyncio.run(ask()) == '{"allow":true}'


async def test_two_evaluations_that_ask_for_each_other_are_told_so(flights):
    both = asyncio.Barrier(2)

    def asks_for(other):
        async def evaluate():
            await both.wait()
            return await flights.run(other, pytest.fail)

        return evaluate

    answers = await asyncio.gather(
        flights.run("one", asks_for("two")),
        flights.run("two", asks_for("one")),
        return_exceptions=True,
    )
    assert {type(answer) for answer in answers} == {RuntimeError}


async def test_what_a_finished_evaluation_began_is_part_of_no_other(flights):
    """A task keeps the context of the evaluation that made it, which is over."""
    later = asyncio.Event()

    async def ask():
        await later.wait()
        return await asyncio.gather(*(flights.run(f"later {n}", other) for n in range(20)))

    async def other():
        await asyncio.sleep(0)
        return "other"

    async def evaluate():
        tasks.append(asyncio.create_task(ask()))
        return "over"

    tasks = []
    for number in range(20):
        assert await flights.run(f"first {number}", evaluate) == "over"
    later.set()
    assert await asyncio.gather(*tasks) == [["other"] * 20] * 20
