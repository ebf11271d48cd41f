"""A relay in front of a server that delays replies. It runs in threads, for blocking clients."""

import socket
import socketserver
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING

from servers.host import HOST

if TYPE_CHECKING:
    from servers.process import Server


@contextmanager
def relayed(server: "Server", delay: Callable[[int], float]) -> Generator[str]:
    """Relays connections to a server during the block. Provides the URL of the relay.

    Args:
        server: A single server.
        delay: Returns the seconds to wait before a part of a reply with that many bytes.
    """

    class Connection(socketserver.BaseRequestHandler):
        def handle(self):
            with socket.create_connection((server.host, server.port)) as there:
                Thread(target=_copy, args=(self.request, there, _no_delay), daemon=True).start()
                _copy(there, self.request, delay)

    with _Relay((HOST, 0), Connection) as relay:
        Thread(target=relay.serve_forever, args=(0.05,)).start()
        try:
            yield f"redis://{HOST}:{relay.server_address[1]}/0"
        finally:
            relay.shutdown()


class _Relay(socketserver.ThreadingTCPServer):
    daemon_threads = True  # a client may keep its connections after the block
    request_queue_size = 128


def _no_delay(_size):
    return 0.0


def _copy(source, target, delay):
    """Copies bytes until one end is closed."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            time.sleep(delay(len(data)))
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
