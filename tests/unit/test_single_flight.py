"""Single flight: one evaluation for concurrent requests, with and without the compiled module."""

import asyncio
import gc

import pytest

from in_tasks import gathered, in_a_group, in_a_task, later
from sark_cache.backends._shared.single_flight import (
    MAX_SUPERSEDED,
    AsyncioFlights,
    NativeFlights,
    new_flights,
)

KEY = "alice may read, since position 1"


@pytest.fixture(params=[NativeFlights, AsyncioFlights])
def flights(request):
    return request.param()


def test_the_compiled_implementation_is_used_if_available():
    assert isinstance(new_flights(), NativeFlights)


async def together(flights, evaluate, count=5):
    """Starts tasks with the same request; returns when the first of them evaluates."""
    tasks = [asyncio.create_task(flights.run(KEY, evaluate)) for _ in range(count)]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


class HeldEvaluation:
    def __init__(self):
        self.runs = 0
        self.may_end = asyncio.Event()

    async def __call__(self):
        self.runs += 1
        await self.may_end.wait()
        return '{"allow":true}'


async def test_one_evaluation_serves_all_requests(flights):
    evaluation = HeldEvaluation()
    tasks = await together(flights, evaluation)
    evaluation.may_end.set()
    assert await asyncio.gather(*tasks) == ['{"allow":true}'] * 5
    assert evaluation.runs == 1
    assert await flights.run(KEY, evaluation) == '{"allow":true}'
    assert evaluation.runs == 2, "nothing is kept"


async def test_none_is_a_valid_result(flights):
    async def evaluate():
        await asyncio.sleep(0)

    assert await asyncio.gather(*await together(flights, evaluate)) == [None] * 5


async def test_other_keys_are_evaluated_independently(flights):
    evaluation = HeldEvaluation()
    tasks = await together(flights, evaluation, 2)
    other = asyncio.create_task(flights.run("the same, since position 2", evaluation))
    await asyncio.sleep(0)
    evaluation.may_end.set()
    await asyncio.gather(*tasks, other)
    assert evaluation.runs == 2


async def test_an_exception_is_raised_to_every_waiter_and_not_kept(flights):
    async def fail():
        await asyncio.sleep(0.01)
        raise LookupError

    for answer in await asyncio.gather(*await together(flights, fail), return_exceptions=True):
        assert isinstance(answer, LookupError)
    evaluation = HeldEvaluation()
    evaluation.may_end.set()
    assert await flights.run(KEY, evaluation) == '{"allow":true}'


async def test_a_failure_without_waiters_is_not_reported_by_the_event_loop(flights, caplog):
    async def fail():
        raise LookupError

    with pytest.raises(LookupError):
        await flights.run(KEY, fail)
    gc.collect()
    await asyncio.sleep(0)
    assert not caplog.records


async def test_a_cancelled_leader_hands_over(flights):
    evaluation = HeldEvaluation()
    leader, *others = await together(flights, evaluation)
    leader.cancel()
    while evaluation.runs < 2:
        await asyncio.sleep(0)
    evaluation.may_end.set()
    assert await asyncio.gather(*others) == ['{"allow":true}'] * 4
    assert evaluation.runs == 2
    assert leader.cancelled()


async def test_a_cancelled_waiter_does_not_affect_the_others(flights):
    evaluation = HeldEvaluation()
    leader, waiter, other = await together(flights, evaluation, 3)
    waiter.cancel()
    await asyncio.wait([waiter])
    evaluation.may_end.set()
    assert await asyncio.gather(leader, other) == ['{"allow":true}'] * 2
    assert evaluation.runs == 1
    assert waiter.cancelled()


async def test_an_evaluation_that_requests_itself_gets_an_error(flights):
    async def evaluate():
        return await flights.run(KEY, evaluate)

    with pytest.raises(RuntimeError, match="own key"):
        await flights.run(KEY, evaluate)


async def test_an_evaluation_may_request_another(flights):
    async def other():
        return "other"

    async def evaluate():
        return await flights.run("another", other)

    assert await flights.run(KEY, evaluate) == "other"


def test_an_evaluation_of_a_closed_event_loop_is_not_waited_for(flights):
    """Closing a loop does not end its tasks."""

    async def abandon():
        evaluation = HeldEvaluation()
        coroutine = flights.run(KEY, evaluation)
        coroutine.send(None)
        coroutine.close()

    asyncio.run(abandon())

    async def ask():
        evaluation = HeldEvaluation()
        evaluation.may_end.set()
        return await flights.run(KEY, evaluation)

    assert asyncio.run(ask()) == '{"allow":true}'


async def test_two_evaluations_that_request_each_other_get_an_error(flights):
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


async def test_a_task_of_a_finished_evaluation_belongs_to_no_evaluation(flights):
    """A task keeps the context of the evaluation that created it, even after that has ended."""
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


