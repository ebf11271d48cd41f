"""The time that a machine is suspended counts towards TTLs.

A test cannot suspend the machine. But Linux lets a process enter a time namespace in which
`CLOCK_BOOTTIME` is an hour ahead and `CLOCK_MONOTONIC` is unchanged. To a process, that equals a
suspension of one hour.
"""

import sys
import textwrap

import pytest

from interpreters import run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has time namespaces")

SLEEP = """
    import asyncio, ctypes, os, sys, time
    from sark_cache import AsyncCache, RustPolicyCache

    CLONE_NEWTIME, CLOCK_MONOTONIC_COARSE, SECONDS = 0x80, 6, 3600
    libc = ctypes.CDLL(None, use_errno=True)

    def fall_asleep():
        # A process of several threads cannot enter one, so no thread is started before.
        if libc.unshare(CLONE_NEWTIME):
            return False
        with open("/proc/self/timens_offsets", "w") as offsets:
            offsets.write(f"boottime {SECONDS} 0")
        namespace = os.open("/proc/self/ns/time_for_children", os.O_RDONLY)
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if libc.setns(namespace, CLONE_NEWTIME):
            raise OSError(ctypes.get_errno(), "setns")
        assert time.clock_gettime_ns(time.CLOCK_BOOTTIME) - before >= SECONDS * 10**9
        # The kernel moves this clock on when the machine is suspended.
        coarse = time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE)
        while time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE) == coarse:
            pass
        return True

    def finished(awaitable):
        try:
            awaitable.send(None)
        except StopIteration as stopped:
            return stopped.value

    def or_skip(possible):
        if not possible:
            print("skip")
            sys.exit()
"""


def asleep_for_an_hour(before, after):
    """Runs `before`, suspends the machine for an hour, and runs `after`."""
    indented = [textwrap.indent(textwrap.dedent(part), "    ") for part in (before, after)]
    said = run(f"{SLEEP}\n{indented[0]}\n    or_skip(fall_asleep())\n{indented[1]}\n")
    if said == ["skip"]:
        pytest.skip("this user may not make a time namespace")


def test_an_entry_that_expired_during_the_suspension_is_not_served():
    asleep_for_an_hour(
        """
        cache = RustPolicyCache(ttl_seconds=SECONDS - 10)
        finished(cache.set("alice", "read", "doc", {"allow": True}))
        for _ in range(1_000):
            assert finished(cache.get("alice", "read", "doc")) == {"allow": True}
        """,
        """
        assert finished(cache.get("alice", "read", "doc")) is None
        assert finished(cache.get_decision("alice", "read", "doc")) is None
        assert finished(cache.get_batch([("alice", "read", "doc")])) == [None]
        assert finished(cache.size()) == 0
        assert finished(cache.cleanup_expired()) == 1
        """,
    )


def test_an_entry_with_a_longer_ttl_is_served_for_the_rest_of_it():
    asleep_for_an_hour(
        """
        cache = RustPolicyCache(ttl_seconds=SECONDS + 60)
        finished(cache.set("alice", "read", "doc", {"allow": True}))
        """,
        """
        assert finished(cache.get("alice", "read", "doc")) == {"allow": True}
        finished(cache.set("alice", "read", "new", {"allow": True}))
        assert finished(cache.get("alice", "read", "new")) == {"allow": True}
        assert finished(cache.size()) == 2
        """,
    )


def test_the_general_cache_counts_the_suspension_too():
    asleep_for_an_hour(
        """
        cache = AsyncCache(ttl_seconds=SECONDS - 10)
        finished(cache.set("key", 1))
        assert finished(cache.get("key")) == 1
        """,
        """
        assert finished(cache.get("key")) is None
        """,
    )
