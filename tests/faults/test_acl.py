"""The permissions that the page about servers lists, tested by removing each command."""

import asyncio
import re
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from sark_cache import FeatureFlagManager, InvalidationError, close_policy_caches
from sark_cache._core import redis_urls as urls
from sark_cache.backends.redis import PolicyCache
from sark_cache.selection.selector import use_settings
from sark_cache.settings import CacheSettings
from servers import wait_until
from tiers import opened, tier, until
from timed_requests import ALLOW, load

# asyncio does not close the transport of a connection that is cancelled while it is made.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PAGE = Path(__file__).parents[2].joinpath("docs/servers.md").read_text(encoding="utf-8")
LINE = re.search(r"^ACL SETUSER sark-cache .*$", PAGE, re.MULTILINE)[0].split()
ON_CLUSTERS = re.search(r"commands that the client needs there: `([^`]*)`", PAGE)[1].split()
ON_SENTINELS = re.search(r"For these users `([^`]*)` is enough", PAGE)[1].split()
WITHOUT = dict(re.findall(r"^\| `([A-Z]+)` \| [^|]* \| ([^|]*) \|$", PAGE, re.MULTILINE))
NOTHING_IS_SERVED = [name for name, what in WITHOUT.items() if what == "nothing is served"]

ALICE = ("alice", "read", "doc")
PATIENT = {"connect_timeout": 5, "command_timeout": 5}


def allow(server, *besides, without=()):
    """Makes the page's user, with more or fewer permissions than listed, and returns their URL."""
    line = [word for word in LINE if word.lstrip("+").upper() not in without]
    server.command(*line, *besides)
    return server.url.replace("redis://", "redis://sark-cache:password@")


@pytest.fixture
async def open_as(open_cache):
    """Makes caches with long time-outs for the page's user."""

    async def new(server, *besides, without=(), database=0, library="redis", **settings):
        url = allow(server, *besides, without=without).replace("redis", library, 1)
        return await open_cache(url.replace("/0", f"/{database}"), **(PATIENT | settings))

    return new


async def serves(cache):
    """Returns whether the cache stores and finds a decision and reports that it is healthy."""
    stored = await cache.set(*ALICE, ALLOW)
    found = [await cache.get(*ALICE), *await cache.get_batch([ALICE])]
    healthy = await cache.health_check()
    assert stored is healthy is (found == [ALLOW] * 2)
    assert await cache.get_or_load(*ALICE, load) == ALLOW
    return stored


async def revokes(cache):
    """Returns whether every kind of revocation succeeds."""
    for revoke in (
        lambda: cache.delete(*ALICE),
        lambda: cache.invalidate(user_id="alice"),
        lambda: cache.invalidate(tags=["any"]),
        lambda: cache.invalidate_pattern("*"),
        cache.clear,
    ):
        try:
            await revoke()
        except InvalidationError:
            return False
    return await cache.size() == 0


async def test_the_page_names_each_command_once():
    words = [word[1:].upper() for word in [*LINE, *ON_CLUSTERS] if word.startswith("+")]
    named = {word.partition("|")[0] for word in words}
    assert named == set(WITHOUT)
    assert len(NOTHING_IS_SERVED) == 9


async def test_the_permissions_of_the_page_are_enough(own_redis, open_as, caplog):
    server = own_redis()
    cache = await open_as(server)
    assert await serves(cache)
    assert await revokes(cache)
    client = urls.connect_blocking(allow(server), 5, 5)
    flags = FeatureFlagManager(client)
    flags.set_rollout_pct("rust_cache", 25)
    assert server.command("GET", "feature_flag:rust_cache") == "25"
    flags.close()
    client.close()
    assert caplog.records == []


FOR_TIERS = [name for name, what in WITHOUT.items() if "`TieredPolicyCache` serves nothing" in what]


async def test_the_permissions_of_the_page_are_enough_for_a_tiered_cache(own_redis, caplog):
    async with opened(tier(allow(own_redis()))) as (cache,):
        assert await serves(cache)
        assert await revokes(cache)
    assert caplog.records == []


@pytest.mark.parametrize("command", FOR_TIERS)
async def test_without_this_command_a_tiered_cache_serves_nothing(own_redis, command):
    server = own_redis()
    async with tier(allow(server, without=[command])) as cache:
        assert not await cache.confirm()
        await cache.set(*ALICE, ALLOW)
        assert await cache.get(*ALICE) is None
        allow(server)
        await until(lambda: cache.lease > 0)
        assert await cache.get(*ALICE) == ALLOW


async def test_users_get_redis_while_the_server_lets_no_process_follow_the_log(own_redis, caplog):
    await close_policy_caches()  # those of other tests
    server = own_redis()
    url = allow(server, without=["INFO"])
    chosen = use_settings(CacheSettings(redis_url=url, redis_connect_timeout=10))
    try:
        await until(lambda: chosen.choose("alice").backend == "redis")
        assert "the native cache cannot follow the log" in chosen.choose("alice").reason
        [warning] = [one.message for one in caplog.records if "is not used" in one.message]
        assert "page on servers" in warning
        allow(server)
        await until(lambda: chosen.choose("alice").backend == "tiered")
    finally:
        chosen.close()
        await close_policy_caches()


