"""`get_decision` finds the same decisions as `get` and returns them as immutable objects."""

from sark_cache import Decision

ALLOW = {"allow": True, "reason": "owner", "obligations": [{"log": True}, None, 1.5, 2**70]}
DENY = {"allow": False}
ALICE = ("alice", "read", "doc")


async def test_a_stored_decision_is_returned_immutable(cache):
    assert await cache.get_decision(*ALICE) is None
    await cache.set(*ALICE, ALLOW, {"mfa": True})
    assert await cache.get_decision(*ALICE) is None
    decision = await cache.get_decision(*ALICE, {"mfa": True})
    assert isinstance(decision, Decision)
    assert decision == ALLOW
    assert (decision.allow, decision.reason) == (True, "owner")
    assert await cache.get(*ALICE, {"mfa": True}) == ALLOW


async def test_a_returned_decision_does_not_change(cache):
    await cache.set(*ALICE, ALLOW)
    decision = await cache.get_decision(*ALICE)
    await cache.set(*ALICE, DENY)
    assert (await cache.get_decision(*ALICE)).allow is False
    await cache.close()
    assert decision == ALLOW


async def test_no_revoked_decision_is_returned(cache):
    for revoke in (
        lambda: cache.invalidate(user_id="alice"),
        lambda: cache.invalidate(tags=["bundle:1"]),
        lambda: cache.delete(*ALICE),
        cache.clear,
    ):
        await cache.set(*ALICE, ALLOW, tags=["bundle:1"])
        assert (await cache.get_decision(*ALICE)).allow
        await revoke()
        assert await cache.get_decision(*ALICE) is None


async def test_it_counts_like_get(cache):
    await cache.get_decision(*ALICE)
    await cache.set(*ALICE, ALLOW)
    await cache.get_decision(*ALICE)
    assert (cache.metrics.hits, cache.metrics.misses) == (1, 1)
    cache.enabled = False
    assert await cache.get_decision(*ALICE) is None
    assert (cache.metrics.hits, cache.metrics.misses) == (1, 1)


async def test_a_returned_decision_can_be_stored(cache):
    await cache.set(*ALICE, ALLOW)
    decision = await cache.get_decision(*ALICE)
    assert await cache.set("bob", "read", "doc", decision)
    assert await cache.get("bob", "read", "doc") == ALLOW


async def test_a_context_that_is_not_json_is_a_miss_that_is_counted(cache):
    assert await cache.get_decision(*ALICE, {"at": object()}) is None
    assert (cache.metrics.errors, cache.metrics.misses) == (1, 1)
