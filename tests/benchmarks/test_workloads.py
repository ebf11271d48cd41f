"""The cost of a hit by the number of entries and the order of the requests.

It is compared with a plain dict of as many entries with separate decisions, in the same order.
Every request is made of new strings, as in a service: none has been hashed yet, and none is the
object that is a cache's key.
"""

import gc
from itertools import islice

import pytest

from field import OURS, TUNED
from turns import FLOOR, gets, hosted, look_ups
from workloads import ACCESS, DECISION, decision
from workloads import request as request_for

DAY = 24 * 3600
AWAITS, ROUNDS = 500, 61
EVERY = {**OURS, **TUNED}
SOME = ("RustPolicyCache.get()", "RustPolicyCache.get_decision()", "cachebox, tuned", "dict, tuned")
SUBJECTS = {
    1_000: EVERY,
    10_000: EVERY,
    100_000: EVERY,
    1_000_000: {name: EVERY[name] for name in SOME},
}


def decision_of(entry):
    return {**decision(5), "reason": f"{DECISION['reason']} {entry}"}


@pytest.fixture(scope="module", params=SUBJECTS, ids="{:,} entries".format)
def full(request):
    """Yields the number of entries, the subjects that hold them, and a dict of them."""
    entries = request.param
    capacity = entries + entries // 10  # below the capacity, no policy evicts
    making = {
        name: lambda make=make: make(capacity, DAY) for name, make in SUBJECTS[entries].items()
    }
    with hosted(making) as hosts:
        for host in hosts.values():
            host.run(fill(host.subject, entries))
        plain = {asked(entry)[2]: decision_of(entry) for entry in range(entries)}
        gc.collect()
        gc.freeze()  # the cost for the collector is measured elsewhere
        yield entries, hosts, plain
        gc.unfreeze()


def asked(entry):
    return (*request_for(entry), None)


async def fill(subject, entries):
    for entry in range(entries):
        await subject.set(*request_for(entry), decision_of(entry))


@pytest.mark.benchmark(group="scale")
@pytest.mark.parametrize("order", ACCESS)
def test_hit_in_order(take_turns, full, order):
    """A hit among so many entries, requested in such an order."""
    entries, hosts, plain = full
    orders = {name: ACCESS[order](entries) for name in (FLOOR, *hosts)}  # the same for all
    run = next(iter(hosts.values())).run

    def next_requests(name):
        return [asked(entry) for entry in islice(orders[name], AWAITS)]

    def floor():
        return run(look_ups([resource for _, _, resource, _ in next_requests(FLOOR)], plain))

    turns = {FLOOR: floor}
    for name, host in hosts.items():
        host.run(check(host.subject, islice(ACCESS[order](entries), AWAITS)))
        turns[name] = lambda name=name, host=host: host.run(
            gets(host.subject.get, next_requests(name))
        )
    take_turns(turns, rounds=ROUNDS, per_call=AWAITS)


async def check(subject, accesses):
    """Checks that all requests hit, each with the decision of its entry."""
    for entry in accesses:
        assert await subject.get(*asked(entry)) == decision_of(entry)
