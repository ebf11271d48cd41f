"""Native caches with a lease, as `TieredPolicyCache` has them, without any server."""

import asyncio
import os

import pytest

from loaders import bringing, never
from sark_cache import RustPolicyCache
from sark_cache._core.compiled import Lease

ALICE = ("alice", "read", "doc")
ALLOWED = {"allow": True}


class LeasedCache(RustPolicyCache):
    """A native cache whose lease the test grants, and which waits for it if `confirms` is set."""

    def __init__(self) -> None:
        self._lease = Lease()
        self.confirms = False
        self.replaced = []
        super().__init__()

    def grant(self, seconds: float = 60.0) -> None:
        self._lease.extend(self._lease.now(), seconds)

    def lapse(self) -> None:
        self._lease.end()

    def _replaced(self, *request):
        self.replaced.append(request)

    def _lapsed(self, again, otherwise):
        return self._wait(again, otherwise) if self.confirms else None

    async def _wait(self, again, otherwise):
        await asyncio.sleep(0)
        self.grant()
        found = again()
        if found is None and otherwise is not None:
            return await otherwise
        if otherwise is not None:
            otherwise.close()
        return found


@pytest.fixture
async def cache():
    async with LeasedCache() as cache:
        cache.grant()
        await cache.set(*ALICE, ALLOWED)
        yield cache


async def test_nothing_is_served_without_a_lease(cache):
    cache.lapse()
    assert await cache.get(*ALICE) is None
    assert await cache.get_decision(*ALICE) is None
    assert await cache.get_batch([ALICE]) == [None]
    assert await cache.get_or_load(*ALICE, bringing({"allow": False})) == {"allow": False}


async def test_what_was_stored_before_is_served_under_the_next_lease(cache):
    cache.lapse()
    assert await cache.get(*ALICE) is None
    cache.grant()
    assert await cache.get(*ALICE) == ALLOWED


async def test_a_decision_set_without_a_lease_takes_the_place_of_the_older_one(cache):
    cache.lapse()
    await cache.set(*ALICE, {"allow": False})
    cache.grant()
    assert await cache.get(*ALICE) == {"allow": False}


@pytest.mark.parametrize("ask", ["get", "get_or_load"])
async def test_a_lookup_waits_for_a_confirmation_and_then_hits(cache, ask):
    cache.confirms = True
    cache.lapse()
    arguments = (never,) if ask == "get_or_load" else ()
    assert await getattr(cache, ask)(*ALICE, *arguments) == ALLOWED
    assert cache.metrics.hits == 1


async def test_decisions_and_batches_wait_too(cache):
    cache.confirms = True
    cache.lapse()
    assert (await cache.get_decision(*ALICE)).allow
    cache.lapse()
    bob = ("bob", "read", "doc")
    assert await cache.get_batch([ALICE, bob, ("x" * 10_000, "read", "doc")]) == [
        ALLOWED,
        None,
        None,
    ]


async def test_a_load_that_finds_no_lease_evaluates(cache):
    cache.confirms = True
    cache.lapse()
    assert await cache.get_or_load("bob", "read", "doc", bringing(ALLOWED)) == ALLOWED
    assert cache.metrics.loads == 1


async def test_a_context_that_changes_during_the_wait_does_not_change_the_request(cache):
    cache.confirms = True
    await cache.set(*ALICE, {"allow": False}, {"ip": "10.0.0.1"})
    cache.lapse()
    context = {"ip": "10.0.0.1"}
    waiting = cache.get(*ALICE, context)
    context.clear()
    assert await waiting == {"allow": False}


FOREIGN = [
    ("alice", None, None, None, []),
    (None, "read", None, None, []),
    (None, None, "doc", None, []),
    (None, None, None, "", []),
    (None, None, None, None, []),
    ("alice", "read", "doc", "", []),
]


@pytest.mark.parametrize("scope", FOREIGN)
async def test_a_foreign_revocation_takes_effect_at_once(cache, scope):
    cache._note_foreign(*scope)
    assert await cache.get(*ALICE) is None


async def test_a_foreign_revocation_of_other_decisions_changes_nothing(cache):
    cache._note_foreign("bob", None, None, None, [])
    cache._note_foreign(None, None, None, None, ["tag"])
    cache._note_foreign_key("bob:read:doc:none")
    cache._note_foreign_pattern("policy:decision:bob:*")
    assert await cache.get(*ALICE) == ALLOWED


async def test_tags_keys_and_patterns_are_revoked(cache):
    for revoke in (
        lambda: cache._note_foreign(None, None, None, None, ["tag", "other"]),
        lambda: cache._note_foreign_key("alice:read:doc:none"),
        lambda: cache._note_foreign_key(":alice:read:doc:none"),
        lambda: cache._note_foreign_key("not a key"),
        lambda: cache._note_foreign_pattern("policy:decision:alice:*"),
        cache._flush,
    ):
        await cache.set(*ALICE, ALLOWED, tags=["tag"])
        assert await cache.get(*ALICE) == ALLOWED
        revoke()
        assert await cache.get(*ALICE) is None


async def test_a_load_that_a_foreign_revocation_overtakes_is_not_stored(cache):
    async def load():
        cache._note_foreign("bob", None, None, None, [])
        return ALLOWED

    assert await cache.get_or_load("bob", "read", "doc", load) == ALLOWED
    assert await cache.get("bob", "read", "doc") is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
async def test_a_lease_ends_in_a_forked_child_and_not_in_its_parent(cache):
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(sender, str(cache._lease.remaining()).encode())
        os._exit(0)
    await asyncio.to_thread(os.waitpid, child, 0)
    assert os.read(receiver, 100) == b"0.0"
    os.close(receiver)
    os.close(sender)
    assert cache._lease.remaining() > 0
    assert await cache.get(*ALICE) == ALLOWED


def test_a_lease_counts_from_the_moment_that_is_given():
    lease = Lease()
    sent = lease.now()
    assert lease.remaining() == 0.0
    lease.extend(sent, 60.0)
    assert 0 < lease.remaining() <= 60.0
    lease.extend(sent, 1.0)
    assert lease.remaining() > 1.0
    lease.end()
    assert lease.remaining() == 0.0
    with pytest.raises(ValueError, match="seconds"):
        lease.extend(sent, -1.0)
