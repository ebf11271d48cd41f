"""The guide to migrating from SARK, applied line by line to a gateway that calls like SARK's."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
import redis.asyncio

from sark_cache import CacheSettings, close_policy_caches, get_rust_policy_cache
from sark_cache.selection.selector import use_settings
from tiers import until

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
GATEWAY = ROOT / "tests" / "support" / "gateway_of_sark.py"
USER = {"id": "user-1"}
TOOL = {"name": "a/b", "sensitivity_level": "critical"}
ASKED = (USER, "tool:invoke", TOOL, {"mfa": True})


def changed_imports():
    """Returns the replacements of imports that the guide lists, line by line."""
    diff = re.search(r"```diff\n(.*?)```", GUIDE, re.DOTALL)[1].splitlines()
    removed = [line[1:] for line in diff if line.startswith("-")]
    added = [line[1:] for line in diff if line.startswith("+")]
    return dict(zip(removed, added, strict=True))


@pytest.fixture
def gateway():
    """SARK's gateway, with only the imports changed as the guide says."""
    source = GATEWAY.read_text(encoding="utf-8")
    for before, after in changed_imports().items():
        assert before in source, "every line of the guide is about a line that SARK has"
        source = source.replace(before, after)
    assert "from sark." not in source, "the guide has left out an import"
    names = {"__name__": "gateway_of_sark"}
    exec(compile(source, str(GATEWAY), "exec"), names)  # noqa: S102 - our own file
    return SimpleNamespace(**names)


@pytest.fixture
def server(own_redis):
    """A server for this test alone."""
    return own_redis()


@pytest.fixture(params=["redis", "native"])
async def environment(request, monkeypatch, server):
    """The environment of a service from the guide: Redis, or the native cache for every user."""
    monkeypatch.setenv("SARK_CACHE_REDIS_URL", server.url)
    monkeypatch.setenv("SARK_CACHE_REDIS_CONNECT_TIMEOUT", "2")
    monkeypatch.setenv("SARK_CACHE_REDIS_COMMAND_TIMEOUT", "2")
    percentage = "100" if request.param == "native" else "0"
    monkeypatch.setenv("SARK_CACHE_RUST_CACHE_ROLLOUT_PCT", percentage)
    # On a busy machine a lease of a second may end between two lines of a test.
    monkeypatch.setenv("SARK_CACHE_MAX_STALENESS", "30")
    monkeypatch.setenv("SARK_CACHE_SETTLE", "false")
    chosen = use_settings(CacheSettings.from_environment())
    if request.param == "native":
        assert await get_rust_policy_cache().confirm()
    # On a busy machine the first check of the server takes longer than a choice waits for it.
    await until(lambda: chosen.choose("user-1").backend != "none")
    yield
    await close_policy_caches()
    chosen.close()


class Engine:
    """A policy engine that records its requests."""

    def __init__(self):
        self.asked = []
        self.away = False

    async def __call__(self, user_id, action, resource, context):
        if self.away:
            raise ConnectionError
        self.asked.append((user_id, action, resource, context))
        return {"allow": True, "reason": "owner", "filtered_parameters": None, "audit_id": None}


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
async def client(server):
    """SARK's own Redis client."""
    async with redis.asyncio.from_url(server.url, decode_responses=True) as client:
        yield client


@pytest.fixture
async def cache(request, gateway, client):
    """Returns one of the caches that the gateway makes, by `name`."""
    cache = gateway.caches(client)[request.getfixturevalue("name")]
    yield cache
    await cache.close()


# "Calls stay as they are"


@pytest.mark.parametrize("name", ["redis", "native", "native of the process"])
async def test_a_request_is_evaluated_once_and_then_cached(gateway, cache, engine, name):
    client = gateway.PolicyClient(engine, cache)
    first, second = [await client.evaluate_policy(*ASKED) for _ in range(2)]
    assert second == first
    assert engine.asked == [("user-1", "tool:invoke", "tool:a/b", {"mfa": True})]
    metrics = client.get_cache_metrics()
    assert (metrics["hits"], metrics["misses"], metrics["total_requests"]) == (1, 1, 2)
    assert metrics["avg_opa_latency_ms"] == pytest.approx(1.5, rel=0.1)
    assert await client.get_cache_size() == 1
    assert await client.health_check() is True
    assert await client.invalidate_cache(user_id="user-1", action="tool:invoke") == 1
    await client.evaluate_policy(*ASKED)
    assert len(engine.asked) == 2


