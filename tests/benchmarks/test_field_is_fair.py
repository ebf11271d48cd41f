"""Every subject of the field does the work for which it is timed."""

import asyncio
from contextlib import suppress

import pytest

from field import FIELD, NOT_BY_UNIX_SOCKET, REMOTE, THREADED
from servers import Server

REQUEST = ("alice@example.com", "tool:invoke", "server:jira/search")
CAPACITY, TTL = 100, 300
LOCAL = {**FIELD, **THREADED}
BY_TCP = [f"{name}, by TCP" for name in REMOTE]
BY_UNIX_SOCKET = [f"{name}, by unix socket" for name in REMOTE if name not in NOT_BY_UNIX_SOCKET]

# cashews closes its Redis client by a deprecated name.
pytestmark = pytest.mark.filterwarnings("default:Call to deprecated close:DeprecationWarning")


def decision():
    return {"allow": True, "reason": "role", "obligations": {"mask": ["ssn"]}}


@pytest.fixture(scope="module")
def server():
    with Server(unixsocket="socket") as server:
        yield server


@pytest.fixture(params=[*LOCAL, *BY_TCP, *BY_UNIX_SOCKET])
def make(request, server):
    """Makes the subject with a TTL in seconds."""
    if request.param in LOCAL:
        return lambda ttl: LOCAL[request.param](CAPACITY, ttl)
    name, by = request.param.rsplit(", by ", 1)
    url = server.url if by == "TCP" else server.unix_url
    server.flush()
    return lambda ttl: REMOTE[name](url, ttl)


@pytest.fixture
async def subject(make):
    subject = make(TTL)
    yield subject
    await subject.close()


async def test_a_miss_is_none(subject):
    assert await subject.get(*REQUEST) is None
    assert await subject.get(*REQUEST, {"mfa": True}) is None


async def test_a_hit_equals_what_was_stored(subject):
    await subject.set(*REQUEST, decision())
    assert await subject.get(*REQUEST) == decision()
    await subject.set(*REQUEST, {"allow": False})
    assert await subject.get(*REQUEST) == {"allow": False}


@pytest.mark.parametrize("position", range(3))
async def test_each_field_is_part_of_the_key(subject, position):
    await subject.set(*REQUEST, decision())
    other = (*REQUEST[:position], "other", *REQUEST[position + 1 :])
    assert await subject.get(*other) is None


async def test_contexts_are_distinguished_and_their_order_does_not_matter(subject):
    contexts = [None, {"hour": 1, "ip": "a"}, {"hour": 2, "ip": "a"}, {"hour": True, "ip": "a"}]
    for number, context in enumerate(contexts):
        await subject.set(*REQUEST, {"number": number}, context)
    for number, context in enumerate(contexts):
        assert await subject.get(*REQUEST, context) == {"number": number}
    assert await subject.get(*REQUEST, {"ip": "a", "hour": 1}) == {"number": 1}
    assert await subject.get(*REQUEST, {}) == {"number": 0}


async def test_changing_a_stored_dict_changes_nothing(subject):
    given = decision()
    await subject.set(*REQUEST, given)
    given["obligations"]["mask"].append("name")
    given["allow"] = False
    assert await subject.get(*REQUEST) == decision()


async def test_changing_a_returned_dict_changes_nothing(subject):
    await subject.set(*REQUEST, decision())
    for _ in range(2):
        got = await subject.get(*REQUEST)
        with suppress(TypeError, AttributeError):  # an immutable one refuses
            got["allow"] = False
        with suppress(TypeError, AttributeError):
            got["obligations"]["mask"].append("name")
        assert await subject.get(*REQUEST) == decision()


async def test_a_decision_expires(make):
    subject = make(0.2)
    await subject.set(*REQUEST, decision())
    assert await subject.get(*REQUEST) == decision()
    async with asyncio.timeout(10):
        while await subject.get(*REQUEST) is not None:
            await asyncio.sleep(0.01)
    await subject.close()
