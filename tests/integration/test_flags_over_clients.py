"""Feature flags over every kind of client that redis-py and valkey-py have."""

import pytest
import redis
import redis.cluster
import redis.sentinel
import valkey
import valkey.cluster
import valkey.sentinel

from redis_flags import KEY, PATIENCE, Wrapped, looked, within
from sark_cache.errors import FlagError
from sark_cache.rollout.manager import FeatureFlagManager
from sark_cache.rollout.redis_store import FlagStore

CLIENTS = {
    "redis-py": lambda s: redis.Redis.from_url(s.url),
    "redis-py, RESP 3 and text": lambda s: redis.Redis.from_url(
        s.url, protocol=3, decode_responses=True
    ),
    "redis-py, a pool that blocks": lambda s: redis.Redis(
        connection_pool=redis.BlockingConnectionPool.from_url(s.url, max_connections=1)
    ),
    "redis-py, unix socket": lambda s: redis.Redis.from_url(s.unix_url),
    "valkey-py": lambda s: valkey.Valkey.from_url(s.url),
    "valkey-py, unix socket": lambda s: valkey.Valkey.from_url(s.unix_url),
}


@pytest.mark.parametrize("kind", CLIENTS)
def test_every_kind_of_client_is_accepted(own_redis, kind):
    server = own_redis(requirepass="p@ss word", unixsocket="socket")
    client = CLIENTS[kind](server)
    check_client(client, server)
    client.close()


@pytest.mark.parametrize("library", [redis.cluster.RedisCluster, valkey.cluster.ValkeyCluster])
def test_a_cluster_is_accepted(fresh_cluster, library):
    client = library.from_url(fresh_cluster.servers[0].url)
    check_client(client, fresh_cluster)
    client.close()


@pytest.mark.parametrize("library", [redis.sentinel, valkey.sentinel])
def test_sentinels_are_accepted_and_a_failover_is_followed(fresh_sentinels, library):
    addresses = [(sentinel.host, sentinel.port) for sentinel in fresh_sentinels.sentinels]
    sentinel = library.Sentinel(addresses, socket_timeout=1)
    client = sentinel.master_for(fresh_sentinels.SERVICE)
    flags = check_client(client, fresh_sentinels)
    fresh_sentinels.failover()
    with within(PATIENCE) as in_time:
        while in_time():
            try:
                flags.set_rollout_pct("rust_cache", 77)
            except FlagError:
                continue
            break
    assert fresh_sentinels.master.command("GET", KEY) == "77"
    flags.close()
    client.close()
    for each in sentinel.sentinels:
        each.close()


def check_client(client, servers):
    """Checks that flags over a client see changes, survive a kind of fault, and stay usable."""
    flags, others = FeatureFlagManager(client), FeatureFlagManager(client)
    flags.set_rollout_pct("rust_cache", 33)
    flags.set_rollout_pct("rust_opa", 44)
    looked(others)  # finding the nodes of a cluster may take longer than the first call waits
    assert others.get_all_rollouts() == {"rust_cache": 33, "rust_opa": 44}
    assert client.get(KEY) in (b"33", "33")
    client.delete(KEY)
    client.lpush(KEY, "a list")
    looked(others)
    assert others.get_all_rollouts() == {"rust_cache": 33, "rust_opa": 44}
    store = FlagStore(client)
    assert store.write_late("rust_opa", 50, 44) == 50
    assert store.write_late("rust_opa", 60, 44) == 50
    store.close()
    client.delete(KEY)
    others.close()
    return flags


def test_a_client_of_an_unknown_type_is_used_and_not_closed(fresh_redis):
    with redis.Redis.from_url(fresh_redis.url) as client:
        wrapped = Wrapped(client)
        flags = FeatureFlagManager(wrapped)
        flags.set_rollout_pct("rust_cache", 33)
        assert fresh_redis.command("GET", KEY) == "33"
        flags.close()
        assert not wrapped.closed
        assert client.ping()


def test_an_exhausted_pool_of_the_application_does_not_block_the_flags(fresh_redis):
    pool = redis.BlockingConnectionPool.from_url(fresh_redis.url, max_connections=1, timeout=60)
    taken = pool.get_connection()
    flags = FeatureFlagManager(redis.Redis(connection_pool=pool))
    flags.set_rollout_pct("rust_cache", 33)
    assert fresh_redis.command("GET", KEY) == "33"
    flags.close()
    pool.release(taken)
    pool.disconnect()
