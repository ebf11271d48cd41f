"""Servers with long round trips, and users whose keys and tags are as long as allowed."""

import time
from contextlib import ExitStack

import pytest

from servers.relay import relayed
from timed_requests import ALLOW, load

MALLORY = ("mallory", "read", "secret")
LONG = "%" * 8_000
"""A character that takes three bytes in a key."""
BYTES_PER_SECOND = 10e6
MANY = 400


@pytest.fixture
def slow_way():
    """Makes relays that delay replies by their size; returns the URL of one."""
    with ExitStack() as relays:

        def begin(server, bytes_per_second=BYTES_PER_SECOND):
            return relays.enter_context(relayed(server, lambda size: size / bytes_per_second))

        yield begin


async def test_no_user_can_make_the_revocation_of_their_decisions_unconfirmable(
    own_redis, open_cache, slow_way
):
    server = own_redis()
    near = await open_cache(server.url)
    far = await open_cache(slow_way(server))
    await near.get_or_load(*MALLORY, load)
    rows = [("mallory", "read", f"{number}{LONG}", ALLOW) for number in range(MANY)]
    assert await near.set_batch(rows) == MANY
    assert await far.invalidate(user_id="mallory") == MANY + 1
    assert await near.get(*MALLORY) is None


async def test_tags_of_long_decisions_are_revoked_over_a_slow_connection(
    own_redis, open_cache, slow_way
):
    server = own_redis()
    near = await open_cache(server.url)
    far = await open_cache(slow_way(server))
    long = {**ALLOW, "why": "x" * 50_000}
    rows = [("mallory", "read", f"doc-{number}", long) for number in range(MANY)]
    assert await near.set_batch(rows, tags=["team:blue"]) == MANY
    assert await far.invalidate(tags=["team:blue"]) == MANY
    assert await near.size() == 0


async def test_a_scan_may_take_as_long_as_the_server_answers(own_redis, open_cache, slow_way):
    server = own_redis()
    near = await open_cache(server.url)
    far = await open_cache(slow_way(server, 2e6))
    rows = [("mallory", "read", f"{number}{LONG}", ALLOW) for number in range(100)]
    assert await near.set_batch(rows) == 100
    began = time.monotonic()
    assert await far.invalidate(user_id="mallory") == 100
    assert time.monotonic() - began > 0.5, "it took longer than a command may"
