"""Keys of other programs that begin like the cache's own do not prevent a revocation.

Keys in Redis are bytes. Any client of the server can write a key that is not UTF-8.
"""

import importlib

import pytest
import redis

from loaders import ALLOW, DENY
from loaders import REQUEST as ALICE
from sark_cache import PolicyCache

BOB = ("bob", "read", "doc")
PATIENT = {"connect_timeout": 10, "command_timeout": 10}
KEYS = [
    b"sark-cache:1:\xff",
    b"sark-cache:1::\xff:read:doc:none",
    b"sark-cache:1::alice:read:doc:\xfe\xff",
    b"sark-cache:1::alice:" + b"\xc3" * 200 + b":doc:none",
    b"sark-cache:1::%FF:read:doc:none",
    "sark-cache:1::ä:read:doc:none".encode(),
]

REVOCATIONS = {
    "a user": lambda cache: cache.invalidate(user_id="alice"),
    "a tag": lambda cache: cache.invalidate(tags=["role:admin"]),
    "a pattern": lambda cache: cache.invalidate_pattern("policy:decision:alice:*"),
    "one decision": lambda cache: cache.delete(*ALICE),
    "everything": lambda cache: cache.clear(),
}


def write_keys(server):
    """Writes the keys of another program, one by one to the servers that store their slots."""
    host, port = server.url.rpartition("//")[2].split(",")[0].removesuffix("/0").split(":")
    kind = redis.RedisCluster if server.url.startswith("redis+cluster") else redis.Redis
    with kind(host=host, port=int(port)) as client:
        for key in KEYS:
            client.set(key, b"\xff")


@pytest.fixture(params=["false", "true"], ids=["bytes", "text"])
def decode_responses(request):
    return request.param


@pytest.mark.parametrize("servers", ["fresh_redis", "fresh_cluster"])
@pytest.mark.parametrize("revoke", REVOCATIONS)
async def test_a_revocation_is_confirmed(request, servers, revoke, decode_responses):
    server = request.getfixturevalue(servers)
    url = f"{server.url}?decode_responses={decode_responses}"
    async with PolicyCache(url, **PATIENT) as cache:
        await cache.set_batch([(*ALICE, ALLOW), (*BOB, DENY)], tags=["role:admin"])
        write_keys(server)
        await REVOCATIONS[revoke](cache)
        assert await cache.get(*ALICE) is None
        assert cache.metrics.errors == 0


@pytest.mark.parametrize("library", ["redis", "valkey"])
async def test_a_client_that_decodes_is_no_obstacle(fresh_redis, library):
    kind = importlib.import_module(f"{library}.asyncio").from_url
    client = kind(fresh_redis.url.replace("redis", library), decode_responses=True)
    async with client, PolicyCache(client, **PATIENT) as cache:
        await cache.set(*ALICE, ALLOW)
        write_keys(fresh_redis)
        assert await cache.invalidate(user_id="alice") == 1
        assert await cache.get(*ALICE) is None
        assert cache.metrics.errors == 0


async def test_a_server_that_refuses_its_state_is_no_obstacle(own_redis, decode_responses):
    server = own_redis()
    allowed = ("on", ">password", "~*", "&*", "+@all", "-info", "-role")
    server.command("ACL", "SETUSER", "sark-cache", *allowed)
    url = server.url.replace("redis://", "redis://sark-cache:password@")
    async with PolicyCache(f"{url}?decode_responses={decode_responses}", **PATIENT) as cache:
        await cache.set(*ALICE, ALLOW)
        write_keys(server)
        assert await cache.invalidate(user_id="alice") == 1
        assert await cache.get(*ALICE) is None


async def test_such_keys_are_not_counted_and_not_removed(fresh_redis):
    async with PolicyCache(fresh_redis.url, **PATIENT) as cache:
        await cache.set(*ALICE, ALLOW)
        write_keys(fresh_redis)
        undecodable = [key for key in KEYS if b"\xff" in key or b"\xc3\xc3" in key]
        before = await cache.size()
        assert before == 1 + len([key for key in KEYS[4:] if key.count(b":") == 6])
        await cache.clear()
        assert await cache.size() == 0
        left = [fresh_redis.command("EXISTS", key) for key in undecodable]
        assert left == [1] * len(undecodable)
