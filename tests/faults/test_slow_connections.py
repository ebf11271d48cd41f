"""Servers with long round trips, and users whose keys and tags are as long as allowed."""

import socket
import threading
import time
from contextlib import ExitStack, suppress

import pytest

from timed_requests import ALLOW, load

MALLORY = ("mallory", "read", "secret")
LONG = "%" * 8_000
"""A character that takes three bytes in a key."""
BYTES_PER_SECOND = 10e6
MANY = 400


@pytest.fixture
def slow_way():
    """Makes proxies that delay replies; returns the URL of one."""
    with ExitStack() as stops:

        def begin(server, bytes_per_second=BYTES_PER_SECOND):
            listener = socket.create_server((server.host, 0))
            stops.callback(listener.close)
            stops.callback(listener.shutdown, socket.SHUT_RDWR)
            relaying = (listener, (server.host, server.port), bytes_per_second)
            threading.Thread(target=relay, args=relaying, daemon=True).start()
            return server.url.replace(str(server.port), str(listener.getsockname()[1]))

        yield begin


def relay(listener, target, bytes_per_second):
    with suppress(OSError):  # the listener is closed
        while True:
            here, _ = listener.accept()
            there = socket.create_connection(target)
            for way in ((here, there, None), (there, here, bytes_per_second)):
                threading.Thread(target=pump, args=way, daemon=True).start()


def pump(source, target, bytes_per_second):
    with source, target, suppress(OSError):  # one of them is closed
        while data := source.recv(1 << 16):
            if bytes_per_second:
                time.sleep(len(data) / bytes_per_second)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


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
