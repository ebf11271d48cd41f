"""The whole cache against a dict: after any sequence of operations both give the same answers."""

import asyncio
import itertools
import time
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as explore

from sark_cache import Loaded, RustPolicyCache

USERS, ACTIONS, RESOURCES, TAGS = ("u1", "u2"), ("read", "write"), ("r1", "r2"), ("t1", "t2")
CONTEXTS = (None, {"mfa": True})
POLICIES = ("", "p1", "p2")
LEAST_STEPS = 10_000
BRIEF = 0.002
ITERATIONS = 8
"""Iterations of the event loop: more than the longest chain of wake-ups takes."""

requests = st.tuples(
    st.sampled_from(USERS),
    st.sampled_from(ACTIONS),
    st.sampled_from(RESOURCES),
    st.sampled_from(CONTEXTS),
    st.sampled_from(POLICIES),
)
tags = st.sets(st.sampled_from(TAGS)).map(frozenset)
fields = st.tuples(*(st.none() | st.sampled_from(names) for names in (USERS, ACTIONS, RESOURCES)))
positions = st.integers(0, 1_000)


def key_of(request):
    *names, context, policy = request
    return (*names, repr(context), policy)


@dataclass
class Asker:
    """One call of `get_or_load`, and the answer that the model expects."""

    request: tuple
    tags: frozenset
    since: int = 0
    task: asyncio.Task | None = None
    brings: asyncio.Future | None = None
    ran: bool = False
    """Set when its loader has started; the model's view is `leads`."""
    leads: bool = False
    expected: object = None
    answered: bool = False

    def answer(self, expected):
        self.expected, self.answered = expected, True

    async def loader(self):
        self.ran = True
        return await asyncio.shield(self.brings)


@dataclass
class Flight:
    """One running load."""

    key: tuple
    tags: frozenset
    began: int
    leader: Asker
    waiters: list = field(default_factory=list)


