"""The time of single hits, compared with a server on this machine and with the replaced design.

The server is reached by loopback TCP and by a unix socket: all overhead, no network.
"""

import pytest

from field import NOT_BY_UNIX_SOCKET, OURS, REMOTE, THREADED
from servers import Server
from turns import LOOPS, hosted, single_gets, take_single_turns
from workloads import REQUEST, context, decision

HOUR = 3600
AWAITS, ROUNDS = 100, 50


def subjects(server):
    """Ours first, with which the others are compared."""
    local = {**OURS, **THREADED}
    return {
        **{name: lambda make=make: make(1_000, HOUR) for name, make in local.items()},
        **{
            f"{name}, {by}": lambda make=make, url=url: make(url, HOUR)
            for by, url in (("loopback TCP", server.url), ("unix socket", server.unix_url))
            for name, make in REMOTE.items()
            if url == server.url or name not in NOT_BY_UNIX_SOCKET
        },
    }


# cashews closes its Redis client by a deprecated name.
@pytest.mark.filterwarnings("default:Call to deprecated close:DeprecationWarning")
@pytest.mark.benchmark(group="redis")
@pytest.mark.parametrize("fields", [0, 3], ids="context of {}".format)
@pytest.mark.parametrize("loop", LOOPS)
def test_single_hits(benchmark, keep, loop, fields):
    """5,000 hits timed one by one, by event loop and fields of the context."""
    asked = (*REQUEST, context(fields))
    with Server(unixsocket="socket") as server, hosted(subjects(server), loop) as hosts:
        turns = {}
        for name, host in hosts.items():
            host.run(host.subject.set(*REQUEST, decision(5), asked[3]))
            turns[name] = lambda host=host: host.run(
                single_gets(host.subject.get, [asked] * AWAITS)
            )
        take_single_turns(benchmark, keep, turns, rounds=ROUNDS)
        for host in hosts.values():
            assert host.run(host.subject.get(*asked)) == decision(5)
