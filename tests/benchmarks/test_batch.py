"""The time of a request in a batch, compared with the same request alone."""

import pytest

from field import TUNED
from sark_cache import RustPolicyCache
from turns import calls, hosted
from workloads import decision, request

AWAITS = 1_000
HOUR = 3600


def decision_of(entry):
    return {**decision(5), "reason": f"rule {entry}"}


async def alone(get, requests):
    """Returns all decisions at the same time, like a batch."""
    return [await get(user, action, resource, None) for user, action, resource, _ in requests]


@pytest.mark.benchmark(group="batch")
@pytest.mark.parametrize("size", [10, 100, 1_000])
def test_batch(take_turns, size):
    """A hit in a batch of so many requests, beside a single hit."""
    requests = [(*request(entry), None) for entry in range(size)]
    making = {
        "alike": RustPolicyCache,
        "unlike": RustPolicyCache,
        "empty": RustPolicyCache,
        "cachebox": lambda: TUNED["cachebox, tuned"](10_000, HOUR),
    }
    with hosted(making) as hosts:
        alike, unlike, empty, cachebox = (host.subject for host in hosts.values())
        for entry, asked in enumerate(requests):
            hosts["alike"].run(alike.set(*asked[:3], decision(5)))
            hosts["unlike"].run(unlike.set(*asked[:3], decision_of(entry)))
            hosts["cachebox"].run(cachebox.set(*asked[:3], decision_of(entry)))
        # The thread and the requests of a turn.
        turns = {
            f"RustPolicyCache.get(), {size:,} single hits": (
                *("alike", lambda: alone(alike.get, requests)),
            ),
            f"RustPolicyCache.get_batch(), {size:,} hits": (
                *("alike", lambda: alike.get_batch(requests)),
            ),
            f"RustPolicyCache.get_batch(), {size:,} hits, no two decisions alike": (
                *("unlike", lambda: unlike.get_batch(requests)),
            ),
            f"RustPolicyCache.get_batch(), {size:,} misses": (
                *("empty", lambda: empty.get_batch(requests)),
            ),
            f"cachebox, tuned, {size:,} single hits, no two decisions alike": (
                *("cachebox", lambda: alone(cachebox.get, requests)),
            ),
        }
        batches = AWAITS // size

        def turn(host, call):
            return hosts[host].run(calls(call, batches)) / size

        take_turns(
            {name: lambda row=row: turn(*row) for name, row in turns.items()},
            rounds=101,
            per_call=batches * size,
        )
        granted = hosts["unlike"].run(unlike.get_batch(requests))
        assert granted == [decision_of(entry) for entry in range(size)]
        assert granted == hosts["cachebox"].run(alone(cachebox.get, requests))
        assert not any(hosts["empty"].run(empty.get_batch(requests)))
