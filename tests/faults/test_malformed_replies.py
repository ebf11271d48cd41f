"""Malformed replies of a proxy or a broken server fail no request and confirm no revocation."""

import asyncio
import re

import pytest
import redis

from sark_cache import FeatureFlagManager, InvalidationError
from sark_cache._core.errors import UnavailableError
from sark_cache.backends.redis import PolicyCache, primary
from sark_cache.cli.flags import storage
from sark_cache.errors import FlagError
from sark_cache.rollout.redis_store import FlagStore
from sark_cache.settings import CacheSettings
from servers.proxy import FixedServer, ReplacingProxy
from timed_requests import ALLOW

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ALICE, BOB = ("alice", "read", "doc"), ("bob", "read", "doc")
ENTRY = (
    b'{"key":"sark-cache:1::alice:read:doc:none","context":"none","ttl":300,"tags":[],"decision":'
)
NEVER_ALLOWED = {"allow": "by nobody"}


def bulk(text):
    return b"$%d\r\n%b\r\n" % (len(text), text)


NONSENSE = {
    "a status": b"+OK\r\n",
    "nothing": b"$-1\r\n",
    "no list": b"*-1\r\n",
    "an empty list": b"*0\r\n",
    "one": b":1\r\n",
    "a negative number": b":-5\r\n",
    "a huge number": b":99999999999999999999999999999999\r\n",
    "a text": bulk(b"hello"),
    "an empty text": bulk(b""),
    "bytes that are no UTF-8": bulk(b"\xff\xfe\xff"),
    "a list of nothing": b"*1\r\n$-1\r\n",
    "lists in lists": b"*1\r\n" * 200 + b":1\r\n",
    "many lists in lists": b"*1\r\n" * 20_000 + b":1\r\n",
    "a short look-up": b"*2\r\n$-1\r\n:0\r\n",
    "a look-up without a position": b"*5\r\n$-1\r\n:0\r\n$-1\r\n$-1\r\n$-1\r\n",
    "a look-up of numbers": b"*5\r\n:1\r\n:2\r\n:3\r\n:4\r\n:5\r\n",
    "a look-up of lists": b"*5\r\n" + b"*1\r\n$1\r\na\r\n" * 5,
    "a position that is none": b"*5\r\n$-1\r\n:0\r\n$-1\r\n"
    + bulk(b"1-x." + b"a" * 16)
    + b"*0\r\n",
    "a position of wrong bytes": b"*5\r\n$-1\r\n:0\r\n$-1\r\n" + bulk(b"\xff" * 24) + b"*0\r\n",
    "news that are none": b"*5\r\n$-1\r\n:0\r\n$-1\r\n"
    + bulk(b"1-1." + b"a" * 16)
    + b"*2\r\n:1\r\n*0\r\n",
    "text as time left": b"*5\r\n" + bulk(ENTRY + b"{}}") + bulk(b"soon") + b"$-1\r\n" * 3,
    "an endless time left": b"*5\r\n"
    + bulk(ENTRY + b"{}}")
    + b":"
    + b"9" * 30
    + b"\r\n"
    + b"$-1\r\n" * 3,
    "an entry that is too deep": b"*5\r\n"
    + bulk(ENTRY + b'{"a":' * 9_999)
    + b":9\r\n"
    + b"$-1\r\n" * 3,
    "an entry that is no object": b"*5\r\n" + bulk(b"[[]]") + b":9\r\n" + b"$-1\r\n" * 3,
    "an error in a list": b"*1\r\n-ERR x\r\n",
    "an error": b"-ERR unknown command\r\n",
    "moved": b"-MOVED 1 127.0.0.1:1\r\n",
    "no script": b"-NOSCRIPT x\r\n",
    "no protocol": b"\x00\x01\x02\r\n",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a negative length": b"$-7\r\n",
    "an end": None,
}


async def evaluate():
    return dict(ALLOW)


@pytest.fixture(params=[False, True], ids=["bytes", "text"])
def decoded(request):
    return request.param


@pytest.mark.parametrize("nonsense", NONSENSE)
async def test_no_request_fails_and_nothing_is_revoked(nonsense, decoded, caplog):
    sensible = {b"CLIENT", b"HELLO", b"SELECT"}
    async with FixedServer(NONSENSE[nonsense], correct=sensible) as server:
        url = f"{server.url}?decode_responses=true" if decoded else server.url
        async with PolicyCache(url, connect_timeout=2, command_timeout=2) as cache:
            assert await cache.get(*ALICE) is None
            assert await cache.get_decision(*ALICE) is None
            assert await cache.get_or_load(*ALICE, evaluate) == ALLOW
            assert await cache.set(*ALICE, ALLOW) is False
            assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is False
            assert await cache.set(*ALICE, {"at": object()}) is False
            assert await cache.get_batch([ALICE, BOB]) == [None, None]
            assert await cache.set_batch([(*ALICE, ALLOW), (*BOB, ALLOW)]) == 0
            assert await cache.size() == 0
            assert await cache.health_check() is False
            for revoke in (
                cache.delete(*ALICE),
                cache.delete(*ALICE, policy=""),
                cache.invalidate(user_id="alice"),
                cache.invalidate(tags=["role:admin"]),
                cache.invalidate_pattern("*"),
                cache.clear(),
            ):
                with pytest.raises(InvalidationError):
                    await revoke
            assert cache.metrics.hits == 0
            assert cache.metrics.errors > 0
    assert len(caplog.records) < 20, "not a line for each request"