@pytest.mark.parametrize("name", ["redis", "native"])
async def test_a_batch_evaluates_the_missing_decisions(gateway, cache, engine, name):
    client = gateway.PolicyClient(engine, cache)
    tools = [{"name": str(number)} for number in range(3)]
    await client.evaluate_policy_batch(USER, "tool:invoke", tools[:1], None)
    decisions = await client.evaluate_policy_batch(USER, "tool:invoke", tools, None)
    assert [decision["allow"] for decision in decisions] == [True] * 3
    assert [asked[2] for asked in engine.asked] == ["tool:0", "tool:1", "tool:2"]


async def test_the_cache_of_the_factory_serves_a_repeated_request(gateway, environment, engine):
    asked = {"user": USER, "action": "tool:invoke", "resource": {"tool": "a/b"}, "context": {}}
    for _ in range(2):
        assert (await gateway.evaluate(engine, asked))["allow"] is True
    assert len(engine.asked) == 1


async def test_start_and_stop(gateway, environment, engine):
    cache = gateway.create_policy_cache("user-1")
    task = await gateway.start(cache)
    assert task.running
    assert await cache.get("user-1", "tool:invoke", "tool:search") == {"allow": True}
    await gateway.stop()
    assert not task.running


# "Closing"


async def test_a_client_that_is_closed_after_each_request_still_hits(gateway, environment, engine):
    for _ in range(3):
        assert (await gateway.answer_request(engine, *ASKED))["allow"] is True
        assert await gateway.readiness(engine) is True
    assert len(engine.asked) == 1


async def test_each_cache_of_the_process_still_hits_after_close(gateway, environment):
    for cache in (
        gateway.get_policy_cache(),
        gateway.get_rust_policy_cache(),
        gateway.create_policy_cache("user-1"),
    ):
        await cache.close()
        assert await cache.set("user-1", "tool:invoke", "tool:a", {"allow": True}) is True
        assert await cache.get("user-1", "tool:invoke", "tool:a") == {"allow": True}
        await cache.close()
        assert await cache.health_check() is True


# Results of a callback


@pytest.mark.parametrize("name", ["redis", "native"])
async def test_a_callback_that_returns_none_keeps_the_entry(gateway, cache, engine, name):
    client = gateway.PolicyClient(engine, cache)
    asked = ("user-1", "tool:invoke", "tool:a/b")
    returned = asyncio.Event()

    async def revalidate(*given):
        try:
            return await client.revalidate(*given)
        finally:
            returned.set()

    cache.set_revalidate_callback(revalidate)
    engine.away = True
    await cache.set(*asked, {"allow": True}, ttl_seconds=4, sensitivity="critical")
    while not returned.is_set():
        found = await cache.get(*asked, sensitivity="critical")
        assert found == {"allow": True}
        await asyncio.sleep(0)
    assert await cache.get(*asked) == {"allow": True}
    assert cache.get_metrics()["errors"] == 0


# "Settings"


def variables():
    """Returns the rows of the guide's table of variables."""
    section = GUIDE.split("## Settings")[1].split("##")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|$", section, re.MULTILINE)
    return {name: there for named, there in rows for name in re.findall(r"`(\w+)`", named)}


def written_url(**deployment):
    """Returns the URL that the guide's program makes from a deployment's variables."""
    section = GUIDE.split("## Settings")[1]
    program = re.search(r"python -c '\n(.*?)'\)", section, re.DOTALL)[1]
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **deployment},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.strip()


def test_every_variable_of_sark_has_a_row():
    assert variables().keys() >= {
        *("REDIS_HOST", "REDIS_PORT", "REDIS_DB", "REDIS_PASSWORD", "REDIS_POOL_SIZE"),
        *("REDIS_SOCKET_TIMEOUT", "REDIS_SOCKET_CONNECT_TIMEOUT", "REDIS_SOCKET_KEEPALIVE"),
        *("REDIS_HEALTH_CHECK_INTERVAL", "REDIS_RETRY_ON_TIMEOUT", "RUST_ENABLED"),
    }


async def test_the_url_from_the_guide_is_that_of_the_server(gateway, own_redis):
    server = own_redis(requirepass="p@ss/w:rd")
    url = written_url(
        REDIS_HOST="127.0.0.1",
        REDIS_PORT=str(server.port),
        REDIS_PASSWORD="p@ss/w:rd",  # noqa: S106 - a test's
        REDIS_POOL_SIZE="7",
    )
    url += "&health_check_interval=30&socket_keepalive=true"  # as in the table
    cache = gateway.PolicyCache(url, command_timeout=2, connect_timeout=2)
    assert await cache.set("user-1", "tool:invoke", "tool:a", {"allow": True}) is True
    assert await cache.invalidate(user_id="user-1") == 1
    await cache.close()


def test_without_variables_the_url_is_the_default_of_sark():
    assert written_url() == "redis://localhost:6379/0?max_connections=50"


