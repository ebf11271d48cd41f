"""Proxies in front of a server, and a server that answers with fixed bytes."""

import asyncio
import contextlib
import socket
import struct
from abc import ABC, abstractmethod

from servers.host import HOST


class _Listener(ABC):
    """A TCP server inside the event loop; as an async context manager, until the block is left."""

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.url = f"redis://{HOST}:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_):
        self._server.close()

    @abstractmethod
    async def _serve(self, reader, writer):
        """Serves one connection."""


class DelayingProxy(_Listener):
    """Delays each reply of a server by `delay` seconds, which a test may change."""

    def __init__(self, server):
        self._port = server.port
        self.delay = 0.0

    async def _serve(self, reader, writer):
        from_server, to_server = await asyncio.open_connection(HOST, self._port)

        async def answer():
            while data := await from_server.read(2**20):
                await asyncio.sleep(self.delay)
                writer.write(data)

        answering = asyncio.create_task(answer())
        while data := await reader.read(2**20):
            to_server.write(data)
        answering.cancel()
        writer.close()
        to_server.close()


class ReplacingProxy(_Listener):
    """Replaces the replies of a server to some commands."""

    def __init__(self, server):
        self._port = server.port
        self.replaces = None
        """A part of the command whose reply is replaced, and the bytes that replace it.

        A function in place of the bytes gets the reply and returns its replacement.
        """
        self.replaced = 0

    async def _serve(self, reader, writer):
        from_server, to_server = await asyncio.open_connection(HOST, self._port)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while data := await reader.read(2**20):
                to_server.write(data)
                reply = await from_server.read(2**20)
                if self.replaces is not None and self.replaces[0] in data:
                    self.replaced += 1
                    other = self.replaces[1]
                    reply = other(reply) if callable(other) else other
                writer.write(reply)
        writer.close()
        to_server.close()


class SwitchingProxy(_Listener):
    """Sends commands to one server, and steps of scans to another one while `switches` is True."""

    def __init__(self, server, other):
        self._ports = server.port, other.port
        self.switches = False

    async def _serve(self, reader, writer):
        connections = [await asyncio.open_connection(HOST, port) for port in self._ports]
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**20):
                is_scan = b"SCAN" in data and b"MATCH" in data
                from_server, to_server = connections[self.switches and is_scan]
                to_server.write(data)
                writer.write(await from_server.read(2**20))
        for _, to_server in connections:
            to_server.close()
        writer.close()


class FixedServer(_Listener):
    """Answers every command with the same bytes; None closes the connection."""

    def __init__(self, answer, *, correct=()):
        self._answer = answer
        self._correct = set(correct)
        """Commands that are answered correctly."""

    async def _serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readline()
                if not head:
                    break
                words = [await self._word(reader) for _ in range(int(head[1:]))]
                answer = b"+OK\r\n" if words[0] in self._correct else self._answer
                if answer is None:
                    break
                writer.write(answer)
        writer.close()

    @staticmethod
    async def _word(reader):
        size = int((await reader.readline())[1:])
        return (await reader.readexactly(size + 2))[:-2]


class FaultyProxy(_Listener):
    """Carries bytes between clients and a server, until a test makes the network faulty.

    Attributes:
        delay: Seconds by which each reply is late.
    """

    def __init__(self, server):
        self._port = server.port
        self._connections = set()
        self._open = asyncio.Event()
        self.heal()

    def cut(self):
        """Holds back all bytes and new connections until `heal`, as a network that retries does."""
        self._open.clear()

    def heal(self):
        """Carries all bytes again, those that were held back first."""
        self.delay = 0.0
        self._open.set()

    def half_open(self):
        """Closes the server's end of each connection. The client's end stays open and silent."""
        for connection in list(self._connections):
            connection.is_half_open = True
            connection.to_server.transport.abort()

    def reset(self):
        """Resets the client's end of each connection."""
        for connection in list(self._connections):
            connection.reset()

    async def __aexit__(self, *_):
        await super().__aexit__(*_)
        self.reset()

    async def _serve(self, reader, writer):
        await self._open.wait()
        try:
            from_server, to_server = await asyncio.open_connection(HOST, self._port)
        except OSError:  # the server is down
            writer.transport.abort()
            return
        connection = _ProxiedConnection(writer, to_server)
        self._connections.add(connection)
        asking = asyncio.create_task(self._ask(reader, connection))
        try:
            with contextlib.suppress(ConnectionError):
                while data := await from_server.read(2**16):
                    await asyncio.sleep(self.delay)
                    await self._open.wait()
                    writer.write(data)
            if connection.is_half_open:
                await asking
        finally:
            asking.cancel()
            self._connections.discard(connection)
            writer.close()
            to_server.close()

    async def _ask(self, reader, connection):
        """Carries the client's bytes to the server, and drops them once that end is closed."""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**16):
                await self._open.wait()
                if not connection.is_half_open:
                    connection.to_server.write(data)
        if not connection.is_half_open:
            connection.to_server.close()


class _ProxiedConnection:
    """The two ends of one connection through a proxy."""

    def __init__(self, to_client, to_server):
        self.to_client = to_client
        self.to_server = to_server
        self.is_half_open = False

    def reset(self):
        """Resets the client's end and closes the server's."""
        linger = struct.pack("ii", 1, 0)  # closed with unsent data dropped: the client gets a RST
        with contextlib.suppress(OSError):
            self.to_client.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
        self.to_client.transport.abort()
        self.to_server.transport.abort()