# One wrong reply of a real server at a time


@pytest.mark.parametrize("step", [b"XADD", b"UNLINK', KEYS[1]"], ids=["record", "removal"])
@pytest.mark.parametrize("nonsense", ["a status", "nothing", "a negative number", "an empty list"])
async def test_a_revocation_with_a_malformed_reply_is_not_confirmed(own_redis, step, nonsense):
    async with (
        ReplacingProxy(own_redis()) as proxy,
        PolicyCache(proxy.url, connect_timeout=2, command_timeout=2) as cache,
    ):
        assert await cache.set(*ALICE, ALLOW)
        proxy.replaces = (step, NONSENSE[nonsense])
        with pytest.raises(InvalidationError, match="could not be confirmed"):
            await cache.delete(*ALICE, policy="")
        assert proxy.replaced
        proxy.replaces = None
        await cache.delete(*ALICE, policy="")
        assert await cache.get(*ALICE) is None


# A scan


def page(cursor, *keys):
    items = b"".join(bulk(key) for key in keys)
    return b"*2\r\n" + bulk(b"%d" % cursor) + b"*%d\r\n" % len(keys) + items


MISSHAPEN_PAGES = {
    **{name: NONSENSE[name] for name in ("a status", "nothing", "no list", "an empty list", "one")},
    **{name: NONSENSE[name] for name in ("a huge number", "a list of nothing", "lists in lists")},
    "a cursor that is none": b"*2\r\n$-1\r\n*0\r\n",
    "a cursor of text": b"*2\r\n" + bulk(b"soon") + b"*0\r\n",
    "a negative cursor": page(-1),
    "a huge cursor": page(2**64),
    "keys that are no list": b"*2\r\n" + bulk(b"0") + bulk(b"key"),
    "no keys": b"*2\r\n" + bulk(b"0") + b"*-1\r\n",
    "a key that is none": b"*2\r\n" + bulk(b"0") + b"*1\r\n$-1\r\n",
    "a key that is a number": b"*2\r\n" + bulk(b"0") + b"*1\r\n:1\r\n",
}


def after_info(reply, replaced):
    """Replaces what follows the information of the server, which comes with each step of a scan."""
    head, _, rest = reply.partition(b"\r\n")
    size = len(head) + 2 + int(head[1:]) + 2
    assert rest
    return reply[:size] + replaced


ROLE = re.compile(rb"\*3\r\n\$6\r\nmaster\r\n:[0-9]+\r\n\*0\r\n")
"""The reply of a primary without replicas."""


def for_role(reply, replaced):
    """Replaces the role of the server, which follows its information. More replies may follow."""
    begin, end = ROLE.search(reply).span()
    return reply[:begin] + replaced + reply[end:]


async def revoked_after(nonsense, command, server, revoke, *, decoded, put=after_info):
    """Asserts that a malformed reply to a command confirms nothing. Then revokes for good.

    Returns the result of the revocation that was confirmed.
    """
    async with ReplacingProxy(server) as proxy:
        url = f"{proxy.url}?decode_responses=true" if decoded else proxy.url
        async with PolicyCache(url, connect_timeout=2, command_timeout=2) as cache:
            assert await cache.set(*ALICE, ALLOW)
            proxy.replaces = (command, lambda reply: put(reply, nonsense))
            with pytest.raises(InvalidationError, match="by the redis cache: a reply that cannot"):
                await revoke(cache)
            assert proxy.replaced
            proxy.replaces = None
            result = await revoke(cache)
            assert await cache.get(*ALICE) is None
            return result


@pytest.mark.parametrize("nonsense", MISSHAPEN_PAGES)
async def test_the_error_describes_a_malformed_step_of_a_scan(own_redis, decoded, nonsense):
    def revoke(cache):
        return cache.invalidate(user_id="alice")

    reply = MISSHAPEN_PAGES[nonsense]
    assert await revoked_after(reply, b"MATCH", own_redis(), revoke, decoded=decoded) == 1


@pytest.mark.parametrize(
    ("cursor", "message"),
    [
        (lambda step: step, "far more keys than exist"),
        (lambda _: 7, "repeats a cursor"),
        (lambda step: 1 + step % 3, "repeats a cursor"),
    ],
    ids=["another cursor each time", "the same cursor", "cursors in a circle"],
)
async def test_a_scan_that_the_server_never_ends_is_not_confirmed(own_redis, cursor, message):
    async with (
        ReplacingProxy(own_redis()) as proxy,
        PolicyCache(proxy.url, connect_timeout=2, command_timeout=2) as cache,
    ):
        assert await cache.set(*ALICE, ALLOW)
        proxy.replaces = (
            b"MATCH",
            lambda reply: after_info(reply, page(cursor(proxy.replaced))),
        )
        async with asyncio.timeout(60):
            with pytest.raises(InvalidationError, match=message):
                await cache.invalidate(user_id="alice")
        proxy.replaces = None
        assert await cache.invalidate(user_id="alice") == 1


