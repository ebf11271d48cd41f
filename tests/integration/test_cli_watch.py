"""`sark-cache watch-consistency` measures how long a fleet can serve a revoked decision."""

import asyncio
import json
import signal
import sys
import urllib.request

import pytest

from commands import URL, sark_cache, started
from servers.host import free_port, wait_until
from tiers import opened, tier

LOG = "{policy:decision}.log"
READERS = "{policy:decision}.readers"
SUSPECTS = "{policy:decision}.suspects"
QUICK = {"SARK_CACHE_MAX_STALENESS": "0.1"}


def watch(server, *arguments, **variables):
    return sark_cache("watch-consistency", *arguments, **QUICK | {URL: server.url} | variables)


def test_it_measures_each_round_and_prints_a_histogram(fresh_redis):
    ended = watch(fresh_redis, "--rounds", "3", "--every", "0.01")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert all("ms, applied by 0 of 0 processes" in line for line in lines[:3])
    assert "Time until no process could serve a revoked decision" in lines
    assert any("█" in line for line in lines)
    assert lines[-1] == "ok: no promise was broken"


async def test_it_counts_the_processes_that_applied_the_revocation(fresh_redis):
    async with opened(*(tier(fresh_redis.url, max_staleness=0.1) for _ in range(2))):
        arguments = ("--rounds", "5", "--every", "0.01", "--json")
        ended = await asyncio.to_thread(watch, fresh_redis, *arguments)
    assert (ended.code, ended.err) == (0, "")
    document = ended.document
    assert document["ok"]
    assert (document["rounds"], document["unconfirmed"], document["violations"]) == (5, 0, [])
    assert document["processes"] == document["applied"] == 2
    assert 0 < document["p50_seconds"] <= document["p99_seconds"] <= document["longest_seconds"]


def test_decisions_of_services_are_not_revoked(fresh_redis):
    other = "sark-cache:1::alice:read:doc:none"
    fresh_redis.command("SET", other, "{}")
    assert watch(fresh_redis, "--rounds", "2", "--every", "0.01").code == 0
    keys = fresh_redis.command("KEYS", "sark-cache:1:*")
    assert [key for key in keys if "canary" not in key] == [other]


def test_a_confirmed_revocation_that_is_lost_breaks_a_promise(own_redis):
    """The server comes back empty while the revocation waits for a process that does not answer."""
    server = own_redis()
    variables = QUICK | {URL: server.url, "SARK_CACHE_MAX_STALENESS": "3"}
    with started("watch-consistency", "--rounds", "1", "--json", **variables) as process:
        wait_until(lambda: server.command("XLEN", LOG) == 1, "it knows the log")
        server.command("HSET", READERS, "f" * 32, "1-1")
        # It marks a silent process only after the revocation is confirmed.
        wait_until(lambda: server.command("HLEN", SUSPECTS) == 1, "it waits")
        server.kill()
        server.start()
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    [violation] = json.loads(out)["violations"]
    assert "a confirmed revocation was lost" in violation


async def test_the_bound_is_that_of_the_longest_span_of_a_process(fresh_redis):
    async with opened(tier(fresh_redis.url, max_staleness=1.5)):
        fresh_redis.command("HSET", READERS, "f" * 32, "1-1")
        ended = await asyncio.to_thread(watch, fresh_redis, "--rounds", "1", "--json")
    assert ended.code == 0
    assert ended.document["longest_seconds"] >= 1.1 * 1.5


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_with_a_report_at_a_signal(fresh_redis, number):
    variables = QUICK | {URL: fresh_redis.url}
    with started("watch-consistency", "--every", "0.01", **variables) as process:
        assert "applied by" in process.stdout.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert out.endswith("ok: no promise was broken\n")


def test_a_server_that_does_not_answer_breaks_no_promise(own_redis):
    server = own_redis()
    variables = QUICK | {URL: server.url}
    with started("watch-consistency", "--every", "0.01", **variables) as process:
        assert "applied by" in process.stdout.readline()
        server.kill()
        for line in process.stdout:
            if "could not be confirmed" in line:
                break
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "no promise was broken" in out


def test_the_measurements_are_served_for_prometheus(fresh_redis):
    port = free_port()
    variables = QUICK | {URL: fresh_redis.url}
    arguments = ("watch-consistency", "--every", "0.01", "--prometheus", str(port))
    with started(*arguments, **variables) as process:
        assert "applied by" in process.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            text = answer.read().decode()
    assert "sark_cache_watch_violations_total 0.0" in text
    assert "sark_cache_watch_unconfirmed_total 0.0" in text
    assert "sark_cache_watch_settle_seconds_count" in text


def test_a_port_that_is_in_use_is_an_error(fresh_redis):
    ended = watch(fresh_redis, "--prometheus", str(fresh_redis.port))
    assert ended.code == 2
    assert f"--prometheus {fresh_redis.port}: " in ended.err


def test_without_redis_it_says_what_is_missing():
    ended = sark_cache("watch-consistency")
    assert ended.code == 4
    assert URL in ended.err
