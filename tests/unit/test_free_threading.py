"""Threads that use the same objects at the same time, without a GIL to serialize them.

With a GIL the threads take turns, at the shortest switch interval, and every test holds as well.
The garbage collector runs all the time. Without a GIL it stops every thread, so that a thread that
waits for a stopped one would wait forever.
"""

import asyncio
import gc
import itertools
import subprocess
import sys
import sysconfig
import threading

import pytest

from awaiting import ready
from sark_cache import Decision, RustPolicyCache
from threads import in_threads

THREADS = 4
MANY = 3_000
"""More entries than one step visits: an operation on all of them is not ready at once."""


@pytest.fixture(autouse=True)
def turns_are_short():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(autouse=True)
def the_collector_runs(turns_are_short):
    over = threading.Event()

    def collect():
        while not over.wait(0.005):
            gc.collect(0)

    collector = threading.Thread(target=collect)
    collector.start()
    yield
    over.set()
    collector.join()


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this interpreter always has a GIL"
)
def test_importing_the_module_does_not_enable_the_gil():
    code = "import sark_cache, sark_cache._native, sys; sys.exit(sys._is_gil_enabled())"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_equal_decisions_are_returned_as_separate_objects(cache):
    def decision(number):
        return {"allow": True, "reason": f"r{number}", "who": [{"mask": ["ssn", number]}, {}]}

    # Few enough that threads request the same entries, and many enough for contention.
    for number in range(100):
        cache.set("alice", "read", str(number), decision(number))

    def work(_number):
        for turn in range(1_500):
            number = turn // 3 % 100
            got = ready(cache.get("alice", "read", str(number)))
            assert got == decision(number)
            got["who"][0]["mask"].clear()
            got["who"][1]["mine"] = got["who"]
            got.clear()

    in_threads(THREADS, work)


def test_a_decision_is_one_object_until_it_is_revoked_and_stays_valid(cache):
    fields = {"allow": True, "reason": "owner", "who": {"roles": ["analyst"]}}
    number = itertools.count()
    begun, ended = [], []

    def revoke(revocation):
        begun.append(revocation)
        revocation()
        ended.append(revocation)

    def store():
        """Stores the decision; only a revocation during the call may prevent that."""
        ended_before = len(ended)
        stored = ready(cache.set("alice", "read", "doc", fields))
        assert stored or len(begun) > ended_before

    def work(_number):
        for _ in range(1_500):
            match next(number) % 16:
                case 0:
                    revoke(lambda: cache.invalidate(user_id="alice"))
                case 1:
                    revoke(cache.clear)
                case turn if turn < 5:
                    store()
                case _:
                    decision = ready(cache.get_decision("alice", "read", "doc"))
                    if decision is not None:
                        assert decision.allow
                        assert decision["who"]["roles"] == ("analyst",)
                        assert hash(decision) == expected
                        assert decision == fields
        return ready(cache.get_decision("alice", "read", "kept"))

    expected = hash(Decision(fields))
    ready(cache.set("alice", "read", "kept", fields, stamp=cache.stamp()))
    in_threads(THREADS, work)
    ready(cache.set("alice", "read", "kept", fields))
    first, *others = in_threads(
        THREADS, lambda _: [ready(cache.get_decision("alice", "read", "kept"))] * 100
    )
    assert all(decision is first[0] for decision in itertools.chain(first, *others))


def test_any_thread_may_release_a_decision(cache):
    shared = []

    def work(number):
        for turn in range(1_000):
            ready(cache.set("alice", "read", str(turn % 7), {"turn": turn}))
            shared.append(ready(cache.get_decision("alice", "read", str(number))))
            if len(shared) > 20:
                shared.pop(0)

    in_threads(THREADS, work)
    assert all(decision is None or 0 <= decision["turn"] < 1_000 for decision in shared)


@pytest.mark.parametrize("taken", ["send", "next", "throw and close"])
def test_one_of_many_threads_that_await_a_result_gets_it(cache, taken):
    ready(cache.set("alice", "read", "doc", {"allow": True}))
    results = [cache.get("alice", "read", "doc") for _ in range(3_000)]

    def take(result, number):
        """Returns the outcome: a decision, or the error of a second await."""
        try:
            if taken == "next":
                next(result)
            elif taken == "send":
                result.send(None)
            elif number % 2:
                return result.close()
            else:
                result.throw(LookupError("stop"))
        except StopIteration as stop:
            return stop.value
        except (LookupError, RuntimeError) as error:
            return str(error)

    took = in_threads(THREADS, lambda number: [take(result, number) for result in results])
    for outcomes in zip(*took, strict=True):
        late = outcomes.count("cannot reuse already awaited coroutine")
        if taken == "throw and close":
            assert outcomes.count(None) == THREADS // 2
            assert outcomes.count("stop") + late == THREADS // 2
            assert late >= THREADS // 2 - 1
        else:
            assert late == THREADS - 1
            assert {"allow": True} in outcomes


