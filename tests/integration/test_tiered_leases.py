"""The lease of tiered caches: what happens when the log cannot be confirmed, and afterwards."""

import asyncio
import os
import signal
import threading
import time

import pytest
import valkey.asyncio

from interpreters import needs_fork, run, started
from loaders import ALLOW, DENY, ControlledLoader, begun, bringing
from loaders import REQUEST as ALICE
from sark_cache.backends.redis import PolicyCache
from sark_cache.backends.tiered import TieredPolicyCache
from tiers import SPAN, opened, tier, until, until_gone

LOG = "{policy:decision}.log"
READERS = "{policy:decision}.readers"
SUSPECTS = "{policy:decision}.suspects"


def readers(server):
    return set(server.command("HKEYS", READERS)) - {"generation"}


@pytest.fixture
def server(own_redis):
    return own_redis()


@pytest.fixture
async def cache(server):
    async with opened(tier(server.url, command_timeout=0.25, max_staleness=SPAN)) as (cache,):
        await cache.set(*ALICE, ALLOW)
        yield cache


async def lapsed(cache):
    await until(lambda: cache.lease == 0.0)


# Without news


async def test_a_cache_that_cannot_reach_the_log_serves_nothing(cache, server):
    server.pause()
    await lapsed(cache)
    assert await cache.get(*ALICE) is None
    assert await cache.get_decision(*ALICE) is None
    assert await cache.get_batch([ALICE]) == [None]
    assert await cache.get_or_load(*ALICE, bringing(DENY)) == DENY
    assert cache.metrics.lapsed == 4
    assert not await cache.health_check()


async def test_a_lease_ends_within_the_span(cache, server):
    paused = time.monotonic()
    server.pause()
    assert cache.lease <= 0.9 * SPAN
    await lapsed(cache)
    assert time.monotonic() - paused <= SPAN


async def test_when_the_log_answers_again_what_was_cached_serves_on(cache, server):
    flushes = cache.metrics.flushes
    server.pause()
    await lapsed(cache)
    server.resume()
    await until(lambda: cache.lease > 0)
    assert await cache.get(*ALICE) == ALLOW
    assert cache.metrics.flushes == flushes


async def test_a_deny_that_is_set_without_a_lease_takes_the_place_of_the_allow(cache, server):
    server.pause()
    await lapsed(cache)
    await cache.set(*ALICE, DENY)
    server.resume()
    await until(lambda: cache.lease > 0)
    assert await cache.get(*ALICE) == DENY


async def test_requests_without_a_lease_share_an_evaluation_that_began_after_they_asked(
    cache, server
):
    server.pause()
    await lapsed(cache)
    loader = ControlledLoader()
    tasks = await begun(cache, loader, 5)
    loader.bring(DENY)
    assert await asyncio.gather(*tasks) == [DENY] * 5
    assert loader.runs <= 2


# Lost logs


@pytest.mark.parametrize("loses", [("DEL", LOG), ("FLUSHALL",), ("XTRIM", LOG, "MAXLEN", 0)])
async def test_a_lost_log_ends_everything_that_is_cached(cache, server, loses):
    server.command(*loses)
    await until_gone(cache, ALICE)
    await until(lambda: cache.lease > 0)
    await cache.set(*ALICE, ALLOW)
    assert await cache.get(*ALICE) == ALLOW


async def test_a_log_with_other_items_under_the_same_ids_is_not_the_known_log(cache, server):
    [[newest, _]] = server.command("XREVRANGE", LOG, "+", "-", "COUNT", 1)
    server.commands(("DEL", LOG), ("XADD", LOG, newest, "n", "0" * 16, "r", "{}"))
    await until_gone(cache, ALICE)


async def test_a_server_that_restarts_empty_ends_everything_that_is_cached(cache, server):
    server.kill()
    server.start()
    await until_gone(cache, ALICE)
    await until(lambda: cache.lease > 0)
    assert await cache.get(*ALICE) is None


async def test_a_server_without_memory_for_the_log_grants_no_lease(own_redis):
    server = own_redis()
    server.command("CONFIG", "SET", "maxmemory", 1)
    cache = tier(server.url, command_timeout=0.25)
    async with cache:
        assert not await cache.confirm()
        assert await cache.get(*ALICE) is None
        server.command("CONFIG", "SET", "maxmemory", 0)
        await until(lambda: cache.lease > 0)


# Registrations


async def test_a_reader_is_registered_until_its_last_cache_is_closed(server):
    caches = [tier(server.url, command_timeout=10) for _ in range(2)]
    for cache in caches:
        assert await cache.confirm()
    assert len(readers(server)) == 1
    await caches[0].close()
    assert len(readers(server)) == 1
    await caches[1].close()
    assert readers(server) == set()


async def test_a_reader_whose_registration_is_lost_registers_again(cache, server):
    server.command("DEL", READERS)
    await cache.confirm()
    assert len(readers(server)) == 1
    assert cache.lease > 0
    assert await cache.get(*ALICE) == ALLOW


async def test_a_marked_reader_gets_a_lease_after_it_registered_again(cache, server):
    [reader] = readers(server)
    server.command("HSET", SUSPECTS, reader, "mark")
    assert await cache.confirm()
    assert server.command("HEXISTS", SUSPECTS, reader) == 0


