"""A write without a reply that reaches the server after a newer decision was stored."""

import asyncio
import socket
import threading
from contextlib import ExitStack, suppress

import pytest

from interpreters import needs_fork, run
from timed_requests import ALLOW

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ALICE = ("alice", "read", "doc")
KEY = "sark-cache:1::alice:read:doc:none"
DENY = {"allow": False}
LATE = {**ALLOW, "reason": "delayed"}
OUTAGE_SECONDS = 1.0


class Way:
    """A proxy that loses a packet and delivers it long after its sender gave up."""

    def __init__(self, server):
        self.listener = socket.create_server((server.host, 0))
        self.target = (server.host, server.port)
        self.url = server.url.replace(str(server.port), str(self.listener.getsockname()[1]))
        self.is_up = threading.Event()
        self.is_up.set()
        self.arrives = threading.Event()
        self.has_arrived = threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with suppress(OSError):  # the listener is closed
            while True:
                here, _ = self.listener.accept()
                there = socket.create_connection(self.target)
                is_late = threading.Event()
                for pump in (self.sent, self.replied):
                    threading.Thread(target=pump, args=(here, there, is_late), daemon=True).start()

    def sent(self, here, there, is_late):
        with suppress(OSError):
            while data := here.recv(1 << 16):
                if b"delayed" in data:
                    self.is_up.clear()
                    is_late.set()
                    self.arrives.wait()
                self.is_up.wait()
                there.sendall(data)
        if not is_late.is_set():
            there.close()

    def replied(self, here, there, is_late):
        with suppress(OSError):
            while data := there.recv(1 << 16):
                if is_late.is_set():
                    self.has_arrived.set()
                here.sendall(data)
        here.close()
        there.close()

    def end(self):
        self.arrives.set()
        self.is_up.set()
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def lossy_way():
    with ExitStack() as ends:

        def begin(server):
            way = Way(server)
            ends.callback(way.end)
            return way

        yield begin


async def test_an_allow_that_arrives_late_does_not_replace_a_newer_deny(
    own_redis, open_cache, lossy_way
):
    server = own_redis()
    way = lossy_way(server)
    cache = await open_cache(way.url)
    clock = asyncio.get_running_loop().time
    async with asyncio.timeout(20):
        while not await cache.health_check():
            await asyncio.sleep(0.01)
        assert await cache.set(*ALICE, LATE) is False
        ends = clock() + OUTAGE_SECONDS
        while clock() < ends:
            assert await cache.get(*ALICE) is None
            await asyncio.sleep(0.01)
        way.is_up.set()
        while not await cache.set(*ALICE, DENY):
            await asyncio.sleep(0.001)
        way.arrives.set()
        assert await asyncio.to_thread(way.has_arrived.wait, 10)
        assert await cache.get(*ALICE) in (None, DENY)
        assert "delayed" not in (server.command("GET", KEY) or "")
        while await cache.get(*ALICE) != DENY:
            await cache.set(*ALICE, DENY)
            await asyncio.sleep(0.01)


@needs_fork
def test_a_forked_child_stores_decisions_again_after_a_failed_deny_of_its_parent(own_redis):
    server = own_redis()
    code = """
        import asyncio, logging, os, signal, sys
        from sark_cache.backends.redis import PolicyCache

        ALICE = ("alice", "read", "doc")
        url, pid = sys.argv[1], int(sys.argv[2])
        cache = PolicyCache(url)

        async def evaluate():
            return {"allow": True}

        async def child():
            os.kill(pid, signal.SIGCONT)
            async with asyncio.timeout(10):
                while await cache.get(*ALICE) is None:
                    await cache.get_or_load(*ALICE, evaluate)
                    await asyncio.sleep(0.01)
            print("served", flush=True)

        async def parent():
            os.kill(pid, signal.SIGSTOP)
            assert await cache.set(*ALICE, {"allow": False}) is False
            if (forked := os.fork()) == 0:
                try:
                    asyncio.run(child())
                finally:
                    os._exit(0)
            os.waitpid(forked, 0)
            await cache.close()

        logging.disable()
        asyncio.run(parent())
    """
    assert run(code, server.url, str(server.pid)) == ["served"]


async def test_a_cancelled_batch_removes_the_older_decisions(own_redis, open_cache):
    server = own_redis()
    cache = await open_cache(server.url, command_timeout=10)
    bob = ("bob", "read", "doc")
    assert await cache.set_batch([(*ALICE, ALLOW), (*bob, ALLOW)]) == 2
    server.pause()
    for denied in ([(*ALICE, DENY)], [(*ALICE, DENY), (*bob, DENY)]):
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await cache.set_batch(denied)
    server.resume()
    assert await cache.get(*bob) in (None, DENY)
    assert await cache.get(*ALICE) in (None, DENY)
