"""The cost of `PolicyCache`, compared with the bare client on the same server, and in an outage.

The server is on this machine, so that a round trip is all overhead and no network.
"""

import pytest

from field.redis_client import Client
from sark_cache import PolicyCache, RustPolicyCache
from servers import Server
from turns import calls, gets, hosted, sets
from workloads import REQUEST, context, decision

HOUR = 3600
AWAITS = 100
CONTEXT, DECISION = context(3), decision(5)
HIT, MISSED, ENTRY = (*REQUEST, CONTEXT), (*REQUEST, None), (*REQUEST, DECISION, CONTEXT)
BATCH = [(f"user-{number}", "read", "doc") for number in range(AWAITS)]

# Time-outs are not measured here, and this machine may be busy.
PATIENT = {"connect_timeout": 10, "command_timeout": 10}


async def batch(cache):
    return await calls(lambda: cache.get_batch(BATCH), 1) / len(BATCH)


@pytest.mark.benchmark(group="redis")
def test_redis(take_turns):
    """Each operation of PolicyCache, on a server by loopback TCP."""
    with Server() as server:
        making = {
            "client": lambda: Client(server.url, HOUR),
            "cache": lambda: PolicyCache.from_url(server.url, HOUR, **PATIENT),
            "native": RustPolicyCache,
        }
        with hosted(making) as hosts:
            client, cache, native = (host.subject for host in hosts.values())
            for host in hosts.values():
                host.run(host.subject.set(*ENTRY))
            entries = [(*row, DECISION) for row in BATCH]
            assert hosts["cache"].run(cache.set_batch(entries)) == len(BATCH)
            # The thread and the operation of a turn.
            turns = {
                "redis-py and orjson, a hit": ("client", lambda: gets(client.get, [HIT] * AWAITS)),
                "PolicyCache.get(), a hit": ("cache", lambda: gets(cache.get, [HIT] * AWAITS)),
                "PolicyCache.get(), a miss": ("cache", lambda: gets(cache.get, [MISSED] * AWAITS)),
                "PolicyCache.set(), overwriting": (
                    *("cache", lambda: sets(cache.set, [ENTRY] * AWAITS)),
                ),
                "PolicyCache.get_batch(), each of 100 hits": ("cache", lambda: batch(cache)),
                "RustPolicyCache.get(), a hit": (
                    *("native", lambda: gets(native.get, [HIT] * AWAITS)),
                ),
            }
            take_turns(
                {
                    name: lambda host=host, call=call: hosts[host].run(call())
                    for name, (host, call) in turns.items()
                },
                rounds=50,
                per_call=AWAITS,
            )
            assert cache.metrics.errors == 0


@pytest.mark.benchmark(group="redis")
def test_nobody_answers(take_turns):
    """A request whose circuit is open costs no round trip."""
    making = {
        "RustPolicyCache.get(), a miss": RustPolicyCache,
        "PolicyCache.get(), circuit open": lambda: PolicyCache.from_url("redis://127.0.0.1:1/0"),
    }
    with hosted(making) as hosts:
        turns = {}
        for name, host in hosts.items():
            for _ in range(AWAITS):
                assert host.run(host.subject.get(*HIT)) is None
            turns[name] = lambda host=host: host.run(gets(host.subject.get, [HIT] * AWAITS))
        results = take_turns(turns, rounds=200, per_call=AWAITS)
    assert results["PolicyCache.get(), circuit open"]["median_us"] < 20
