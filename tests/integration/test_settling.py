"""A revocation returns when no process serves the decisions any more."""

import asyncio
import time

import pytest

from interpreters import run
from loaders import ALLOW
from loaders import REQUEST as ALICE
from sark_cache.backends.redis import PolicyCache
from sark_cache.errors import InvalidationError
from tiers import opened, tier, until

LOG = "{policy:decision}.log"
READERS = "{policy:decision}.readers"
SUSPECTS = "{policy:decision}.suspects"
SPAN = 0.4
WHOLE = 1.1 * SPAN
STOPPED = "f" * 32
"""The id of a reader that does not acknowledge."""


@pytest.fixture
def server(own_redis):
    return own_redis()


@pytest.fixture
async def here(server):
    async with opened(tier(server.url, max_staleness=SPAN)) as (cache,):
        yield cache


@pytest.fixture
async def elsewhere(server, here):
    """A cache that stands for another process."""
    async with opened(tier(server.url, max_staleness=SPAN)) as (cache,):
        yield cache


@pytest.fixture
async def writer(server):
    async with PolicyCache(server.url, command_timeout=10, max_staleness=SPAN) as cache:
        assert await cache.health_check()
        yield cache


async def stood():
    """Waits until every cache has known the log for a span."""
    await asyncio.sleep(WHOLE + 0.05)


async def seconds(revocation):
    began = time.monotonic()
    await revocation
    return time.monotonic() - began


WAYS = {
    "invalidate": lambda cache: cache.invalidate("alice"),
    "tags": lambda cache: cache.invalidate(tags=["team"]),
    "pattern": lambda cache: cache.invalidate_pattern("policy:decision:alice:*"),
    "delete": lambda cache: cache.delete(*ALICE, policy=""),
    "delete of any policy": lambda cache: cache.delete(*ALICE),
    "clear": lambda cache: cache.clear(),
    "clear_all": lambda cache: cache.clear_all(),
}


@pytest.mark.parametrize("kind", ["elsewhere", "writer"])
@pytest.mark.parametrize("way", WAYS)
async def test_no_process_serves_it_when_a_revocation_returns(way, kind, here, elsewhere, writer):
    cache = {"elsewhere": elsewhere, "writer": writer}[kind]
    await stood()
    for _ in range(20):
        await here.set(*ALICE, ALLOW, tags=["team"])
        await WAYS[way](cache)
        assert await here.get(*ALICE) is None


async def test_a_revocation_that_every_process_acknowledges_waits_for_no_span(elsewhere, writer):
    await stood()
    for cache in (elsewhere, writer):
        waits = sorted([await seconds(cache.invalidate("alice")) for _ in range(20)])
        assert waits[10] < SPAN / 2
        assert cache.settle_histogram().count == 20


async def test_the_first_revocation_of_a_process_waits_for_a_span(server):
    async with PolicyCache(server.url, command_timeout=10, max_staleness=SPAN) as cache:
        assert await seconds(cache.invalidate("alice")) >= WHOLE
        assert await seconds(cache.invalidate("alice")) < SPAN / 2


async def test_without_settle_a_revocation_returns_when_it_is_confirmed(server):
    async with PolicyCache(server.url, command_timeout=10, max_staleness=5, settle=False) as cache:
        assert await seconds(cache.invalidate("alice")) < 4
        assert cache.settle_histogram().count == 0


async def test_a_revocation_waits_a_span_for_a_process_that_does_not_answer(server, here, writer):
    await stood()
    server.command("HSET", READERS, STOPPED, "1-1")
    assert await seconds(writer.invalidate("alice")) >= WHOLE


async def test_a_process_that_does_not_answer_is_marked_and_then_removed(server, here, writer):
    await stood()
    server.command("HSET", READERS, STOPPED, "1-1")
    revoking = asyncio.create_task(writer.invalidate("alice"))
    await until(lambda: server.command("HGET", SUSPECTS, STOPPED))
    await revoking
    await until(lambda: not server.command("HEXISTS", READERS, STOPPED))
    assert not server.command("HEXISTS", SUSPECTS, STOPPED)
    assert await seconds(writer.invalidate("alice")) < SPAN / 2


