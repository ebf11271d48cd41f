"""Stamps and loads are invalidated only by revocations that match them."""

import asyncio

import pytest

from loaders import ALLOW, DENY, ControlledLoader, bringing
from loaders import REQUEST as ALICE

BOB = ("bob", "read", "doc")
ROWS = [("frank", "read", f"doc-{i}") for i in range(5)]
ENTRIES = [(*row, ALLOW) for row in ROWS]


async def a_round(cache, revoke=None):
    """Evaluates the missing decisions of a batch and stores them with the stamp from before."""
    stamp = cache.stamp()
    found = await cache.get_batch(ROWS)
    if revoke is not None:
        await revoke()
    return sum(one is not None for one in found), await cache.set_batch(ENTRIES, stamp=stamp)


async def test_batches_with_stamps_are_stored_after_a_revocation(cache):
    assert await a_round(cache) == (0, 5)
    for _ in range(3):
        await cache.invalidate(user_id="frank")
        assert await a_round(cache) == (0, 5)
        assert await a_round(cache) == (5, 5)
    await cache.delete(*ROWS[0])
    assert await a_round(cache) == (4, 5)
    await cache.clear()
    assert await a_round(cache) == (0, 5)


async def test_batches_with_stamps_are_invalidated_by_a_revocation_in_between(cache):
    assert await a_round(cache, lambda: cache.invalidate(user_id="frank")) == (0, 0)
    assert await a_round(cache, lambda: cache.invalidate(user_id="bob")) == (0, 5)
    assert await a_round(cache, lambda: cache.delete(*ROWS[0])) == (5, 4)
    assert await a_round(cache, lambda: cache.invalidate_pattern("policy:decision:frank:*")) == (
        4,
        0,
    )
    assert await a_round(cache) == (0, 5)


async def test_a_stamp_taken_right_after_a_revocation_is_valid(cache):
    await cache.invalidate(user_id="alice")
    assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is True
    await cache.delete(*ALICE)
    assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is True


REVOCATIONS = {
    "another user": lambda cache, i: cache.invalidate(user_id=f"user-{i}"),
    "another resource": lambda cache, i: cache.invalidate(resource=f"other-{i}"),
    "another policy": lambda cache, i: cache.invalidate(policy=f"policy-{i}"),
    "another request": lambda cache, i: cache.delete(*BOB, {"number": i}),
}


@pytest.mark.parametrize("revoke", REVOCATIONS)
async def test_revocations_of_other_decisions_cost_no_evaluation(cache, revoke):
    loader = ControlledLoader()
    tasks = []
    for i in range(50):
        missed = cache.metrics.misses + 1
        tasks.append(asyncio.create_task(cache.get_or_load(*ALICE, loader)))
        async with asyncio.timeout(20):
            while cache.metrics.misses < missed:
                await asyncio.sleep(0.001)
        await REVOCATIONS[revoke](cache, i)
    loader.bring(ALLOW)
    assert await asyncio.gather(*tasks) == [ALLOW] * 50
    assert loader.runs == 1
    assert await cache.get(*ALICE) == ALLOW


async def test_a_request_after_a_matching_revocation_does_not_join_a_load_from_before(
    cache,
):
    old = ControlledLoader()
    before = asyncio.create_task(cache.get_or_load(*ALICE, old))
    await old.begun.wait()
    for i in range(40):
        await cache.invalidate(user_id=f"user-{i}")
    await cache.invalidate(user_id="alice")
    for i in range(40):
        await cache.invalidate(user_id=f"user-{i}")
    assert await cache.get_or_load(*ALICE, bringing(DENY)) == DENY
    old.bring(ALLOW)
    assert await before == ALLOW
    assert await cache.get(*ALICE) == DENY