async def test_idle_confirmations_write_nothing(cache, server):
    before = server.info("persistence")["rdb_changes_since_last_save"]
    for _ in range(20):
        assert await cache.confirm()
    assert server.info("persistence")["rdb_changes_since_last_save"] == before


async def test_applied_records_are_acknowledged(cache, server):
    async with PolicyCache(server.url) as writer:
        await writer.invalidate("bob")
    [[newest, _]] = server.command("XREVRANGE", LOG, "+", "-", "COUNT", 1)
    [reader] = readers(server)
    await until(lambda: server.command("HGET", READERS, reader) == newest)


async def test_the_smaller_span_is_used_and_another_one_is_warned_of(cache, server, caplog):
    async with opened(tier(server.url, max_staleness=5 * SPAN)) as (other,):
        assert other.lease <= SPAN
    [record] = caplog.records
    assert "give all processes the same max_staleness" in record.message


# Threads and processes


async def test_creating_a_cache_starts_no_thread_and_connects_to_nothing(own_redis):
    server = own_redis()
    threads = set(threading.enumerate())
    connections = int(server.info("stats")["total_connections_received"])
    cache = tier(server.url)
    assert set(threading.enumerate()) == threads
    # The second question is asked over a connection, too.
    assert int(server.info("stats")["total_connections_received"]) == connections + 1
    await cache.close()


async def test_a_blocked_event_loop_keeps_its_lease(cache):
    time.sleep(2 * SPAN)  # noqa: ASYNC251 - the event loop is blocked on purpose
    assert cache.lease > 0
    assert await cache.get(*ALICE) == ALLOW


async def test_a_cache_that_is_collected_ends_its_thread(server):
    def make():
        cache = tier(server.url)
        cache._reader.ask()
        return cache._reader._thread.thread

    thread = make()
    await asyncio.to_thread(thread.join, 20)
    assert not thread.is_alive()


def test_the_exit_of_the_interpreter_removes_the_registration(server):
    code = """
        import asyncio, sys, time
        from sark_cache.backends.tiered import TieredPolicyCache

        cache = TieredPolicyCache(sys.argv[1], command_timeout=10)
        print(asyncio.run(cache.confirm()), flush=True)
        sys.stdin.read()
    """
    with started(code, server.url) as process:
        assert process.stdout.readline() == "True\n"
        assert len(readers(server)) == 1
        ends = time.monotonic()
        process.communicate(timeout=20)
    assert process.returncode == 0
    assert time.monotonic() - ends < 10
    assert readers(server) == set()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this platform cannot stop a process")
def test_a_process_that_was_stopped_serves_nothing_that_was_revoked_in_that_time(server):
    code = """
        import asyncio, sys
        from sark_cache.backends.tiered import TieredPolicyCache

        async def main():
            async with TieredPolicyCache(sys.argv[1], command_timeout=10) as cache:
                assert await cache.confirm()
                await cache.set("alice", "read", "doc", {"allow": True})
                await cache.set("bob", "read", "doc", {"allow": True})
                print("ready", flush=True)
                sys.stdin.readline()
                print(await cache.get("alice", "read", "doc"), flush=True)
                print(await cache.get("bob", "read", "doc"), flush=True)

        asyncio.run(main())
    """

    async def revoke():
        async with PolicyCache(server.url, command_timeout=10) as cache:
            await cache.invalidate("alice")

    with started(code, server.url) as process:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGSTOP)
        asyncio.run(revoke())
        time.sleep(1.0)
        os.kill(process.pid, signal.SIGCONT)
        out, err = process.communicate("\n", timeout=20)
    assert not err
    assert out.splitlines() == ["None", "{'allow': True}"]


@needs_fork
def test_a_forked_child_serves_under_a_lease_of_its_own(server):
    code = """
        import asyncio, os, sys, time
        from sark_cache.backends.tiered import TieredPolicyCache

        cache = TieredPolicyCache(sys.argv[1], command_timeout=10)

        async def parent():
            assert await cache.confirm()
            await cache.set("alice", "read", "doc", {"allow": True})

        async def child():
            print("at first", cache.lease, flush=True)
            print(await cache.get("alice", "read", "doc"), flush=True)  # waits for a confirmation
            print("revoked", await cache.invalidate("alice"), flush=True)
            await cache.close()

        async def rest():
            while await cache.get("alice", "read", "doc") is not None:
                await asyncio.sleep(0.001)
            print("gone", flush=True)
            await cache.close()

        asyncio.run(parent())
        if (forked := os.fork()) == 0:
            asyncio.run(child())
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]), flush=True)
        asyncio.run(rest())
    """
    assert run(code, server.url) == ["at first 0.0", str({"allow": True}), "revoked 1", "0", "gone"]
    assert readers(server) == set()


# Clients


@pytest.mark.parametrize("library", [valkey])
async def test_a_client_is_enough_to_follow_the_log(server, library):
    client = library.asyncio.Valkey.from_url(server.url)
    async with opened(tier(client), tier(server.url)) as (here, elsewhere):
        await here.set(*ALICE, ALLOW)
        await elsewhere.invalidate("alice")
        await until_gone(here, ALICE)
    await client.aclose()


@pytest.mark.parametrize("wrong", [0.049, 60.1, float("nan"), True, "1"])
def test_a_wrong_max_staleness_is_refused(wrong):
    with pytest.raises((TypeError, ValueError), match="max_staleness"):
        TieredPolicyCache("redis://localhost", max_staleness=wrong)
