"""URLs of servers, and the clients that are made from them."""

import contextlib
import subprocess
import sys
import traceback

import pytest
import redis.asyncio
import valkey.asyncio
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from sark_cache._core.redis_urls import connect, connect_blocking, parse
from sark_cache.backends.redis import PolicyCache
from sark_cache.errors import SettingsError
from sark_cache.rollout.manager import FeatureFlagManager
from sark_cache.settings import CacheSettings


def options(url):
    connected = connect(url, 0.05, 0.25)
    return connected, connected.client.connection_pool.connection_kwargs


def test_one_server_is_given_by_host_port_and_database():
    connected, kwargs = options("redis://me:p%40ss@cache.example:6380/3")
    assert isinstance(connected.client, redis.asyncio.Redis)
    assert (kwargs["host"], kwargs["port"], kwargs["db"]) == ("cache.example", 6380, 3)
    assert (kwargs["username"], kwargs["password"]) == ("me", "p@ss")
    assert kwargs["socket_connect_timeout"] == 0.05


def test_omitted_parts_have_the_usual_defaults():
    _, kwargs = options("redis://")
    assert (kwargs["host"], kwargs["port"], kwargs["db"]) == ("localhost", 6379, 0)
    _, kwargs = options("redis://[::1]")
    assert (kwargs["host"], kwargs["port"]) == ("::1", 6379)
    _, kwargs = options("redis://[::1]:6390?db=2")
    assert (kwargs["host"], kwargs["port"], kwargs["db"]) == ("::1", 6390, 2)


def test_tls_and_its_options():
    connected, kwargs = options("rediss://host?ssl_ca_certs=/ca.pem&ssl_check_hostname=false")
    pool = connected.client.connection_pool
    assert pool.connection_class is redis.asyncio.SSLConnection
    assert kwargs["ssl_ca_certs"] == "/ca.pem"
    assert kwargs["ssl_check_hostname"] is False


def test_a_socket_on_this_machine():
    _, kwargs = options("unix:///run/redis.sock?db=4")
    assert (kwargs["path"], kwargs["db"]) == ("/run/redis.sock", 4)


def test_sentinel_is_given_by_its_hosts_and_service():
    url = "redis+sentinel://me:secret@a,b:26380/main/2?sentinel_password=other"
    connected, kwargs = options(url)
    pool = connected.client.connection_pool
    assert pool.service_name == "main"
    assert (kwargs["username"], kwargs["password"], kwargs["db"]) == ("me", "secret", 2)
    asked = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    assert [(one["host"], one["port"]) for one in asked] == [("a", 26379), ("b", 26380)]
    assert {one["password"] for one in asked} == {"other"}


async def test_a_cluster_is_given_by_some_of_its_nodes():
    connected = connect("redis+cluster://127.0.0.1:7001,127.0.0.1:7002", 0.05, 0.25)
    assert isinstance(connected.client, redis.asyncio.RedisCluster)
    nodes = connected.client.nodes_manager.startup_nodes
    assert set(nodes) == {"127.0.0.1:7001", "127.0.0.1:7002"}
    await connected.close()


async def test_valkey_urls_use_the_client_of_valkey():
    assert isinstance(connect("valkey://host", 1, 1).client, valkey.asyncio.Valkey)
    cluster = connect("valkey+cluster://127.0.0.1:7001", 1, 1)
    assert isinstance(cluster.client, valkey.asyncio.ValkeyCluster)
    await cluster.close()


def test_the_other_client_is_used_if_only_that_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    assert isinstance(connect("redis://host", 1, 1).client, valkey.asyncio.Valkey)
    monkeypatch.setitem(sys.modules, "valkey", None)
    with pytest.raises(ImportError, match=r"pip install 'sark-cache\[redis\]'"):
        connect("redis://host", 1, 1)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://host", "must begin with redis://"),
        ("host:6379", "must begin with redis://"),
        ("", "must begin with redis://"),
        ("redis+ring://host", "must begin with redis://"),
        ("redis://:12#34@host", "written %23"),
        ("redis://host:port", "port between 1 and 65535 after the host"),
        ("redis://host:0", "port between 1 and 65535"),
        ("redis://host:70000", "port between 1 and 65535"),
        ("redis://host:99999999999999", "port between 1 and 65535"),
        ("redis://host:٦٣٧٩", "port between 1 and 65535"),
        ("redis://:secret:6379", "must name a host as host:port"),
        ("redis://::1/0", "must name a host as host:port"),
        ("redis://:a[b]c@host", "must have a host; in a password"),
        ("redis://:sec/ret@host", "must not have an @ after the host"),
        ("redis://:12?34@host", "must not have an @ after the host"),
        ("redis://host/" + "9" * 5000, "number of a database"),
        ("redis+sentinel://host", "must name the service"),
        ("redis+sentinel:///main", "must name a host"),
        ("redis+cluster://", "must name a host"),
        ("redis://host?colour=red", "option that redis-py does not take: .*colour"),
    ],
)
def test_a_wrong_url_fails_when_the_cache_is_made_and_the_error_shows_a_right_one(url, message):
    with pytest.raises(ValueError, match=message):
        PolicyCache.from_url(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://:secret@host/zero", "number of a database"),
        ("redis+cluster://host/1", "a cluster has only one"),
    ],
)
def test_the_error_of_a_wrong_database_has_no_password(url, message):
    with pytest.raises(ValueError, match=message) as raised:
        PolicyCache.from_url(url)
    assert "secret" not in str(raised.value)