@pytest.mark.parametrize("asks", [in_a_task, gathered, in_a_group, later])
async def test_an_evaluation_that_requests_itself_through_a_task_gets_an_error(flights, asks):
    async def evaluate():
        return await asks(flights.run(KEY, evaluate))

    async with asyncio.timeout(4):
        with pytest.raises((RuntimeError, ExceptionGroup)) as raised:
            await flights.run(KEY, evaluate)
    assert "own key" in str(getattr(raised.value, "exceptions", [raised.value])[0])


async def test_evaluations_of_two_flights_that_request_each_other_get_an_error(flights):
    second = type(flights)()
    both = asyncio.Barrier(2)

    def asks(other):
        async def evaluate():
            await both.wait()
            return await other.run(KEY, pytest.fail)

        return evaluate

    async with asyncio.timeout(4):
        answers = await asyncio.gather(
            flights.run(KEY, asks(second)), second.run(KEY, asks(flights)), return_exceptions=True
        )
    assert {type(answer) for answer in answers} == {RuntimeError}


async def test_a_task_that_is_not_awaited_may_request_the_evaluation_that_created_it(flights):
    tasks = []

    async def evaluate():
        tasks.append(asyncio.create_task(flights.run(KEY, pytest.fail)))
        await asyncio.sleep(0.6)
        return "over"

    assert await flights.run(KEY, evaluate) == "over"
    assert await tasks[0] == "over"


@pytest.mark.parametrize("kind", [NativeFlights, AsyncioFlights])
async def test_a_request_that_waits_for_too_long_evaluates_on_its_own(kind):
    overdue = []
    flights = kind(lambda: overdue.append(1))
    never_ends, runs = HeldEvaluation(), []

    async def evaluate():
        runs.append(1)
        await asyncio.sleep(0.1)
        return "in time"

    stuck = asyncio.create_task(flights.run(KEY, never_ends))
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*(flights.run(KEY, evaluate) for _ in range(10)))
    assert answers == ["in time"] * 10
    assert len(runs) == len(overdue) == 1
    assert await flights.run(KEY, evaluate) == "in time", "its place is free again"
    never_ends.may_end.set()
    assert await stuck == '{"allow":true}'


async def test_evaluations_that_never_end_do_not_accumulate(monkeypatch):
    monkeypatch.setattr("sark_cache.backends._shared.single_flight.WAIT_LIMIT_SECONDS", 0.001)
    monkeypatch.setattr("sark_cache.backends._shared.single_flight.CHECK_INTERVAL_SECONDS", 0.002)
    flights, never_ends = AsyncioFlights(), HeldEvaluation()
    tasks = []
    for _ in range(1 + MAX_SUPERSEDED):
        tasks.append(asyncio.create_task(flights.run(KEY, never_ends)))
        while never_ends.runs < len(tasks):
            await asyncio.sleep(0.001)
    with pytest.raises(RuntimeError, match="evaluations of this decision have not ended"):
        await flights.run(KEY, never_ends)
    never_ends.may_end.set()
    await asyncio.gather(*tasks)


def test_flights_of_closed_loops_are_removed():
    flights = AsyncioFlights()
    loop = asyncio.new_event_loop()
    task = loop.create_task(flights.run(KEY, HeldEvaluation()))
    task._log_destroy_pending = False  # it is abandoned on purpose
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    async def ask():
        quick = HeldEvaluation()
        quick.may_end.set()
        return await flights.run(KEY, quick)

    assert asyncio.run(ask()) == '{"allow":true}'
    assert not flights._flights


class InterruptedLoop(asyncio.SelectorEventLoop):
    """A loop in whose own code an interrupt is raised, which can happen anywhere in Python."""

    calls_left = None

    def call_soon(self, *args, **options):
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left == 0:
                raise KeyboardInterrupt
        return super().call_soon(*args, **options)


@pytest.mark.parametrize("call", [1, 3, 10])
def test_every_waiter_goes_on_wherever_an_interrupt_is_raised(flights, call):
    loop = InterruptedLoop()
    may_end = asyncio.Event()

    async def evaluate():
        await may_end.wait()
        loop.calls_left = call
        return "over"

    async def until_all_are_done():
        async with asyncio.timeout(4):
            await asyncio.wait(tasks[1:])

    tasks = loop.run_until_complete(together(flights, evaluate, 20))
    may_end.set()
    for _ in range(2):
        try:
            loop.run_until_complete(until_all_are_done())
        except KeyboardInterrupt:
            continue
    answers = {task.exception() or task.result() for task in tasks[1:]}
    assert answers == {"over"}
    loop.run_until_complete(asyncio.wait(tasks))
    tasks[0].exception()  # retrieved, so that asyncio does not log it
    loop.close()
