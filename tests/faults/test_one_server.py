"""One server that is killed, hangs, is out of memory, changes its password, or holds bad values."""

import asyncio
import json
import threading
import time

import pytest
import redis.asyncio

from sark_cache import InvalidationError
from sark_cache.backends.redis import PolicyCache
from timed_requests import ALLOW, load

# asyncio does not close the transport of a connection that is cancelled while it is made.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ALICE = ("alice", "read", "doc")
LOG, HEAD = "{policy:decision}.log", "{policy:decision}.head"
KEY = "sark-cache:1::alice:read:doc:none"


async def cannot_revoke(cache):
    """Asserts that revocations of every kind raise, because they cannot be confirmed."""
    with pytest.raises(InvalidationError, match="could not be confirmed"):
        await cache.invalidate(user_id="alice")
    with pytest.raises(InvalidationError, match="could not be confirmed"):
        await cache.invalidate_pattern("*")
    with pytest.raises(InvalidationError, match="could not be confirmed"):
        await cache.delete(*ALICE)
    with pytest.raises(InvalidationError, match="could not be confirmed"):
        await cache.clear()
    assert await cache.size() == 0
    assert await cache.health_check() is False


FAILURES = {"killed": "kill", "hanging": "pause", "shut down": "terminate"}
RETURNS = {"killed": "start", "hanging": "resume", "shut down": "start"}


@pytest.mark.parametrize("how", FAILURES)
async def test_a_server_that_fails_before_a_request_costs_at_most_its_time_out(
    own_redis, open_cache, watch, recovered, caplog, how
):
    server = own_redis()
    cache = await open_cache(server.url)
    await cache.set(*ALICE, ALLOW)
    getattr(server, FAILURES[how])()
    for _ in range(200):
        await watch.ask(cache)
    watch.assert_in_time()
    assert cache.metrics.errors >= 200
    await cannot_revoke(cache)
    assert len(caplog.records) < 20, "not a line for each request"
    getattr(server, RETURNS[how])()
    await recovered(cache)
    assert await cache.invalidate() >= 1


@pytest.mark.parametrize("how", FAILURES)
async def test_a_server_that_fails_during_requests_costs_at_most_their_time_out(
    own_redis, open_cache, watch, recovered, caplog, how
):
    server = own_redis()
    cache = await open_cache(server.url)
    done = asyncio.Event()
    asking = [asyncio.create_task(watch.ask_until(done, cache)) for _ in range(20)]
    for _ in range(2):
        before = cache.metrics.hits
        while cache.metrics.hits < before + 100:
            await asyncio.sleep(0.001)
        getattr(server, FAILURES[how])()
        failed = cache.metrics.errors
        while cache.metrics.errors < failed + 500:
            await asyncio.sleep(0.001)
        getattr(server, RETURNS[how])()
        await recovered(cache)
    done.set()
    await asyncio.gather(*asking)
    watch.assert_in_time()
    assert len(caplog.records) < 40


async def test_a_busy_event_loop_notices_that_a_server_answers_again(own_redis, open_cache, caplog):
    """Each turn of the loop takes longer than the time-outs of the cache."""
    server = own_redis()
    cache = await open_cache(server.url, connect_timeout=0.01, command_timeout=0.02)
    server.kill()
    assert await cache.get(*ALICE) is None
    server.start()
    caplog.set_level("INFO")
    async with asyncio.timeout(10):
        while "redis cache: the server answers again" not in caplog.text:
            time.sleep(0.03)  # noqa: ASYNC251 - other work blocks the event loop
            await asyncio.sleep(0)


async def test_a_server_that_fails_while_a_decision_is_evaluated_fails_no_request(
    own_redis, open_cache, watch, recovered
):
    server = own_redis()
    cache = await open_cache(server.url)

    async def load_and_pause():
        server.pause()
        return ALLOW

    assert await watch.timed(cache.get_or_load(*ALICE, load_and_pause)) == ALLOW
    watch.assert_in_time()
    server.resume()
    await recovered(cache)


