"""A bell wakes its reader for news, and not for the reply to an acknowledgement."""

import contextlib
import selectors
import socket
import sys
import threading

import pytest
import redis

from sark_cache.backends.tiered.bell import Bell
from sark_cache.backends.tiered.confirmation import Position
from sark_cache.backends.tiered.connection import LogConnection

AT = Position("1-1", "0" * 16)
NONCE = "a" * 16
ITEM = b"*2\r\n$3\r\n2-1\r\n*2\r\n$1\r\nn\r\n$16\r\n" + NONCE.encode() + b"\r\n"
NEWS = b"*1\r\n*2\r\n$3\r\nlog\r\n*1\r\n" + ITEM
ACKNOWLEDGEMENT = ("HSET", "readers", "me", "1-1")


class FakeServer:
    """Answers each command with `+OK`, HSET with a number, and XREAD with what a test sends."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connection = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        with contextlib.suppress(OSError):
            self.connection, _ = self._listener.accept()
            while received := self.connection.recv(4096):
                for word, reply in ((b"HSET", b":0\r\n"), (b"CLIENT", b"+OK\r\n")):
                    self.connection.sendall(received.count(word) * reply)

    def close(self):
        with contextlib.suppress(OSError):  # it was closed before
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self.connection is not None:
            with contextlib.suppress(OSError):  # it was closed before
                self.connection.shutdown(socket.SHUT_RDWR)
            self._thread.join()
            self.connection.close()


@pytest.fixture
def server():
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def bell(server):
    def connect():
        return redis.Redis(port=server.port, protocol=2, socket_timeout=5, decode_responses=True)

    connection = LogConnection(connect, "log", 5.0)
    yield Bell(connection, "log", 5.0)
    connection.close()


def wakes(bell, seconds):
    """Returns whether a selector reports the bell within some seconds."""
    with selectors.DefaultSelector() as selector:
        selector.register(bell, selectors.EVENT_READ)
        return bool(selector.select(seconds))


@pytest.mark.skipif(sys.platform == "win32", reason="it has no SO_RCVLOWAT")
def test_the_reply_to_an_acknowledgement_wakes_nobody(server, bell):
    bell.arm(AT, 5.0, ACKNOWLEDGEMENT)
    assert not wakes(bell, 0.2)
    server.connection.sendall(NEWS)
    assert wakes(bell, 5.0)
    [news] = bell.news()
    assert news.position == Position("2-1", NONCE)


@pytest.mark.parametrize("last", [1, 3, 4])
def test_a_reply_whose_last_bytes_arrive_later_is_read(server, bell, last):
    bell.arm(AT, 5.0, ACKNOWLEDGEMENT)
    assert not wakes(bell, 0.05)
    server.connection.sendall(NEWS[:-last])
    assert wakes(bell, 5.0)
    later = threading.Timer(0.05, server.connection.sendall, [NEWS[-last:]])
    later.start()
    assert len(bell.news()) == 1
    later.join()


def test_an_acknowledgement_is_waited_for_although_its_reply_wakes_nobody(bell):
    bell.arm(AT, 5.0, ACKNOWLEDGEMENT)
    bell.wait_for_acknowledgements()
    assert bell.is_armed


def test_a_closed_connection_wakes_the_reader(server, bell):
    bell.arm(AT, 5.0, ACKNOWLEDGEMENT)
    assert not wakes(bell, 0.05)
    server.close()
    assert wakes(bell, 5.0)
    with pytest.raises(redis.ConnectionError):
        bell.news()
