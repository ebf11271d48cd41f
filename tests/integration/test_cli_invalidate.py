"""`sark-cache invalidate` revokes the given decisions in Redis, and no others."""

import asyncio
import signal
import sys
import time

import pytest

from commands import URL, Terminal, in_process, sark_cache, started, url_without
from sark_cache import PolicyCache
from tiers import opened, tier

on_terminals = pytest.mark.skipif(sys.platform == "win32", reason="needs terminals and signals")

# A miss caused by a busy machine would count as revoked.
PATIENT = {"connect_timeout": 10, "command_timeout": 10}

REQUESTS = [
    ("alice", "read", "doc:1"),
    ("alice", "write", "doc:1"),
    ("bob", "read", "doc:1"),
    ("al*", "read", "doc:2"),
]


@pytest.fixture
async def cache(fresh_redis):
    async with PolicyCache.from_url(fresh_redis.url, **PATIENT) as cache:
        for request in REQUESTS:
            assert await cache.set(*request, {"allow": True}, tags=["all", f"of:{request[0]}"])
        yield cache


async def remaining(cache):
    """Returns the requests that still have a decision."""
    decisions = await cache.get_batch(REQUESTS)
    return [at for at, decision in enumerate(decisions) if decision is not None]


REVOCATIONS = [
    (["--user", "alice"], [2, 3]),
    (["--user", "al*"], [0, 1, 2]),
    (["--action", "read"], [1]),
    (["--resource", "doc:2"], [0, 1, 2]),
    (["--user", "alice", "--action", "read"], [1, 2, 3]),
    (["--tag", "of:bob", "--tag", "of:alice"], [3]),
    (["--user", "alice", "--tag", "of:bob"], [0, 1, 2, 3]),
    (["--pattern", "policy:decision:al*:read:*"], [1, 2]),
    (["--everything", "--yes"], []),
    (["--user", "nobody"], [0, 1, 2, 3]),
]


@pytest.mark.parametrize(("arguments", "remain"), REVOCATIONS)
async def test_only_matching_decisions_are_revoked(cache, fresh_redis, arguments, remain):
    ended = sark_cache("invalidate", *arguments, "--json", **{URL: fresh_redis.url})
    assert (ended.code, ended.err) == (0, "")
    assert await remaining(cache) == remain
    document = ended.document
    assert list(document) == [
        *("ok", "redis", "revoked", "entries"),
        *("processes", "processes_that_applied_it"),
    ]
    assert document["entries"] == len(REQUESTS) - len(remain)
    assert document["redis"] == fresh_redis.url
    assert document["processes"] == document["processes_that_applied_it"] == 0


def test_the_json_has_the_scope_of_the_revocation(fresh_redis):
    arguments = ["--user", "alice", "--tag", "a", "--json", "--redis-url", fresh_redis.url]
    assert sark_cache("invalidate", *arguments).document["revoked"] == {
        "user_id": "alice",
        "action": None,
        "resource": None,
        "tags": ["a"],
        "policy": None,
        "pattern": None,
        "everything": False,
    }


async def test_the_number_removed_is_shown_and_which_native_caches_are_not_reached(
    cache, fresh_redis
):
    for user, removed in (("alice", "2 entries"), ("bob", "1 entry"), ("bob", "0 entries")):
        ended = sark_cache("invalidate", "--user", user, **{URL: fresh_redis.url})
        assert (ended.code, ended.err) == (0, "")
        first, second = ended.out.splitlines()
        assert first == f"ok: revoked in Redis at {fresh_redis.url}: {removed} removed there"
        assert second.startswith("Native caches that share no revocations are not reached")
        assert "300 s" in second


async def test_processes_with_a_native_cache_are_reached_and_counted(fresh_redis):
    async with opened(tier(fresh_redis.url), tier(fresh_redis.url)) as caches:
        for here in caches:
            await here.set(*REQUESTS[0], {"allow": True})
        arguments = ("invalidate", "--user", "alice")
        ended = await asyncio.to_thread(sark_cache, *arguments, **{URL: fresh_redis.url})
        assert ended.code == 0
        assert ended.err.splitlines()[-1] == "ok: 2 of 2 processes with a native cache applied it"
        assert [await here.get(*REQUESTS[0]) for here in caches] == [None, None]
        ended = await asyncio.to_thread(sark_cache, *arguments, "--json", **{URL: fresh_redis.url})
        assert ended.err == ""
        assert ended.document["processes"] == ended.document["processes_that_applied_it"] == 2


async def test_a_process_that_does_not_answer_is_shown(fresh_redis):
    async with opened(tier(fresh_redis.url)):
        fresh_redis.command("HSET", "{policy:decision}.readers", "f" * 32, "1-1")
        arguments = ("invalidate", "--user", "alice")
        ended = await asyncio.to_thread(sark_cache, *arguments, **{URL: fresh_redis.url})
        assert ended.code == 0
        assert "1 process does not answer, and will apply it before serving anything" in ended.out


