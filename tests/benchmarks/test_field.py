"""The cost of one decision in every cache: hit, miss and set, by the sizes of the entry."""

import pytest

from field import BARE, FIELD, UNBOUNDED
from turns import FLOOR, gets, hosted, look_ups, sets
from workloads import REQUEST, context, decision, request

HOUR = 3600
AWAITS, ROUNDS = 300, 81
OURS = "RustPolicyCache.get()"
OURS_STORING = "RustPolicyCache.set()"
A_HIT = "for comparison: RustPolicyCache.get(), a hit"
CONTEXTS = [0, 3, 20]
SIZES = [(0, 5), (3, 5), (0, 50)]
"""Numbers of fields of the context and of the decision."""

by_context = pytest.mark.parametrize("fields", CONTEXTS, ids="context of {}".format)
by_sizes = pytest.mark.parametrize(
    "sizes", SIZES, ids=lambda sizes: "context of {}, decision of {}".format(*sizes)
)


def the_field(subjects, capacity):
    """Hosts the subjects, each with a capacity."""
    return hosted({name: lambda make=make: make(capacity, HOUR) for name, make in subjects.items()})


def floor():
    """Returns a turn of the floor, for any loop's `run`."""
    return look_ups(["key"] * AWAITS, {"key": decision(5)})


def compare_hits(take_turns, granted):
    """Compares hits of all these requests in turn, each with its decision."""
    asked = [asked for asked, _ in granted] * (AWAITS // len(granted))
    with the_field({**FIELD, **BARE}, capacity=1_000) as hosts:
        turns = {FLOOR: lambda: hosts[OURS].run(floor())}
        for name, host in hosts.items():
            for (*fields, of), decided in granted:
                host.run(host.subject.set(*fields, decided, of))
            turns[name] = lambda host=host: host.run(gets(host.subject.get, asked))
        take_turns(turns, rounds=ROUNDS, per_call=AWAITS)
        for host in hosts.values():
            for request, decided in granted:
                assert host.run(host.subject.get(*request)) == decided


@pytest.mark.benchmark(group="hit")
@by_context
def test_hit_by_context(take_turns, fields):
    """A hit, by the fields of the request's context."""
    compare_hits(take_turns, [((*REQUEST, context(fields)), decision(5))])


@pytest.mark.benchmark(group="hit")
@pytest.mark.parametrize("fields", [0, 3], ids="context of {}".format)
def test_hit_of_no_two_alike(take_turns, fields):
    """A hit whose request and decision differ from those before, by the context's fields."""
    granted = [
        ((*request(entry), context(fields)), {**decision(5), "reason": f"rule {entry}"})
        for entry in range(AWAITS)
    ]
    compare_hits(take_turns, granted)


@pytest.mark.benchmark(group="decision")
@pytest.mark.parametrize("fields", [2, 5, 50], ids="decision of {}".format)
def test_hit_by_decision(take_turns, fields):
    """A hit with a 3-field context, by the fields of the decision."""
    compare_hits(take_turns, [((*REQUEST, context(3)), decision(fields))])


@pytest.mark.benchmark(group="miss")
@by_context
def test_miss(take_turns, fields):
    """A miss, by the fields of the request's context."""
    hit, missed = (*REQUEST, context(fields)), (*REQUEST[:2], "another", context(fields))
    with the_field({**FIELD, **BARE}, capacity=1_000) as hosts:
        ours = hosts[OURS]
        turns = {
            FLOOR: lambda: ours.run(floor()),
            A_HIT: lambda: ours.run(gets(ours.subject.get, [hit] * AWAITS)),
        }
        for name, host in hosts.items():
            host.run(host.subject.set(*hit[:3], decision(5), hit[3]))
            turns[name] = lambda host=host: host.run(gets(host.subject.get, [missed] * AWAITS))
        take_turns(turns, rounds=ROUNDS, per_call=AWAITS)
        assert all(host.run(host.subject.get(*missed)) is None for host in hosts.values())


class Sets:
    """The turns of a subject that stores, beside those of the floor and of a hit."""

    def __init__(self, hosts, sizes):
        self.context, self.decision = context(sizes[0]), decision(sizes[1])
        self.hosts = hosts
        self.stored = dict.fromkeys(hosts, 0)

    def turns(self, store):
        """Returns one turn per subject; `store(name)` returns the entries to store."""
        return {
            FLOOR: lambda: self.hosts[OURS_STORING].run(floor()),
            A_HIT: self.hit,
            **{
                name: lambda name=name, host=host: host.run(sets(host.subject.set, store(name)))
                for name, host in self.hosts.items()
            },
        }

    def hit(self):
        ours = self.hosts[OURS_STORING]
        assert ours.run(ours.subject.set(*REQUEST, self.decision, self.context))
        return ours.run(gets(ours.subject.get, [(*REQUEST, self.context)] * AWAITS))

    def same(self, _name):
        """Returns the same entry repeatedly."""
        return [(*REQUEST, self.decision, self.context)] * AWAITS

    def fresh(self, name):
        """Returns entries that the subject has not stored before."""
        first, self.stored[name] = self.stored[name], self.stored[name] + AWAITS
        numbers = range(first, self.stored[name])
        return [(*request(number), self.decision, self.context) for number in numbers]

    def kept(self, name):
        """Returns how many of those entries the subject holds."""
        host = self.hosts[name]

        async def count():
            entries = map(request, range(self.stored[name]))
            found = [await host.subject.get(*entry, self.context) for entry in entries]
            return sum(decision == self.decision for decision in found)

        return host.run(count())


STORING = {
    name.replace(".get()", ".set()"): make
    for name, make in FIELD.items()
    if "get_decision" not in name
}
"""The caches by the name of their stores. `get_decision` is not another way to store."""


@pytest.mark.benchmark(group="set")
@by_sizes
def test_set_of_a_fresh_entry(take_turns, sizes):
    """Storing a new entry, far below capacity, by the fields of context and decision."""
    with the_field(STORING, capacity=100_000) as hosts:
        stores = Sets(hosts, sizes)
        take_turns(stores.turns(stores.fresh), rounds=ROUNDS, per_call=AWAITS)
        for name, stored in stores.stored.items():
            assert stores.kept(name) == stored


@pytest.mark.benchmark(group="set")
@by_sizes
def test_overwriting_set(take_turns, sizes):
    """Overwriting an entry, by the fields of context and decision."""
    with the_field(STORING, capacity=1_000) as hosts:
        stores = Sets(hosts, sizes)
        take_turns(stores.turns(stores.same), rounds=ROUNDS, per_call=AWAITS)
        for host in hosts.values():
            assert host.run(host.subject.get(*REQUEST, stores.context)) == stores.decision


@pytest.mark.benchmark(group="set")
@by_sizes
def test_set_at_capacity(take_turns, sizes):
    """Storing a new entry at capacity, which evicts another, by the fields of both."""
    bounded = {name: make for name, make in STORING.items() if name not in UNBOUNDED}
    with the_field(bounded, capacity=1_000) as hosts:
        stores = Sets(hosts, sizes)
        for name, host in hosts.items():
            host.run(sets(host.subject.set, stores.fresh(name)))
        take_turns(stores.turns(stores.fresh), rounds=ROUNDS, per_call=AWAITS)
        for name in hosts:
            assert 0 < stores.kept(name) <= 1_000, name
