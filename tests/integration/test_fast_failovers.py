"""Leases end before another server can take over, or native caches do not follow the servers."""

import logging

import pytest

from sark_cache import CacheSettings, close_policy_caches
from sark_cache.selection.selector import Selection
from servers import Cluster, Sentinels
from tiers import opened, tier, until

REQUEST = ("alice", "read", "doc")
ALLOW = {"allow": True}


def set_failover(servers, seconds):
    """Sets the time until a failover on every sentinel, or on every node of a cluster."""
    if isinstance(servers, Sentinels):
        for sentinel in servers.sentinels:
            limit = ("down-after-milliseconds", int(seconds * 1e3))
            sentinel.command("SENTINEL", "SET", servers.SERVICE, *limit)
    else:
        for node in servers.servers:
            node.command("CONFIG", "SET", "cluster-node-timeout", int(seconds * 1e3))


@pytest.fixture(params=[Sentinels, Cluster])
def servers(request, server_available):
    """Servers for one test alone, whose settings it changes."""
    with request.param() as servers:
        yield servers


@pytest.fixture
def cluster(server_available):
    with Cluster() as cluster:
        yield cluster


async def test_a_failover_that_is_too_fast_is_refused_until_it_is_slower(servers):
    set_failover(servers, 3.01)
    cache = tier(servers.url, command_timeout=1)
    try:
        assert await cache.confirm() is False
        assert "another server may take over after 3.01 s" in cache.refused
        assert "SARK_CACHE_TRUST_SERVER=true" in cache.refused
        assert await cache.set(*REQUEST, ALLOW)
        assert await cache.get(*REQUEST) is None
        set_failover(servers, 10)
        await until(lambda: cache.refused is None)
        assert await cache.confirm()
        await cache.set(*REQUEST, ALLOW)
        assert await cache.get(*REQUEST) == ALLOW
    finally:
        await cache.close()


async def test_leases_end_before_a_failover(servers, caplog):
    set_failover(servers, 3.5)
    with caplog.at_level(logging.WARNING):
        async with opened(tier(servers.url, max_staleness=10)) as (cache,):
            assert 0 < cache.lease <= 0.45
    assert "max_staleness is 0.5 s instead of 10 s" in caplog.text


async def test_a_server_that_is_trusted_is_followed(servers):
    set_failover(servers, 1)
    async with opened(tier(servers.url, max_staleness=10, trust_server=True)) as (cache,):
        assert cache.lease > 5


async def test_a_cluster_that_does_not_show_its_time_out_is_refused_unless_trusted(cluster):
    set_failover(cluster, 15)
    for node in cluster.servers:
        node.command("ACL", "SETUSER", "default", "-config|get")
    cache = tier(cluster.url, command_timeout=1)
    try:
        assert await cache.confirm() is False
        assert "+config|get" in cache.refused
    finally:
        await cache.close()
    async with opened(tier(cluster.url, trust_server=True)) as (trusted,):
        assert trusted.lease > 0


async def test_users_get_redis_where_a_failover_is_too_fast(cluster, monkeypatch):
    monkeypatch.setenv("SARK_CACHE_REDIS_URL", cluster.url)
    monkeypatch.setenv("SARK_CACHE_REDIS_CONNECT_TIMEOUT", "2")
    monkeypatch.setenv("SARK_CACHE_REDIS_COMMAND_TIMEOUT", "2")
    selection = Selection(CacheSettings.from_environment())
    try:
        await until(lambda: selection.choose("alice").backend == "redis")
        assert "another server may take over" in selection.choose("alice").reason
    finally:
        selection.close()
        await close_policy_caches()