async def test_a_process_that_registers_again_in_time_is_not_removed(server, writer):
    await stood()
    server.command("HSET", READERS, STOPPED, "1-1")
    revoking = asyncio.create_task(writer.invalidate("alice"))
    await until(lambda: server.command("HGET", SUSPECTS, STOPPED))
    server.command("HDEL", SUSPECTS, STOPPED)
    await revoking
    await asyncio.sleep(2 * WHOLE)
    assert server.command("HEXISTS", READERS, STOPPED)


@pytest.mark.parametrize("lost", [("DEL", READERS), ("DEL", LOG), ("HDEL", READERS, "generation")])
async def test_after_registrations_may_have_been_lost_a_revocation_waits_for_a_span(
    server, writer, lost
):
    await stood()
    server.command(*lost)
    assert await seconds(writer.invalidate("alice")) >= WHOLE
    await stood()
    assert await seconds(writer.invalidate("alice")) < SPAN / 2


async def test_after_a_restart_of_the_server_a_revocation_waits_for_a_span(server, writer):
    await stood()
    server.kill()
    server.start()
    await until(lambda: not writer.circuit_open)
    while True:
        try:
            waited = await seconds(writer.invalidate("alice"))
        except InvalidationError:  # the connection of the server before
            continue
        break
    assert waited >= WHOLE


async def test_the_longest_span_that_is_known_is_waited_for(server, writer):
    await stood()
    server.command("SET", "{policy:decision}.span", int(3 * SPAN * 1000))
    server.command("HSET", READERS, STOPPED, "1-1")
    assert await seconds(writer.invalidate("alice")) >= 3 * WHOLE


async def test_while_the_server_does_not_answer_the_clock_decides(server):
    async with PolicyCache(server.url, command_timeout=0.25, max_staleness=SPAN) as cache:
        assert await cache.health_check()
        revoking = asyncio.create_task(seconds(cache.invalidate("alice")))
        await until(lambda: cache.metrics.invalidations or server.command("XLEN", LOG) > 1)
        await asyncio.sleep(SPAN / 4)
        server.pause()
        assert WHOLE <= await revoking < 20


async def test_a_record_that_another_primary_does_not_have_is_not_confirmed(server):
    async with PolicyCache(server.url, command_timeout=10, max_staleness=5 * SPAN) as cache:
        assert await cache.health_check()
        revoking = asyncio.create_task(cache.invalidate("alice"))
        await until(lambda: server.command("XLEN", LOG) > 1)
        await asyncio.sleep(SPAN / 2)
        server.kill()
        server.start()
        with pytest.raises(InvalidationError, match="without the revocation"):
            await revoking


async def test_ids_within_a_millisecond_differ(server, writer):
    await stood()
    first = asyncio.create_task(writer.invalidate("alice"))
    await first
    [[newest, _]] = server.command("XREVRANGE", LOG, "+", "-", "COUNT", 1)
    moment, _, number = newest.partition("-")
    server.command("HSET", READERS, STOPPED, f"{moment}-{int(number) + 1}")
    # Acknowledged beyond the newest record, but before the next one.
    assert await seconds(writer.invalidate("alice")) >= WHOLE


async def test_a_process_that_just_started_waits_and_the_fleet_does_not_serve(server, here):
    await here.set(*ALICE, ALLOW)
    code = """
        import asyncio, sys, time
        from sark_cache.backends.redis import PolicyCache

        async def main():
            async with PolicyCache(sys.argv[1], command_timeout=10, max_staleness=0.4) as cache:
                began = time.monotonic()
                await cache.invalidate("alice")
                print(time.monotonic() - began >= 0.44)

        asyncio.run(main())
    """
    assert await asyncio.to_thread(run, code, server.url) == ["True"]
    assert await here.get(*ALICE) is None