async def test_while_no_server_answers_none_is_asked(own_redis, open_cache, watch):
    server = own_redis()
    cache = await open_cache(server.url)
    await cache.set(*ALICE, ALLOW)
    server.pause()
    await cache.get(*ALICE)
    longest, watch.longest = watch.longest, 0.0
    for _ in range(100):
        assert await watch.timed(cache.get(*ALICE)) is None
    assert watch.longest < 0.2 + watch.lateness, "it does not wait for an answer"
    assert longest >= 0
    server.resume()


async def test_a_load_is_not_shared_while_revocations_are_unknown(own_redis, open_cache):
    """Another process may have revoked it a moment ago, between two requests of this one."""
    server = own_redis()
    cache = await open_cache(server.url)
    server.kill()
    await cache.get(*ALICE)
    runs = []

    async def slow():
        runs.append(1)
        await asyncio.sleep(0.01)
        return ALLOW

    assert await asyncio.gather(*(cache.get_or_load(*ALICE, slow) for _ in range(5))) == [ALLOW] * 5
    assert len(runs) == 5


async def test_a_revocation_that_failed_can_be_tried_again(own_redis, open_cache, recovered):
    server = own_redis()
    cache = await open_cache(server.url)
    await cache.set(*ALICE, ALLOW)
    server.pause()
    with pytest.raises(InvalidationError, match="no answer in time"):
        await cache.invalidate(user_id="alice")
    server.resume()
    await recovered(cache)
    await cache.invalidate(user_id="alice")
    assert await cache.get(*ALICE) is None


async def test_a_server_that_restarts_empty_stores_no_evaluation_from_before(
    own_redis, open_cache, recovered
):
    """An empty server cannot say what was revoked in between."""
    server = own_redis()
    cache = await open_cache(server.url)
    await cache.get(*ALICE)
    stamp = cache.stamp()
    server.kill()
    server.start()
    await recovered(cache)
    assert await cache.set(*ALICE, ALLOW, stamp=stamp) is False
    assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is True


async def test_a_stamp_from_before_the_first_reply_stores_nothing_once(own_redis, open_cache):
    cache = await open_cache(own_redis().url)
    assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is False
    assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is True


def history_of(server):
    return server.info("replication")["master_replid"][:16]


def append(server, *fields, number="*"):
    """Appends a record that no version of this package has written."""
    added = server.command("XADD", LOG, number, "n", "f" * 16, *fields)
    server.command("SET", HEAD, f"{added}.{'f' * 16} {history_of(server)} ?")


async def test_a_trimmed_log_stores_no_older_decision(own_redis, open_cache):
    server = own_redis()
    cache = await open_cache(server.url)
    assert await cache.health_check()
    stamp = cache.stamp()
    await cache.delete("bob", "read", "doc", policy="")
    assert server.command("XTRIM", LOG, "MAXLEN", 1) == 1
    assert await cache.set(*ALICE, ALLOW, stamp=stamp) is False
    assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is True


async def test_a_decision_older_than_1_024_records_is_not_stored(own_redis, open_cache):
    cache = await open_cache(own_redis().url)
    assert await cache.health_check()
    before = cache.stamp()
    await cache.delete("user-0", "read", "doc", policy="")
    stamp = cache.stamp()
    for number in range(1, 1_025):
        await cache.delete(f"user-{number}", "read", "doc", policy="")
    assert await cache.set(*ALICE, ALLOW, stamp=before) is False
    assert await cache.set(*ALICE, ALLOW, stamp=stamp) is True


async def test_a_position_whose_id_was_assigned_twice_is_not_trusted(own_redis, open_cache):
    """A server that lost items, or whose clock went back, may assign an id a second time."""
    server = own_redis()
    cache = await open_cache(server.url)
    assert await cache.health_check()
    stamp = cache.stamp()
    number = stamp.position.partition(".")[0]
    server.command("DEL", LOG)
    append(server, "r", '{"begun":true}', number=number)
    assert await cache.set(*ALICE, ALLOW, stamp=stamp) is False
    assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is True