def test_a_cache_is_made_from_a_url_or_a_client():
    with pytest.raises(TypeError, match="url must be a str, not int"):
        PolicyCache.from_url(6379)
    with pytest.raises(TypeError, match="url must be a str"):
        parse(None)
    for wrong in (object(), redis.Redis(), 1):
        with pytest.raises(TypeError, match=r"client of redis.asyncio or valkey.asyncio, not "):
            PolicyCache(wrong)


A_CLIENT = r"pass a client that uses it, redis.asyncio.Redis\(connection_pool=pool\)"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (redis.asyncio.ConnectionPool, A_CLIENT),
        (redis.asyncio.BlockingConnectionPool, A_CLIENT),
        (valkey.asyncio.ConnectionPool, A_CLIENT),
        (redis.ConnectionPool, A_CLIENT),
        (
            lambda: redis.asyncio.Sentinel([("host", 26379)]),
            r"pass redis.asyncio.Redis.from_url\(url\)",
        ),
        (lambda: redis.asyncio.Redis().pipeline(), r"pass redis.asyncio.Redis.from_url\(url\)"),
        (lambda: redis.asyncio.Redis().pubsub(), r"pass redis.asyncio.Redis.from_url\(url\)"),
        (lambda: redis.asyncio, r"pass redis.asyncio.Redis.from_url\(url\)"),
    ],
)
def test_an_object_that_is_not_a_client_is_refused_at_once_with_what_to_pass(made, message):
    with pytest.raises(TypeError, match=message):
        PolicyCache(made())


def test_a_pool_for_the_flags_is_refused_at_once():
    with pytest.raises(TypeError, match="must be a synchronous client, such as"):
        FeatureFlagManager(redis.ConnectionPool())


# Options

OPTIONS = {
    "health_check_interval=30": 30,
    "socket_connect_timeout=2": 2.0,
    "socket_timeout=1.5": 1.5,
    "socket_keepalive=no": False,
    "socket_keepalive=1": True,
    "client_name=a%20b": "a b",
    "db=1": 1,
}
TOPOLOGIES = ["redis://host", "redis+sentinel://host/main", "valkey://host"]


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("url", TOPOLOGIES)
@pytest.mark.parametrize("connected", [lambda *args: connect(*args).client, connect_blocking])
def test_an_option_has_the_meaning_of_the_client(connected, url, option):
    client = connected(f"{url}?{option}", 0.05, 0.25)
    name, _, _ = option.partition("=")
    value = client.connection_pool.connection_kwargs[name]
    assert (value, type(value)) == (OPTIONS[option], type(OPTIONS[option]))


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_read_as_by_from_url(option):
    ours = connect(f"redis://host?{option}", 0.05, 0.25).client
    theirs = redis.asyncio.Redis.from_url(f"redis://host?{option}")
    name, _, _ = option.partition("=")
    kwargs = [client.connection_pool.connection_kwargs[name] for client in (ours, theirs)]
    assert kwargs[0] == kwargs[1]


def test_the_number_of_connections_is_the_size_of_the_pool():
    for url in TOPOLOGIES:
        pool = connect(f"{url}?max_connections=20", 0.05, 0.25).client.connection_pool
        assert pool.max_connections == 20


async def test_the_options_of_a_cluster_are_read_in_the_same_way():
    url = "redis+cluster://127.0.0.1:7001?health_check_interval=30&max_connections=20"
    connected = connect(url, 0.05, 0.25)
    [node] = connected.client.nodes_manager.startup_nodes.values()
    assert node.max_connections == 20
    assert connected.client.connection_kwargs["health_check_interval"] == 30
    await connected.close()


def test_the_database_of_an_option_overrides_that_of_the_path_as_in_the_client():
    _, kwargs = options("redis://host/2?db=1")
    assert kwargs["db"] == 1


def test_a_login_may_be_an_option_and_that_of_the_host_overrides_it():
    _, kwargs = options("redis://host?username=me&password=secret")
    assert (kwargs["username"], kwargs["password"]) == ("me", "secret")
    _, kwargs = options("redis://you:other@host?username=me&password=secret")
    assert (kwargs["username"], kwargs["password"]) == ("you", "other")