class CacheAgainstDict(RuleBasedStateMachine):
    """Rules that do the same to the cache and the model and compare the results."""

    steps = 0

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.cache = RustPolicyCache()
        self.stored = {}  # key → (decision, tags)
        self.revocations = []  # predicates over (key, tags); a stamp is the length of this list
        self.stamps = [(self.cache.stamp(), 0)]
        self.flights = []
        self.current = {}  # key → the flight that the next request joins
        self.askers = []
        self.counts = dict.fromkeys(("hits", "misses", "loads", "load_errors", "coalesced"), 0)
        self.versions = itertools.count()

    def teardown(self):
        for asker in self.askers:
            asker.task.cancel()
        self.settle()
        self.loop.close()

    def run(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    def settle(self):
        async def rest():
            for _ in range(ITERATIONS):
                await asyncio.sleep(0)

        self.run(rest())

    def decision(self):
        return {"version": next(self.versions)}

    # The model

    def revoked_since(self, stamp, key, carried):
        return any(matches(key, carried) for matches in self.revocations[stamp:])

    def revoke(self, matches):
        """Revokes in the model; returns the number of entries removed."""
        self.revocations.append(matches)
        revoked = [key for key, (_, carried) in self.stored.items() if matches(key, carried)]
        for key in revoked:
            del self.stored[key]
        return len(revoked)

    def store(self, key, decision, carried, stamp):
        """Stores in the model unless the stamp is invalidated; returns whether it was stored.

        A decision that was not stored has superseded the stored one, too. If the revocations match
        both, the stored one stays: they removed it, or it is newer.
        """
        if self.revoked_since(stamp, key, carried):
            _, held = self.stored.get(key, (None, frozenset()))
            if not self.revoked_since(stamp, key, held):
                self.stored.pop(key, None)
            return False
        self.stored[key] = (decision, carried)
        return True

    def ask(self, asker):
        """Handles a request that missed, or one that has to load again."""
        key = key_of(asker.request)
        asker.since = len(self.revocations)
        flight = self.current.get(key)
        if flight is not None and not (
            self.revoked_since(flight.began, key, flight.tags)
            or self.revoked_since(flight.began, key, asker.tags)
        ):
            flight.waiters.append(asker)
            flight.tags |= asker.tags
        elif key in self.stored:
            self.counts["coalesced"] += 1
            asker.answer(self.stored[key][0])
        else:
            flight = Flight(key, asker.tags, asker.since, asker)
            self.flights.append(flight)
            self.current[key] = flight
            self.lead(asker)

    def lead(self, asker):
        asker.leads = True
        self.counts["loads"] += 1

    def end(self, flight):
        self.flights.remove(flight)
        if self.current.get(flight.key) is flight:
            del self.current[flight.key]

    # Requests

    @rule(request=requests)
    def get(self, request):
        found = self.stored.get(key_of(request))
        self.counts["hits" if found else "misses"] += 1
        *asked, policy = request
        assert self.run(self.cache.get(*asked, policy=policy)) == (found and found[0])

    @rule(batch=st.lists(requests, max_size=4), policy=st.sampled_from(POLICIES))
    def get_batch(self, batch, policy):
        asked = [request[:-1] for request in batch]
        found = [self.stored.get(key_of((*request, policy))) for request in asked]
        self.counts["hits"] += sum(map(bool, found))
        self.counts["misses"] += found.count(None)
        expected = [decision and decision[0] for decision in found]
        assert self.run(self.cache.get_batch(asked, policy=policy)) == expected

    @rule()
    def take_a_stamp(self):
        self.stamps.append((self.cache.stamp(), len(self.revocations)))

    @rule(request=requests, carried=tags, position=positions, stamped=st.booleans())
    def set(self, request, carried, position, stamped):
        *names, context, policy = request
        stamp, began = self.stamps[position % len(self.stamps)]
        if not stamped:
            stamp, began = None, len(self.revocations)
        decision = self.decision()
        self.current.pop(key_of(request), None)
        stored = self.cache.set(*names, decision, context, tags=carried, stamp=stamp, policy=policy)
        assert self.run(stored) == self.store(key_of(request), decision, carried, began)

    @rule(batch=st.lists(requests, max_size=4), carried=tags, policy=st.sampled_from(POLICIES))
    def set_batch(self, batch, carried, policy):
        entries = [(*names, self.decision(), context) for *names, context, _ in batch]
        stored = self.cache.set_batch(entries, tags=carried, policy=policy)
        assert self.run(stored) == len(batch)
        for request, entry in zip(batch, entries, strict=True):
            key = key_of((*request[:-1], policy))
            self.current.pop(key, None)
            self.store(key, entry[3], carried, len(self.revocations))

    @rule(request=requests)
    def set_what_expires(self, request):
        *names, context, policy = request
        self.current.pop(key_of(request), None)
        stored = self.cache.set(*names, self.decision(), context, ttl_seconds=BRIEF, policy=policy)
        assert self.run(stored)
        self.stored.pop(key_of(request), None)
        time.sleep(2 * BRIEF)

    # Loads

    @rule(request=requests, carried=tags)
    def begin_a_load(self, request, carried):
        *names, context, policy = request
        asker = Asker(request, carried, brings=self.loop.create_future())
        self.askers.append(asker)

        async def begin():
            asker.task = asyncio.ensure_future(
                self.cache.get_or_load(*names, asker.loader, context, tags=carried, policy=policy)
            )

        found = self.stored.get(key_of(request))
        self.counts["hits" if found else "misses"] += 1
        if found:
            asker.answer(found[0])
        else:
            self.ask(asker)
        self.run(begin())
        self.settle()

    @precondition(lambda self: self.flights)
    @rule(position=positions, late=tags, brief=st.booleans())
    def finish_a_load(self, position, late, brief):
        flight = self.flights[position % len(self.flights)]
        decision = self.decision()
        leader, carried = flight.leader, flight.tags | late
        has_place = self.current.get(flight.key) is flight
        self.end(flight)
        if has_place and brief:
            self.stored.pop(flight.key, None)  # superseded by a decision that cannot be stored
        elif has_place:
            self.store(flight.key, decision, carried, flight.began)
        leader.answer(decision)
        unforeseen = late - flight.tags
        doubtful = unforeseen and self.revoked_since(flight.began, flight.key, unforeseen)
        again = [asker for asker in flight.waiters if doubtful and asker.since > flight.began]
        for asker in flight.waiters:
            if asker not in again:
                self.counts["coalesced"] += 1
                asker.answer(decision)
        for asker in again:
            self.ask(asker)
        ttl_seconds = 0 if brief else None
        leader.brings.set_result(Loaded(decision, ttl_seconds=ttl_seconds, tags=late))
        self.settle()

    @precondition(lambda self: self.flights)
    @rule(position=positions)
    def fail_a_load(self, position):
        flight = self.flights[position % len(self.flights)]
        error = ConnectionError(next(self.versions))
        self.end(flight)
        self.counts["load_errors"] += 1
        self.counts["coalesced"] += len(flight.waiters)
        for asker in (flight.leader, *flight.waiters):
            asker.answer(error)
        flight.leader.brings.set_exception(error)
        self.settle()

    @precondition(lambda self: self.flights)
    @rule(position=positions)
    def cancel_a_leader(self, position):
        flight = self.flights[position % len(self.flights)]
        flight.leader.answer(asyncio.CancelledError)
        flight.leader.task.cancel()
        has_place = self.current.get(flight.key) is flight
        if has_place and flight.waiters:
            flight.leader = flight.waiters.pop(0)
            flight.began = len(self.revocations)
            self.lead(flight.leader)
        else:
            self.end(flight)
            for asker in flight.waiters:
                self.ask(asker)
        self.settle()

    @precondition(lambda self: any(flight.waiters for flight in self.flights))
    @rule(position=positions)
    def cancel_a_waiter(self, position):
        waiting = [(flight, asker) for flight in self.flights for asker in flight.waiters]
        flight, asker = waiting[position % len(waiting)]
        flight.waiters.remove(asker)
        asker.answer(asyncio.CancelledError)
        asker.task.cancel()
        self.settle()

    # Revocations

    @rule(named=fields, carried=tags, policy=st.none() | st.sampled_from(POLICIES))
    def invalidate(self, named, carried, policy):
        def matches(key, entry_tags):
            wanted = zip((*named, policy), (*key[:3], key[-1]), strict=True)
            return all(name is None or name == part for name, part in wanted) and (
                not carried or bool(carried & entry_tags)
            )

        tagged = {"tags": carried} if carried else {}
        removed = self.run(self.cache.invalidate(*named, **tagged, policy=policy))
        assert removed == self.revoke(matches)

    @rule(user=st.sampled_from(USERS))
    def invalidate_a_pattern(self, user):
        revoked = self.run(self.cache.invalidate_pattern(f"policy:decision:{user}:*"))
        assert revoked == self.revoke(lambda key, _: key[0] == user)

    @rule(request=requests)
    def delete(self, request):
        *names, context, policy = request
        key = key_of(request)
        deleted = self.run(self.cache.delete(*names, context, policy=policy))
        assert deleted == bool(self.revoke(lambda other, _: other == key))

    @rule(request=requests)
    def delete_whatever_the_policy(self, request):
        *names, context, _ = request
        key = key_of(request)
        deleted = self.run(self.cache.delete(*names, context))
        assert deleted == bool(self.revoke(lambda other, _: other[:-1] == key[:-1]))

    @rule()
    def clear(self):
        assert self.run(self.cache.clear()) is True
        self.revoke(lambda *_: True)

    @rule()
    def clean_up(self):
        self.run(self.cache.cleanup_expired())

    # Invariants

    @invariant()
    def every_asker_is_answered_as_expected_or_waits(self):
        type(self).steps += 1
        for asker in self.askers:
            assert asker.ran == asker.leads
            assert asker.task.done() == asker.answered
            if not asker.answered:
                continue
            if asker.expected is asyncio.CancelledError:
                assert asker.task.cancelled()
            elif isinstance(asker.expected, Exception):
                assert asker.task.exception() is asker.expected
            else:
                assert asker.task.result() == asker.expected
        self.askers = [asker for asker in self.askers if not asker.answered]

    @invariant()
    def as_many_live_entries_and_the_same_counts(self):
        assert self.run(self.cache.size()) == len(self.stored)
        metrics = self.cache.metrics
        assert {name: getattr(metrics, name) for name in self.counts} == self.counts
        assert metrics.errors == 0


def test_the_cache_answers_as_a_dict_does():
    explore(
        CacheAgainstDict,
        settings=settings(
            max_examples=250,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert CacheAgainstDict.steps >= LEAST_STEPS