async def test_a_scan_is_as_long_as_there_are_keys(own_redis, monkeypatch):
    monkeypatch.setattr(primary, "SCAN_KEYS", 100)
    server = own_redis()
    async with PolicyCache(server.url, connect_timeout=2, command_timeout=2) as cache:
        rows = [(f"user-{number}", "read", "doc", ALLOW) for number in range(5_000)]
        assert await cache.set_batch(rows) == 5_000
        assert await cache.invalidate(action="read") == 5_000
        assert await cache.set(*ALICE, ALLOW)
        monkeypatch.setattr(primary, "SCAN_SHARE", 0)
        server.commands(*(("SET", f"other-{number}", 1) for number in range(5_000)))
        with pytest.raises(InvalidationError, match="does not end"):
            await cache.invalidate(action="read")


# The state of a server


ROLES = {
    "replicas that are a text": b"*3\r\n" + bulk(b"master") + b":0\r\n" + bulk(b""),
    "replicas that are nothing": b"*3\r\n" + bulk(b"master") + b":0\r\n$-1\r\n",
    "no replicas": b"*2\r\n" + bulk(b"master") + b":0\r\n",
    "another role": b"*3\r\n" + bulk(b"Master") + b":0\r\n*0\r\n",
    "a role that is no UTF-8": b"*3\r\n" + bulk(b"\xff") + b":0\r\n*0\r\n",
    **{name: NONSENSE[name] for name in ("a status", "nothing", "no list", "an empty list", "one")},
}


@pytest.mark.parametrize("nonsense", ROLES)
async def test_a_malformed_role_confirms_no_revocation(own_redis, decoded, nonsense):
    def revoke(cache):
        return cache.delete(*ALICE)

    role = b"$4\r\nROLE\r\n"
    await revoked_after(ROLES[nonsense], role, own_redis(), revoke, decoded=decoded, put=for_role)


@pytest.mark.parametrize("nonsense", ["a text", "an empty text", "bytes that are no UTF-8", "one"])
async def test_a_server_that_does_not_name_its_run_confirms_no_revocation(own_redis, nonsense):
    async with (
        ReplacingProxy(own_redis()) as proxy,
        PolicyCache(proxy.url, connect_timeout=2, command_timeout=2) as cache,
    ):
        assert await cache.set(*ALICE, ALLOW)
        proxy.replaces = (
            b"$4\r\nROLE\r\n",
            lambda reply: NONSENSE[nonsense] + reply[ROLE.search(reply).start() :],
        )
        with pytest.raises(InvalidationError, match="by the redis cache: a reply that cannot"):
            await cache.delete(*ALICE)
        assert proxy.replaced


# Rollouts


@pytest.mark.parametrize("nonsense", ["one", "a text", "an empty text", "an empty list"])
async def test_a_rollout_with_a_malformed_reply_is_not_confirmed(own_redis, nonsense):
    server = own_redis()
    async with ReplacingProxy(server) as proxy:
        with redis.Redis.from_url(proxy.url) as client:
            flags = FeatureFlagManager(client)
            assert await asyncio.to_thread(flags.get_rollout_pct, "rust_cache") == 0
            proxy.replaces = (b"$3\r\nSET\r\n", NONSENSE[nonsense])
            with pytest.raises(FlagError, match=r"confirm it \(a reply that cannot be read\)"):
                await asyncio.to_thread(flags.set_rollout_pct, "rust_cache", 7)
            with pytest.raises(FlagError, match="a reply that cannot be read"):
                await asyncio.to_thread(
                    storage.write, client, {"rust_cache": 7}, CacheSettings(redis_url=proxy.url)
                )
            await asyncio.to_thread(flags.close)


@pytest.mark.parametrize(
    "reply", [b":101\r\n", b":-1\r\n", bulk(b"7"), NONSENSE["a status"], NONSENSE["one"]]
)
async def test_the_reply_to_a_late_change_is_a_percentage(own_redis, reply):
    async with ReplacingProxy(own_redis()) as proxy:
        with redis.Redis.from_url(proxy.url) as client:
            store = FlagStore(client)
            proxy.replaces = (b"$4\r\nEVAL\r\n", reply)
            written = asyncio.to_thread(store.write_late, "rust_cache", 7, None)
            if reply == NONSENSE["one"]:
                assert await written == 1
            else:
                with pytest.raises(UnavailableError, match="a reply that cannot be read"):
                    await written
            proxy.replaces = None
            assert await asyncio.to_thread(store.write_late, "rust_cache", 8, 7) == 8
            await asyncio.to_thread(store.close)