def test_sentinels_are_connected_with_the_same_tls():
    connected, _ = options("rediss+sentinel://a/main?ssl_ca_certs=/ca.pem")
    [sentinel] = connected.client.connection_pool.sentinel_manager.sentinels
    assert sentinel.connection_pool.connection_kwargs["ssl_ca_certs"] == "/ca.pem"


WRONG_OPTIONS = [
    ("health_check_interval=often", "health_check_interval"),
    ("max_connections=many", "max_connections"),
    ("colour=red", "colour"),
    ("db=one", "number of a database"),
    ("ssl_cert_reqs=perhaps", None),
]


@pytest.mark.parametrize(("option", "named"), WRONG_OPTIONS)
@pytest.mark.parametrize("url", ["redis://host", "rediss://host", "rediss+sentinel://host/main"])
def test_a_wrong_option_fails_the_start_and_names_the_variable(monkeypatch, url, option, named):
    if named is None and not url.startswith("rediss"):
        pytest.skip("it counts for TLS alone")
    monkeypatch.setenv("SARK_CACHE_REDIS_URL", f"{url}?{option}")
    with pytest.raises(
        SettingsError, match=rf"SARK_CACHE_REDIS_URL is wrong: .*{named or 'option'}"
    ):
        CacheSettings.from_environment()
    with pytest.raises(ValueError, match=f"{named or 'option'}"):
        PolicyCache(f"{url}?{option}")


# Passwords

TOKENS = [f"tok{sign}en{number}" for number, sign in enumerate("qxzj")]
SEPARATORS = [*":/?#[]@%&=, \\", "%2F", "://", "?a=", "&db=", "\u2100", "\n", "::1", "]:", ""]


@st.composite
def passwords(draw):
    """Unquoted passwords, made of parts that can be recognized in a message."""
    parts = draw(st.lists(st.sampled_from(TOKENS), min_size=1, max_size=4))
    return "".join(part + draw(st.sampled_from(SEPARATORS)) for part in parts)


URLS = [
    *("redis://:{}@host", "redis://:{}@host:6379/0", "rediss://me:{}@host/1", "redis://:{}"),
    *("redis+sentinel://:{}@a,b:1/main/0", "redis+cluster://:{}@a,b:70000", "{}@host:6379", "{}"),
    *(
        "unix://:{}@/path",
        "redis://host?password={}",
        "redis+ring://:{}@host",
        "redis://:{}@host/x",
    ),
    *("redis+sentinel://host/main?sentinel_password={}", "redis://:{}@host?colour=red"),
]


@given(url=st.sampled_from(URLS), password=passwords())
@example(url="redis://host?password={}", password=f"{TOKENS[0]}&{TOKENS[1]}=1")
def test_no_part_of_a_password_is_in_any_message(url, password):
    is_end_of_url = url.endswith("{}") and "=" not in url
    url = url.format(password)
    said, hosts = [], ""
    with contextlib.suppress(ValueError):
        address = parse(url)
        said.append(repr(address))
        if is_end_of_url:  # a whole URL may result, whose host is not secret
            hosts = repr((address.hosts, address.path, address.service))
    for make in (
        parse,
        PolicyCache,
        PolicyCache.from_url,
        lambda url: CacheSettings(redis_url=url),
    ):
        try:
            made = make(url)
        except (ValueError, ValidationError) as error:
            said += [str(error), repr(error), *traceback.format_exception(error)]
        else:
            said.append(repr(made))
            if isinstance(made, CacheSettings) and "@" in url.replace(password, ""):
                said.append(str(made.redis_address))
    secrets = [token for token in TOKENS if token not in hosts]
    assert [text for text in said for token in secrets if token in text] == []


def test_a_password_with_a_slash_is_not_taken_for_a_host():
    url = "redis://:sec:ret/x@host"
    with pytest.raises(ValueError, match="%2F") as raised:
        PolicyCache(url)
    assert "sec" not in str(raised.value)


@pytest.mark.parametrize("option", ["password", "sentinel_password"])
def test_an_unquoted_ampersand_in_a_password_makes_no_option_that_is_named(option):
    for password in ("sec&ret=1", "&ret=1"):
        with pytest.raises(ValueError, match="%26 in place of &") as raised:
            PolicyCache(f"redis+sentinel://host/main?{option}={password}")
        assert "'ret'" not in str(raised.value)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_time_outs_are_positive(seconds):
    with pytest.raises(ValueError, match="command_timeout must be more than 0 seconds"):
        PolicyCache(command_timeout=seconds)
    with pytest.raises(ValueError, match="connect_timeout must be more than 0 seconds"):
        PolicyCache(connect_timeout=seconds)
    with pytest.raises(TypeError, match="command_timeout must be a number of seconds, not str"):
        PolicyCache(command_timeout="1")


def test_no_client_library_is_imported_before_a_cache_is_used():
    code = "import sark_cache.backends.redis, sys; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
