"""URLs of servers, and the clients that are made from them."""

import subprocess
import sys

import pytest
import redis.asyncio
import valkey.asyncio

from sark_cache.redis import PolicyCache
from sark_cache.redis.urls import connect, parse


def options(url):
    connected = connect(url, 0.05, 0.25)
    return connected, connected.client.connection_pool.connection_kwargs


def test_one_server_by_its_host_port_and_database():
    connected, kwargs = options("redis://me:p%40ss@cache.example:6380/3")
    assert isinstance(connected.client, redis.asyncio.Redis)
    assert (kwargs["host"], kwargs["port"], kwargs["db"]) == ("cache.example", 6380, 3)
    assert (kwargs["username"], kwargs["password"]) == ("me", "p@ss")
    assert kwargs["socket_connect_timeout"] == 0.05


def test_what_is_left_out_is_as_usual():
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


def test_sentinel_by_its_hosts_and_service():
    url = "redis+sentinel://me:secret@a,b:26380/main/2?sentinel_password=other"
    connected, kwargs = options(url)
    pool = connected.client.connection_pool
    assert pool.service_name == "main"
    assert (kwargs["username"], kwargs["password"], kwargs["db"]) == ("me", "secret", 2)
    asked = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    assert [(one["host"], one["port"]) for one in asked] == [("a", 26379), ("b", 26380)]
    assert {one["password"] for one in asked} == {"other"}


async def test_a_cluster_by_some_of_its_nodes():
    connected = connect("redis+cluster://127.0.0.1:7001,127.0.0.1:7002", 0.05, 0.25)
    assert isinstance(connected.client, redis.asyncio.RedisCluster)
    nodes = connected.client.nodes_manager.startup_nodes
    assert set(nodes) == {"127.0.0.1:7001", "127.0.0.1:7002"}
    await connected.close()


async def test_valkey_has_a_client_of_its_own():
    assert isinstance(connect("valkey://host", 1, 1).client, valkey.asyncio.Valkey)
    cluster = connect("valkey+cluster://127.0.0.1:7001", 1, 1)
    assert isinstance(cluster.client, valkey.asyncio.ValkeyCluster)
    await cluster.close()


def test_the_other_client_will_do(monkeypatch):
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
        ("", "not nothing://"),
        ("redis+ring://host", "must begin with redis://"),
        ("redis://:12#34@host", "written %23"),
        ("redis://host:port", "port between 1 and 65535 after 'host'"),
        ("redis://host:0", "port between 1 and 65535"),
        ("redis://host:70000", "port between 1 and 65535"),
        ("redis+sentinel://host", "must name the service"),
        ("redis+sentinel:///main", "must name a host"),
        ("redis+cluster://", "must name a host"),
        ("redis://host?colour=red", "option that redis-py does not take: .*colour"),
    ],
)
def test_a_wrong_url_fails_when_the_cache_is_made_and_says_what_is_right(url, message):
    with pytest.raises(ValueError, match=message):
        PolicyCache.from_url(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://:secret@host/zero", "number of a database"),
        ("redis+cluster://host/1", "a cluster has but one"),
    ],
)
def test_a_wrong_database_is_told_without_the_password(url, message):
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


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_time_outs_are_more_than_nothing(seconds):
    with pytest.raises(ValueError, match="command_timeout must be more than 0 seconds"):
        PolicyCache(command_timeout=seconds)
    with pytest.raises(ValueError, match="connect_timeout must be more than 0 seconds"):
        PolicyCache(connect_timeout=seconds)
    with pytest.raises(TypeError, match="command_timeout must be a number of seconds, not str"):
        PolicyCache(command_timeout="1")


def test_no_client_library_is_imported_before_a_cache_is_used():
    code = "import sark_cache.redis, sys; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