async def test_decisions_of_one_policy_are_revoked(cache, fresh_redis):
    request = ("alice", "read", "doc:9")
    for policy in ("app:admin", "app:member"):
        await cache.set(*request, {"allow": True}, policy=policy)
    arguments = ["--policy", "app:admin", "--user", "alice", "--json"]
    ended = sark_cache("invalidate", *arguments, **{URL: fresh_redis.url})
    assert (ended.code, ended.document["entries"]) == (0, 1)
    assert ended.document["revoked"]["policy"] == "app:admin"
    assert await cache.get(*request, policy="app:admin") is None
    assert await cache.get(*request, policy="app:member") is not None


def test_a_pattern_that_matches_nothing_gets_a_hint(fresh_redis):
    ended = sark_cache("invalidate", "--pattern", "alice*", **{URL: fresh_redis.url})
    assert ended.code == 0
    assert "policy:decision:USER:ACTION:RESOURCE:CONTEXT" in ended.out


@pytest.mark.parametrize("servers", ["fresh_cluster", "fresh_sentinels"])
async def test_a_cluster_and_sentinels_are_accepted(request, servers):
    server = request.getfixturevalue(servers)
    async with PolicyCache.from_url(server.url, command_timeout=5) as cache:
        assert await cache.set_batch([(*each, {"allow": True}) for each in REQUESTS]) == 4
        ended = sark_cache("invalidate", "--user", "alice", "--json", **{URL: server.url})
        assert (ended.code, ended.document["entries"]) == (0, 2)
        assert await remaining(cache) == [2, 3]


# Usage errors

WRONG = [
    [],
    ["--yes"],
    ["--user", ""],
    ["--tag", ""],
    ["--policy", ""],
    ["--action", "read", "--resource", ""],
    ["--pattern", ""],
    ["--pattern", "x" * 2000],
    ["--user", "alice", "--pattern", "*"],
    ["--user", "alice", "--everything", "--yes"],
    ["--pattern", "*", "--everything", "--yes"],
]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no decisions are selected"),
        (
            ["--pattern", "*", "--user", "alice"],
            "--pattern: it cannot be combined with",
        ),
        (["--everything", "--tag", "a"], "--everything: it cannot be combined with"),
    ],
)
def test_an_error_names_the_option_that_stands_alone(fresh_redis, arguments, words):
    ended = sark_cache("invalidate", *arguments, COLUMNS="200", **{URL: fresh_redis.url})
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err


@pytest.mark.parametrize("arguments", WRONG)
async def test_a_usage_error_revokes_nothing(cache, fresh_redis, arguments):
    ended = in_process("invalidate", *arguments, **{URL: fresh_redis.url})
    assert (ended.code, ended.out) == (2, "")
    assert len(await remaining(cache)) == len(REQUESTS)


# Revoking everything


async def test_everything_is_not_revoked_without_a_terminal_to_confirm_it(cache, fresh_redis):
    ended = sark_cache("invalidate", "--everything", **{URL: fresh_redis.url})
    assert (ended.code, ended.out) == (2, "")
    assert "--yes" in ended.err
    assert len(await remaining(cache)) == len(REQUESTS)


@on_terminals
@pytest.mark.parametrize(
    ("answer", "code", "remain"),
    [("y\n", 0, 0), ("n\n", 1, 4), ("\n", 1, 4), ("\x04", 1, 4), ("\x03", 130, 4)],
)
async def test_everything_is_revoked_after_a_confirmation(cache, fresh_redis, answer, code, remain):
    with Terminal("invalidate", "--everything", **{URL: fresh_redis.url}) as terminal:
        terminal.wait_for(f"Revoke all decisions in Redis at {fresh_redis.url}?")
        terminal.wait_for_reading()
        terminal.type(answer)
        assert terminal.code() == code
        assert "Traceback" not in terminal.said
    assert len(await remaining(cache)) == remain


# Failures


def test_without_redis_it_exits_with_4():
    ended = sark_cache("invalidate", "--user", "alice")
    assert (ended.code, ended.out) == (4, "")


def test_a_server_that_cannot_be_reached_exits_with_3(own_redis):
    server = own_redis()
    server.kill()
    ended = sark_cache("invalidate", "--user", "alice", "--json", **{URL: server.url})
    assert ended.code == ended.document["exit_code"] == 3
    assert "cannot be reached" in ended.err


def test_a_revocation_that_the_server_does_not_confirm_exits_with_1(own_redis):
    server = own_redis()
    url = url_without(server, "scan")
    ended = sark_cache("invalidate", "--user", "alice", "--json", **{URL: url})
    assert ended.code == ended.document["exit_code"] == 1
    assert "could not be confirmed" in ended.document["error"]
    assert ended.err.count("could not be confirmed") == 1
    assert "s3cret" not in ended.out + ended.err


@on_terminals
def test_ctrl_c_says_that_the_revocation_is_not_certain(own_redis):
    primary = own_redis()
    replica = own_redis(replicaof=(primary.host, primary.port))
    give_up = time.monotonic() + 20
    while replica.info("replication")["master_link_status"] != "up":
        assert time.monotonic() < give_up
    replica.pause()  # so that its confirmation is awaited
    with started("invalidate", "--user", "alice", **{URL: primary.url}) as process:
        while primary.info("clients")["blocked_clients"] == "0":
            assert time.monotonic() < give_up
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "error: interrupted: the decisions may still be served. Run it again\n"