async def test_without_a_bell_news_wait_for_the_next_confirmation(own_redis):
    url = allow(own_redis(), without=["XREAD"])
    async with opened(tier(url, max_staleness=0.4), tier(url, max_staleness=0.4)) as caches:
        here, elsewhere = caches
        for _ in range(3):
            await here.set(*ALICE, ALLOW)
            await elsewhere.invalidate("alice")
            assert await here.get(*ALICE) is None
        assert here.metrics.lapsed == 0


async def test_the_permissions_allow_nothing_else(own_redis):
    server = own_redis()
    with redis.Redis.from_url(allow(server)) as client:
        for other in (("SET", "other", "1"), ("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "GET", "*")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*other)


@pytest.mark.parametrize("command", NOTHING_IS_SERVED)
async def test_without_this_command_nothing_is_served(own_redis, open_as, caplog, command):
    server = own_redis()
    assert await serves(await open_as(server))
    cache = await open_as(server, without=[command])
    assert not await serves(cache)
    assert f"refuses {command} (NOPERM)" in caplog.text
    allow(server)
    async with asyncio.timeout(10):
        # A decision that was superseded while nothing could be stored is a miss until it is
        # removed.
        while not (await cache.set(*ALICE, ALLOW) and await cache.get(*ALICE) == ALLOW):
            await asyncio.sleep(0.01)
    assert await serves(cache)
    assert await revokes(cache)


async def test_with_other_keys_nothing_is_served(own_redis, open_as, caplog):
    cache = await open_as(own_redis(), "resetkeys", "~other:*")
    assert not await serves(cache)
    assert "refuses EVAL with the cache's keys (NOPERM)" in caplog.text


@pytest.mark.parametrize("command", NOTHING_IS_SERVED)
async def test_a_revocation_that_is_refused_names_the_command(own_redis, open_as, command):
    server = own_redis()
    cache = await open_as(server)
    assert await serves(cache)
    allow(server, f"-{command}")
    refused = []
    for revoke in (
        lambda: cache.invalidate(user_id="alice"),
        lambda: cache.delete(*ALICE),
        lambda: cache.invalidate(tags=["any"]),
    ):
        try:
            await revoke()
        except InvalidationError as error:
            refused.append(str(error))
    # Older servers do not name the command that a script was refused.
    words = rf"refuses ({command}|a command of a script) \(NOPERM\)"
    assert [error for error in refused if not re.search(words, error)] == []
    assert not refused or not await serves(cache), "it is looked at again"


# Optional permissions


@pytest.mark.parametrize("library", ["redis", "valkey"])
async def test_without_role_and_info_the_primary_confirms_and_a_warning_is_logged_once(
    own_redis, open_as, caplog, library
):
    server = own_redis()
    cache = await open_as(server, "+@all", "-@dangerous", library=library)
    for _ in range(3):
        assert await serves(cache)
        assert await revokes(cache)
    [record] = caplog.records
    assert "refuses ROLE (NOPERM), so its replicas cannot be counted" in record.message
    assert "SARK_CACHE_REDIS_REPLICAS" in record.message


@pytest.mark.parametrize("command", ["ROLE", "INFO", "WAIT", "TIME"])
async def test_without_one_of_these_revocations_are_confirmed_as_before(
    own_redis, open_as, caplog, command
):
    cache = await open_as(own_redis(), without=[command])
    assert await serves(cache)
    assert await revokes(cache)
    assert caplog.records == []


async def test_without_time_a_stamp_from_before_the_first_request_stores_nothing(
    own_redis, open_as
):
    cache = await open_as(own_redis(), without=["TIME"])
    assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is False
    assert await cache.get(*ALICE) is None
    assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is True


async def test_a_server_without_role_is_confirmed_by_the_primary(own_redis, open_as, caplog):
    cache = await open_as(own_redis(rename_command=("ROLE", "")))
    assert await serves(cache)
    assert await revokes(cache)
    assert "refuses ROLE (unknown command)" in caplog.text


@pytest.mark.parametrize("refused", [("-role",), ("-role", "-info")])
async def test_a_replica_is_waited_for_if_it_is_counted_or_configured(own_redis, open_as, refused):
    server = own_redis()
    replica = own_redis(replicaof=(server.host, server.port))
    wait_until(lambda: server.info("replication")["connected_slaves"] == "1", "it is connected")
    wait_until(lambda: server.command("WAIT", 1, 100) == 1, "it follows")
    said = {} if "-info" not in refused else {"replicas": 1}
    cache = await open_as(server, *refused, command_timeout=1, **said)
    assert await serves(cache)
    assert await revokes(cache)
    await cache.set(*ALICE, ALLOW)
    replica.pause()
    with pytest.raises(InvalidationError, match="1 of 1 replicas have not confirmed it"):
        await cache.invalidate(user_id="alice")
    replica.resume()


async def test_configured_replicas_that_do_not_exist_confirm_nothing(own_redis, open_as):
    cache = await open_as(own_redis(), replicas=1)
    with pytest.raises(InvalidationError, match="1 of 1 replicas are not connected"):
        await cache.invalidate(user_id="alice")


@pytest.mark.parametrize("replicas", [0, 1])
async def test_a_configured_number_of_replicas_prevents_the_warning(
    own_redis, open_as, caplog, replicas
):
    cache = await open_as(own_redis(), without=["ROLE", "INFO"], replicas=replicas)
    assert await serves(cache)
    assert caplog.records == []


async def test_without_wait_nothing_is_served_where_there_are_replicas(own_redis, open_as, caplog):
    server = own_redis()
    own_redis(replicaof=(server.host, server.port))
    wait_until(lambda: server.command("ROLE")[2] != [], "it is connected")
    cache = await open_as(server, without=["WAIT"])
    assert not await serves(cache)
    assert "refuses WAIT (NOPERM)" in caplog.text


async def test_without_info_a_revocation_whose_connection_breaks_is_not_confirmed(
    own_redis, open_as
):
    """Asserts it because another server may have taken over, with another table of keys."""
    server = own_redis()
    cache = await open_as(server, without=["INFO"])
    rows = [("alice", "read", f"doc-{number}", ALLOW) for number in range(50_000)]
    assert await cache.set_batch(rows) == len(rows)
    breaks = 0
    revoking = asyncio.create_task(cache.invalidate(user_id="alice"))
    while not revoking.done():
        breaks += server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(0.005)
    assert breaks
    with pytest.raises(InvalidationError):
        await revoking
    assert await cache.invalidate(user_id="alice") >= 0
    assert await cache.size() == 0


async def test_without_ping_health_checks_fail_and_all_else_works(own_redis, open_as):
    cache = await open_as(own_redis(), without=["PING"])
    assert await cache.health_check() is False
    assert await cache.set(*ALICE, ALLOW)
    assert await revokes(cache)


async def test_another_database_needs_the_command_select(own_redis, open_as):
    server = own_redis()
    assert await serves(await open_as(server, database=1))
    assert not await serves(await open_as(server, without=["SELECT"], database=1))


# Several servers


@pytest.fixture
def users_of(request):
    """Makes the page's user on several servers, and removes it afterwards."""
    made = []

    def make(servers, *line):
        made.extend(servers)
        for server in servers:
            server.command(*line)

    yield make
    for server in made:
        server.revive()
        server.command("ACL", "DELUSER", "sark-cache")


def for_user(url):
    return url.replace("://", "://sark-cache:password@", 1)


@pytest.mark.parametrize("library", ["redis", "valkey"])
async def test_on_a_cluster_the_line_and_four_commands_are_enough(
    fresh_cluster, users_of, open_cache, caplog, library
):
    users_of(fresh_cluster.servers, *LINE, *ON_CLUSTERS)
    url = for_user(fresh_cluster.url).replace("redis", library, 1)
    cache = await open_cache(url, **PATIENT)
    assert await serves(cache)
    assert await revokes(cache)
    assert caplog.records == []


ON_CLUSTERS_NEEDED = [*NOTHING_IS_SERVED, "CLUSTER", "COMMAND", "INFO"]


@pytest.mark.parametrize("command", ON_CLUSTERS_NEEDED)
async def test_on_a_cluster_nothing_is_served_without_this_command_on_one_of_its_nodes(
    fresh_cluster, users_of, open_cache, command
):
    """A revocation scans all nodes, so that it fails wherever the decision is stored."""
    users_of(fresh_cluster.servers, *LINE, *ON_CLUSTERS)
    refusing = fresh_cluster.servers if command == "COMMAND" else fresh_cluster.servers[:1]
    users_of(refusing, "ACL", "SETUSER", "sark-cache", f"-{command}")
    cache = await open_cache(for_user(fresh_cluster.url), **PATIENT)
    for number in range(9):
        row = (f"user-{number}", "read", "doc")
        assert await cache.set(*row, ALLOW) is False
        assert await cache.get(*row) is None


async def test_sentinels_have_a_line_of_their_own(fresh_sentinels, users_of, open_cache, caplog):
    users_of([fresh_sentinels.primary()], *LINE)
    user = ["ACL", "SETUSER", "sark-cache", "on", ">" + "pass/word", *ON_SENTINELS]
    users_of(fresh_sentinels.sentinels, *user)
    login = f"?sentinel_username=sark-cache&sentinel_password={quote('pass/word', safe='')}"
    cache = await open_cache(for_user(fresh_sentinels.url) + login, **PATIENT)
    assert await serves(cache)
    assert await revokes(cache)
    assert caplog.records == []


async def test_a_refused_command_opens_the_circuit(own_redis, open_as):
    cache = await open_as(own_redis(), without=["SCAN"])
    assert not await serves(cache)
    assert cache.circuit_open is True
    assert await cache.size() == 0
    assert isinstance(cache, PolicyCache)