async def test_a_cache_without_a_client_uses_the_settings(gateway, environment):
    cache = gateway.PolicyCache(ttl_seconds=600)
    assert await cache.set("user-1", "tool:invoke", "tool:a", {"allow": True}) is True
    assert cache.ttl_seconds == 600
    await cache.close()


@pytest.mark.parametrize("given", [{"max_size": 0}, {"ttl_seconds": 0}])
def test_zero_does_not_mean_the_default(gateway, given):
    with pytest.raises(ValueError, match=f"^{next(iter(given))} "):
        gateway.RustPolicyCache(**given)
    default = gateway.RustPolicyCache(**dict.fromkeys(given))
    assert (default.max_size, default.ttl_seconds) == (10_000, 300)


# "with the same attributes"


@pytest.mark.parametrize("name", ["redis", "native"])
async def test_attributes_that_sark_reads_exist(cache, client, name):
    await cache.set("user-1", "tool:invoke", "tool:a", {"allow": True})
    await cache.get("user-1", "tool:invoke", "tool:a")
    cache.record_opa_latency(2.5)
    metrics = cache.metrics
    assert (metrics.hits, metrics.total_requests) == (1, 1)
    assert metrics.cache_latency_ms == pytest.approx(metrics.avg_cache_latency_ms)
    assert metrics.opa_latency_ms == pytest.approx(2.5, rel=0.1)
    assert (metrics.hit_rate, metrics.miss_rate) == (100.0, 0.0)
    assert type(metrics)(hits=1, total_requests=4).hit_rate == 25.0
    if name == "redis":
        assert await cache.redis.ping()


def test_attributes_of_the_flags_exist(gateway, server):
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        manager, _ = gateway.flags(client)
        assert manager.redis is client
        assert manager.rollout_pct["rust_cache"] == 25


# "In what order" and "While both run"


def test_percentages_are_the_same_keys_in_redis(gateway, server):
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        client.set("feature_flag:rust_cache", 40)  # by SARK
        manager = gateway.FeatureFlagManager(client)
        assert manager.get_rollout_pct("rust_cache") == 40
        manager, _ = gateway.flags(client)
        assert manager.get_all_rollouts() == {"rust_cache": 25, "rust_opa": 0}
        assert client.get("feature_flag:rust_cache") == "25"


@pytest.mark.parametrize("name", ["redis"])
async def test_neither_cache_reads_entries_of_the_other(cache, client, name):
    of_sark = "policy:decision:user-1:tool:invoke:tool_a:none"
    await client.set(of_sark, json.dumps({"allow": True}), ex=300)
    assert await cache.get("user-1", "tool:invoke", "tool:a") is None
    await cache.set("user-1", "tool:invoke", "tool:a", {"allow": False})
    ours = [key async for key in client.scan_iter() if key != of_sark]
    assert ours
    assert not [key for key in ours if key.startswith("policy:decision:")], "what SARK deletes"
    assert json.loads(await client.get(of_sark)) == {"allow": True}
    assert await cache.invalidate(user_id="user-1") == 1, "revocations do not cross"
    assert await client.exists(of_sark)


# "Patterns"


def spellings():
    """Returns the rows of the guide's table of spellings."""
    section = GUIDE.split("#### Patterns")[1]
    return re.findall(r"^\| [^|]+ \| `(policy:decision:.*?)` \|$", section, re.MULTILINE)


@pytest.mark.parametrize("spelling", spellings())
@pytest.mark.parametrize("name", ["redis", "native"])
async def test_a_pattern_in_each_spelling_revokes(cache, name, spelling):
    for pattern in (spelling, spelling.removesuffix("none") + "*", "policy:decision:user-1:*"):
        await cache.set("user-1", "tool:invoke", "tool:a/b", {"allow": True})
        await cache.set("user-2", "tool:invoke", "tool:a/b", {"allow": True})
        assert await cache.invalidate_pattern(pattern) == 1
        assert await cache.get("user-1", "tool:invoke", "tool:a/b") is None
        assert await cache.get("user-2", "tool:invoke", "tool:a/b") == {"allow": True}
        await cache.clear()


def test_the_guide_has_three_spellings():
    assert len(spellings()) == 3


# "Policies"


@pytest.mark.parametrize("name", ["redis", "native"])
async def test_code_without_a_policy_uses_the_default_one(cache, name):
    asked = ("user-1", "tool:invoke", "tool:a/b")
    await cache.set(*asked, {"allow": True})
    await cache.set(*asked, {"allow": False}, policy="admins")
    assert await cache.get(*asked) == {"allow": True}
    assert await cache.get(*asked, policy="admins") == {"allow": False}
    assert await cache.invalidate(policy="admins") == 1
    assert await cache.get(*asked) == {"allow": True}
    await cache.set(*asked, {"allow": False}, policy="admins")
    assert await cache.invalidate(user_id="user-1") == 2
