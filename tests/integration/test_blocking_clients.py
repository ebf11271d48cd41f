"""Blocking clients for a thread, made from a URL or from a client for asyncio."""

import asyncio

import pytest
import redis.asyncio
import redis.asyncio.sentinel
import valkey.asyncio

from sark_cache._core.blocking_clients import blocking_clients

TIMEOUTS = (10.0, 10.0)
LIBRARIES = {"redis": redis.asyncio, "valkey": valkey.asyncio}


def pings(connect):
    client = connect()
    try:
        return client.ping()
    finally:
        client.close()


@pytest.fixture(params=LIBRARIES)
def library(request):
    return LIBRARIES[request.param]


def kind(library, name=""):
    return getattr(library, f"{library.__name__.partition('.')[0].capitalize()}{name}")


@pytest.mark.parametrize("servers", ["fresh_redis", "fresh_sentinels", "fresh_cluster"])
def test_a_url_is_enough(servers, request):
    assert pings(blocking_clients(request.getfixturevalue(servers).url, *TIMEOUTS))


async def test_a_client_of_one_server_is_enough(own_redis, library):
    server = own_redis(requirepass="pass/word", unixsocket="socket")
    for url in (server.url, server.unix_url):
        client = kind(library).from_url(url)
        assert await asyncio.to_thread(pings, blocking_clients(client, *TIMEOUTS))
        await client.aclose()


async def test_a_client_of_sentinels_is_enough(fresh_sentinels, library):
    hosts = [(one.host, one.port) for one in fresh_sentinels.sentinels]
    sentinel = library.sentinel.Sentinel(hosts)
    client = sentinel.master_for(fresh_sentinels.SERVICE)
    assert await asyncio.to_thread(pings, blocking_clients(client, *TIMEOUTS))
    await client.aclose()
    for one in sentinel.sentinels:
        await one.aclose()


async def test_a_client_of_a_cluster_is_enough(fresh_cluster, library):
    client = kind(library, "Cluster").from_url(fresh_cluster.servers[0].url)
    await client.initialize()
    assert await asyncio.to_thread(pings, blocking_clients(client, *TIMEOUTS))
    await client.aclose()


def test_a_client_with_connections_of_its_own_is_refused(library):
    class Own(library.connection.Connection):
        pass

    pool = library.ConnectionPool(connection_class=Own)
    with pytest.raises(TypeError, match="its connections are of the class Own: pass the URL"):
        blocking_clients(kind(library)(connection_pool=pool), *TIMEOUTS)


def test_a_client_with_a_coroutine_for_its_connections_is_refused(library):
    async def greet(connection):
        del connection

    name = f"{library.__name__.partition('.')[0]}_connect_func"
    pool = library.ConnectionPool(**{name: greet})
    with pytest.raises(TypeError, match=f"it has a {name}"):
        blocking_clients(kind(library)(connection_pool=pool), *TIMEOUTS)