@pytest.mark.parametrize("lost", [(LOG,), (HEAD,), (LOG, HEAD)], ids=["log", "head", "both"])
async def test_what_was_revoked_before_or_after_a_loss_of_the_log_is_not_stored(
    own_redis, open_cache, lost
):
    server = own_redis()
    cache = await open_cache(server.url)
    assert await cache.health_check()
    for revoked_first in (True, False):
        await cache.delete("bob", "read", "doc", policy="")
        stamp = cache.stamp()
        if revoked_first:
            await cache.invalidate(user_id="alice")
        assert server.command("DEL", *lost) == len(lost)
        if not revoked_first:
            await cache.invalidate(user_id="alice")
        assert await cache.set(*ALICE, ALLOW, stamp=stamp) is False
        assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is True


async def test_a_lost_stream_costs_no_decision_if_nothing_was_revoked(own_redis, open_cache):
    server = own_redis()
    cache = await open_cache(server.url)
    assert await cache.health_check()
    stamp = cache.stamp()
    assert server.command("DEL", LOG) == 1
    assert await cache.set(*ALICE, ALLOW, stamp=stamp) is True


@pytest.mark.parametrize("fields", [("r", "[[["), ("r", "7"), ("other", "x"), ("r", '{"new":1}')])
async def test_a_record_that_cannot_be_read_revokes_every_older_evaluation(
    own_redis, open_cache, fields
):
    server = own_redis()
    cache = await open_cache(server.url)
    assert await cache.health_check()
    stamp = cache.stamp()
    append(server, *fields)
    assert await cache.set(*ALICE, ALLOW, stamp=stamp) is False
    assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is True


# Out of memory


async def test_a_server_out_of_memory_serves_its_entries_and_stores_nothing(
    own_redis, open_cache, watch, recovered, caplog
):
    server = own_redis(maxmemory_policy="noeviction")
    cache = await open_cache(server.url)
    assert await cache.set(*ALICE, ALLOW)
    assert await cache.set("bob", "read", "doc", ALLOW)
    server.command("CONFIG", "SET", "maxmemory", "1")
    assert await cache.get(*ALICE) == ALLOW
    assert await cache.set("bob", "read", "doc", {"allow": False}) is False
    assert await cache.get("bob", "read", "doc") is None, "an old allow does not outlive a new deny"
    for _ in range(20):
        await watch.ask(cache, "carol")
    watch.assert_in_time()
    assert cache.metrics.errors >= 20
    assert len(caplog.records) < 20
    assert await cache.invalidate(user_id="alice") == 1, "to remove takes no memory"
    server.command("CONFIG", "SET", "maxmemory", "0")
    await recovered(cache)


async def test_without_memory_for_the_log_running_evaluations_are_not_stored(own_redis, open_cache):
    server = own_redis(maxmemory_policy="noeviction")
    cache = await open_cache(server.url)
    assert await cache.health_check()

    async def revoked_in_between():
        server.command("CONFIG", "SET", "maxmemory", "1")
        await cache.invalidate(user_id="alice")
        server.command("CONFIG", "SET", "maxmemory", "0")
        return ALLOW

    assert await cache.get_or_load(*ALICE, revoked_in_between) == ALLOW
    assert await cache.get(*ALICE) is None


# A wrong password


async def test_a_wrong_password_is_a_miss_until_it_is_corrected(
    own_redis, open_cache, watch, recovered, caplog
):
    server = own_redis(requirepass="right")
    cache = await open_cache(server.url.replace("right", "wrong"))
    for _ in range(20):
        await watch.ask(cache)
    watch.assert_in_time()
    await cannot_revoke(cache)
    assert "Authentication" in caplog.text
    assert "wrong" not in caplog.text.replace("wrong number", "")
    assert len(caplog.records) < 20
    server.command("CONFIG", "SET", "requirepass", "wrong")
    await recovered(cache)