def test_one_of_many_loops_that_await_a_pending_result_gets_it(cache):
    asyncio.run(cache.set_batch([("alice", "read", str(i), {"n": i}) for i in range(MANY)]))
    pending = [cache.size() for _ in range(100)]

    async def take(result):
        try:
            return await result
        except RuntimeError as error:
            return str(error)

    async def take_all():
        return [await asyncio.wait_for(take(result), 60) for result in pending]

    took = in_threads(THREADS, lambda _: asyncio.run(take_all()))
    late = {"cannot reuse already awaited coroutine", "coroutine is being awaited already"}
    for outcomes in zip(*took, strict=True):
        assert outcomes.count(MANY) == 1
        assert set(outcomes) <= {MANY, *late}


def test_a_decision_that_changes_while_it_is_stored_is_stored_consistently(cache):
    fields, items = {"one": 0, "two": 0}, [0] * 8
    over = threading.Event()

    def change():
        for turn in itertools.count():
            if over.is_set():
                return
            fields.update({"one": turn, "two": turn})
            items[:] = [turn] * (8 + turn % 9)
            fields[f"more{turn % 50}"] = "é" * (turn % 5)
            fields.pop(f"more{(turn + 25) % 50}", None)

    def work(number):
        if number == 0:
            return change()
        try:
            user = f"u{number}"
            for _ in range(2_000):
                assert ready(cache.set(user, "read", "flat", fields))
                assert ready(cache.set(user, "read", "nested", {"items": items}))
                stored = ready(cache.get_decision(user, "read", "flat"))
                assert stored["one"] == stored["two"]
                assert len(set(ready(cache.get(user, "read", "nested"))["items"])) == 1
                ready(cache.get(user, "read", "flat", fields))
                ready(cache.get(user, "read", "flat", {"items": items}))
        finally:
            over.set()

    in_threads(THREADS, work)
    assert cache.metrics.errors == 0


def test_a_field_name_that_many_threads_store_at_once_is_one_object(cache):
    rounds = 40

    def work(number):
        for turn in range(rounds):
            fields = {f"field-{turn}-{i}-ß": i for i in range(8)}
            assert ready(cache.set(f"u{number}", "read", str(turn), fields))
            assert ready(cache.get(f"u{number}", "read", str(turn))) == fields

    in_threads(8, work)
    for turn in range(rounds):
        first, *others = (ready(cache.get(f"u{n}", "read", str(turn))) for n in range(8))
        assert all(list(other) == list(first) for other in others)


def test_no_loop_gets_a_decision_from_before_a_revocation(cache):
    """The version is counted up before each revocation; an answer has at least the version before
    it."""
    enough = 100
    version, revoked = [0], [0]
    over = threading.Event()

    async def load():
        seen = version[0]
        await asyncio.sleep(0)
        return {"version": seen}

    async def ask():
        least = revoked[0]
        answer = await cache.get_or_load("alice", "read", "doc", load)
        assert answer["version"] >= least

    async def ask_often():
        while not over.is_set():
            await asyncio.wait_for(asyncio.gather(*(ask() for _ in range(10))), 60)

    def revoke():
        """Revokes until enough decisions were removed; each call removes a varying number."""
        while not over.wait(0.0005) and cache.metrics.invalidations < enough:
            version[0] += 1
            cache.invalidate(user_id="alice")
            revoked[0] = version[0]

    def work(number):
        try:
            if number == 0:
                revoke()
            else:
                asyncio.run(ask_often())
        finally:
            over.set()

    in_threads(THREADS, work)
    metrics = cache.metrics
    assert metrics.invalidations >= enough
    assert metrics.loads >= metrics.invalidations


def test_caches_can_be_created_and_released_in_many_threads():
    def work(number):
        for turn in range(100):
            cache = RustPolicyCache(max_size=8)
            for i in range(20):
                ready(cache.set(str(i), "read", "doc", {"allow": True, "n": [number, turn]}))
                ready(cache.get_decision(str(i), "read", "doc"))
            assert cache.metrics.size <= 8

    in_threads(THREADS, work)
