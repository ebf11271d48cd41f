"""Partitions of the network by routing rules, in a network of this process alone.

Only Linux has them, and only root may make them. `unshare --net` starts a program in a network of
its own, which has nothing but a loopback interface. So the rules affect no other program.
"""

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager

BEFORE_ALL = 10
"""The priority of the rules of a partition: they come before that for local addresses."""
MARK = "SARK_CACHE_TEST_OWN_NETWORK"
"""The variable that tells a program that it has a network of its own."""
LOCAL = 100
"""The priority that the rule for local addresses gets. It is 0, before all other rules."""


def can_be_made():
    """Returns whether this machine can have partitions."""
    return (
        sys.platform == "linux"
        and os.geteuid() == 0
        and all(shutil.which(program) for program in ("ip", "unshare"))
    )


def is_own_network():
    """Returns whether this process has a network of its own."""
    return MARK in os.environ


def enter_own_network(command):
    """Replaces this process by a command, in a network of its own."""
    environment = {**os.environ, MARK: "1"}
    unshare = shutil.which("unshare")
    os.execve(unshare, [unshare, "--net", *command], environment)  # noqa: S606 - as a prefix


def prepare_own_network():
    """Makes a network of one's own ready for partitions."""
    _ip("link", "set", "lo", "up")
    if _ip("rule", "show", "pref", "0"):
        _ip("rule", "add", "pref", str(LOCAL), "table", "local")
        _ip("rule", "del", "pref", "0")


@contextmanager
def cut_off(server, sources):
    """Drops every packet between a server and programs that connect to it from some addresses."""
    rules = [
        rule.split()
        for source in sources
        for rule in (
            f"from {source} ipproto tcp dport {server.port} blackhole",
            f"to {source} ipproto tcp sport {server.port} blackhole",
        )
    ]
    with ExitStack() as healing:
        for rule in rules:
            given = ("pref", str(BEFORE_ALL), *rule)
            _ip("rule", "add", *given)
            healing.callback(_ip, "rule", "del", *given)
        yield


def _ip(*words):
    done = subprocess.run([shutil.which("ip"), *words], check=True, capture_output=True, text=True)
    return done.stdout