# Values that the cache did not write


NONSENSE = {
    "no JSON": "{",
    "no UTF-8": b"\xff\xfe",
    "a number": "1",
    "a list": "[]",
    "a bare decision": json.dumps(ALLOW),
    "another's entry": json.dumps(
        {
            "key": KEY.replace("alice", "bob"),
            "context": "none",
            "ttl": 1,
            "tags": [],
            "decision": {},
        }
    ),
    "another context's": json.dumps(
        {"key": KEY, "context": "0" * 64, "ttl": 1, "tags": [], "decision": {}}
    ),
    "no decision": json.dumps({"key": KEY, "context": "none", "ttl": 1, "tags": [], "decision": 1}),
    "deep": "[" * 100_000,
    "an endless life": json.dumps(
        {"key": KEY, "context": "none", "ttl": 10**400, "tags": [], "decision": {}}
    ),
    "no name as a tag": json.dumps(
        {"key": KEY, "context": "none", "ttl": 1, "tags": [1], "decision": {}}
    ),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
async def test_a_malformed_value_is_a_miss_and_is_replaced(own_redis, open_cache, nonsense):
    server = own_redis()
    cache = await open_cache(server.url)
    for heal in (
        lambda: cache.get_or_load(*ALICE, load),
        lambda: cache.set(*ALICE, ALLOW),
        lambda: cache.invalidate(tags=["any"]),
    ):
        server.command("SET", KEY, f"{history_of(server)} {NONSENSE[nonsense]}", "EX", 60)
        assert await cache.get(*ALICE) is None
        assert await cache.get_batch([ALICE]) == [None]
        await heal()
        assert await cache.get(*ALICE) in (ALLOW, None)
        assert await cache.delete(*ALICE) in (True, False)
    assert cache.metrics.errors >= 6
    server.command("SET", KEY, f"{history_of(server)} {NONSENSE[nonsense]}", "EX", 60)
    await cache.get_or_load(*ALICE, load)
    assert await cache.get(*ALICE) == ALLOW


async def test_an_entry_without_the_history_of_its_server_is_a_miss_and_is_replaced(
    own_redis, open_cache
):
    server = own_redis()
    cache = await open_cache(server.url)
    entry = {"key": KEY, "context": "none", "ttl": 60, "tags": [], "decision": ALLOW}
    for value in (json.dumps(entry), f" {json.dumps(entry)}", f"{'0' * 16} {json.dumps(entry)}"):
        server.command("SET", KEY, value, "EX", 60)
        assert await cache.get(*ALICE) is None
        await cache.get_or_load(*ALICE, load)
        assert await cache.get(*ALICE) == ALLOW


async def test_a_value_of_another_type_is_a_miss_and_is_replaced(own_redis, open_cache):
    server = own_redis()
    cache = await open_cache(server.url)
    for heal in (lambda: cache.get_or_load(*ALICE, load), lambda: cache.set(*ALICE, ALLOW)):
        server.command("DEL", KEY)
        server.command("LPUSH", KEY, "x")
        assert await cache.get(*ALICE) is None
        assert await cache.get_batch([ALICE]) == [None]
        await heal()
        assert await cache.get(*ALICE) == ALLOW
    server.command("DEL", KEY)
    server.command("LPUSH", KEY, "x")
    assert await cache.invalidate(tags=["any"]) == 0
    assert await cache.invalidate(user_id="alice") == 1


async def test_an_entry_without_expiration_is_a_miss_and_is_replaced(own_redis, open_cache):
    server = own_redis()
    cache = await open_cache(server.url)
    await cache.set(*ALICE, ALLOW)
    server.command("PERSIST", KEY)
    assert await cache.get(*ALICE) is None
    await cache.get_or_load(*ALICE, load)
    assert await cache.get(*ALICE) == ALLOW


# Faults that are not the server's


async def test_a_cancelled_worker_ends(own_redis, open_cache):
    """The clients lose a cancellation where CPython 3.11 does. The worker would never end."""
    cache = await open_cache(own_redis().url)

    async def work():
        while True:
            await cache.get(*ALICE)
            await cache.set(*ALICE, ALLOW)

    for round_ in range(50):
        worker = asyncio.create_task(work())
        for _ in range(1 + round_ % 7):
            await asyncio.sleep(0)
        await asyncio.sleep(0.0001 * round_)
        worker.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait([worker])
        assert worker.cancelled()


async def test_many_concurrent_requests_open_no_circuit(own_redis, open_cache):
    """Waiting for one another is not the server's fault."""
    cache = await open_cache(own_redis().url)
    await cache.set(*ALICE, ALLOW)
    await asyncio.gather(*(cache.get(*ALICE) for _ in range(3_000)))
    assert cache.circuit_open is False


@pytest.mark.parametrize("connections", [1, 2, 20])
async def test_a_pool_of_few_connections_is_waited_for(own_redis, open_cache, connections):
    url = f"{own_redis().url}?max_connections={connections}"
    cache = await open_cache(url, command_timeout=5)
    asking = [cache.get_or_load(f"user-{number}", "read", "doc", load) for number in range(200)]
    revoking = [cache.invalidate(user_id="alice") for _ in range(20)]
    assert await asyncio.gather(*asking) == [ALLOW] * 200
    assert await asyncio.gather(*revoking, *(cache.get(*ALICE) for _ in range(200)))
    assert cache.metrics.errors == 0
    await asyncio.gather(
        *(cache.invalidate(user_id=f"user-{number}") for number in range(50)),
        *(cache.set(f"user-{number}", "read", "doc", ALLOW) for number in range(200)),
    )
    assert cache.metrics.errors == 0


async def test_a_cache_that_is_closed_while_it_is_asked_leaves_nothing_behind(own_redis):
    server = own_redis()
    cache = PolicyCache.from_url(server.url)
    await cache.set(*ALICE, ALLOW)
    server.pause()
    asking = [asyncio.create_task(cache.get(*ALICE)) for _ in range(20)]
    await asyncio.sleep(0.01)
    await cache.close()
    await asyncio.gather(*asking)
    assert await cache.get(*ALICE) is None
    assert await cache.set(*ALICE, {"allow": object()}) is False
    server.resume()
    await asyncio.sleep(0)
    assert [task for task in asyncio.all_tasks() if task.get_name() == "sark-cache probe"] == []


async def test_a_client_of_another_event_loop_is_a_miss_and_not_an_error(own_redis):
    server = own_redis()
    client = redis.asyncio.Redis.from_url(server.url)
    cache = PolicyCache(client)
    await cache.set(*ALICE, ALLOW)
    answers = []

    def elsewhere():
        async def ask():
            answers.append(await cache.get(*ALICE))
            answers.append(await cache.get_or_load(*ALICE, load))
            answers.append(await cache.size())
            with pytest.raises(InvalidationError, match="belongs to the event loop"):
                await cache.invalidate()

        asyncio.run(ask())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert answers == [None, ALLOW, 0]
    assert await cache.get(*ALICE) == ALLOW
    await cache.close()
    await client.aclose()


async def test_a_task_that_is_cancelled_is_cancelled_and_its_connection_is_not_used_again(
    own_redis, open_cache
):
    """A reply that belongs to another request must never be taken for an answer."""
    server = own_redis()
    cache = await open_cache(server.url)
    users = [f"user-{n}" for n in range(20)]
    await cache.set_batch([(user, "read", "doc", {"allow": True, "user": user}) for user in users])
    for round_ in range(100):
        tasks = [asyncio.create_task(cache.get(user, "read", "doc")) for user in users]
        for _ in range(round_ % 10):
            await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for user, answer in zip(users, answers, strict=True):
            if not isinstance(answer, asyncio.CancelledError):
                assert answer in (None, {"allow": True, "user": user})
    assert await cache.get("user-3", "read", "doc") == {"allow": True, "user": "user-3"}
