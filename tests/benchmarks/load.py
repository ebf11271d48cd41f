"""Load on an HTTP server over persistent connections, each with one request at a time.

The requests are prepared bytes. Of a response, only the status and its end are read: some 20 µs a
request, a small part of the server's time.
"""

import asyncio
import time


class Asking(asyncio.Protocol):
    """One connection: sends a request, awaits the response and repeats, until the time is up."""

    def __init__(self, requests, until, latencies):
        self.requests, self.until, self.latencies = requests, until, latencies
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.ask()

    def ask(self):
        request = next(self.requests, None)
        if request is None or time.perf_counter() > self.until:
            self.transport.close()
            return
        self.answer = b""
        self.asked = time.perf_counter()
        self.transport.write(request)

    def data_received(self, received):
        self.answer += received
        head, blank_line, body = self.answer.partition(b"\r\n\r\n")
        if not blank_line or len(body) < content_length(head):
            return
        self.latencies.append(time.perf_counter() - self.asked)
        assert head.startswith(b"HTTP/1.1 200 "), self.answer
        self.ask()

    def connection_lost(self, error):
        if not self.ended.done():
            self.ended.set_result(error)


def content_length(head):
    _, _, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0])


async def load(port, requests, *, seconds=float("inf"), connections=8):
    """Returns the seconds of each response and in total; stops after the time or the requests."""
    loop = asyncio.get_running_loop()
    latencies = []
    begun = time.perf_counter()
    asking = [
        (
            await loop.create_connection(
                lambda: Asking(requests, begun + seconds, latencies), "127.0.0.1", port
            )
        )[1]
        for _ in range(connections)
    ]
    for each in asking:
        error = await each.ended
        assert error is None, error
    return latencies, time.perf_counter() - begun
