"""A decision belongs to its policy and is never served to another one."""

import asyncio

import pytest

from loaders import ALLOW, DENY, ControlledLoader, bringing, never
from loaders import REQUEST as ALICE

BOB = ("bob", "read", "doc")
MEMBER, ADMIN = "app:is_member", "app:is_admin"

STORED = {
    "set": lambda cache, policy: cache.set(*ALICE, ALLOW, policy=policy),
    "set with a stamp": lambda cache, policy: cache.set(
        *ALICE, ALLOW, stamp=cache.stamp(), policy=policy
    ),
    "set_batch": lambda cache, policy: cache.set_batch([(*ALICE, ALLOW)], policy=policy),
    "preload_cache": lambda cache, policy: cache.preload_cache([(*ALICE, ALLOW)], policy=policy),
    "get_or_load": lambda cache, policy: cache.get_or_load(*ALICE, bringing(ALLOW), policy=policy),
}


async def served(cache, policy):
    """Returns the answer of every lookup method for a policy, which has to be the same."""
    found = await cache.get(*ALICE, policy=policy)
    assert await cache.get_batch([ALICE, BOB], policy=policy) == [found, None]
    assert await cache.get_decision(*ALICE, policy=policy) == found
    return found


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("policy", [MEMBER, ""])
async def test_a_decision_is_served_to_its_own_policy_only(cache, stored, policy):
    assert await STORED[stored](cache, policy)
    assert await served(cache, policy) == ALLOW
    for other in {MEMBER, ADMIN, "", "app", "app:is_member:alice"} - {policy}:
        assert await served(cache, other) is None
    assert await cache.size() == 1


async def test_a_member_does_not_pass_as_an_admin(cache):
    assert await cache.get_or_load(*ALICE, bringing(ALLOW), policy=MEMBER) == ALLOW
    assert await cache.get_or_load(*ALICE, bringing(DENY), policy=ADMIN) == DENY
    assert await cache.get_or_load(*ALICE, never, policy=MEMBER) == ALLOW
    assert await cache.get_or_load(*ALICE, never, policy=ADMIN) == DENY


async def test_two_policies_that_evaluate_at_once_do_not_share_a_load(cache):
    of_member, of_admin = ControlledLoader(), ControlledLoader()
    tasks = [
        asyncio.create_task(cache.get_or_load(*ALICE, loader, policy=policy))
        for loader, policy in ((of_member, MEMBER), (of_admin, ADMIN))
    ]
    await of_member.begun.wait()
    await of_admin.begun.wait()
    of_member.bring(ALLOW)
    of_admin.bring(DENY)
    assert await asyncio.gather(*tasks) == [ALLOW, DENY]
    assert await served(cache, MEMBER) == ALLOW
    assert await served(cache, ADMIN) == DENY


async def test_policy_and_user_are_separated_in_the_key(cache):
    await cache.set("b", "c", "d", ALLOW, policy="a")
    assert await cache.get("a", "b", "c", policy="") is None
    assert await cache.get("c", "d", "none", policy="a:b") is None
    await cache.set("a", "b", "c", ALLOW, policy="")
    assert await cache.size() == 2


# Revocations


async def test_a_policy_can_be_revoked_as_a_whole(cache):
    for policy in (MEMBER, ADMIN, ""):
        await cache.set_batch([(*ALICE, ALLOW), (*BOB, ALLOW)], policy=policy)
    assert await cache.invalidate(policy=MEMBER) == 2
    assert await served(cache, MEMBER) is None
    assert await served(cache, "app:is_mem*") is None
    assert await cache.invalidate(policy="app:*") == 0, "it is no pattern"
    assert await cache.invalidate(policy="") == 2
    assert await cache.get(*BOB, policy=ADMIN) == ALLOW
    assert await cache.size() == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"user_id": "alice"},
        {"action": "read", "resource": "doc", "user_id": "alice"},
        {"tags": ["role:admin"]},
        {"user_id": "alice", "tags": ["role:admin", "unheard of"]},
    ],
    ids=repr,
)
async def test_a_policy_and_other_fields_have_to_match_together(cache, fields):
    for policy in (MEMBER, ADMIN):
        await cache.set(*ALICE, ALLOW, tags=["role:admin"], policy=policy)
        await cache.set(*BOB, ALLOW, tags=["role:user"], policy=policy)
    assert await cache.invalidate(**fields, policy=MEMBER) == 1
    assert await cache.get(*ALICE, policy=MEMBER) is None
    assert await cache.get(*BOB, policy=MEMBER) == ALLOW
    assert await cache.get(*ALICE, policy=ADMIN) == ALLOW
    assert await cache.invalidate(**fields) == 1, "whatever the policy"
    assert await cache.size() == 2


async def test_a_revocation_without_a_policy_revokes_under_all_policies(cache):
    for policy in (MEMBER, ADMIN, ""):
        await cache.set(*ALICE, ALLOW, policy=policy)
    assert await cache.invalidate_pattern("policy:decision:alice:read:*") == 3
    for policy in (MEMBER, ADMIN, ""):
        await cache.set(*ALICE, ALLOW, policy=policy)
    assert await cache.clear() is True
    assert await cache.size() == 0


async def test_a_request_is_deleted_under_one_policy_or_under_every_policy(cache):
    context = {"ip": "::1"}
    for policy in (MEMBER, ADMIN, ""):
        await cache.set(*ALICE, ALLOW, context, policy=policy)
        await cache.set(*ALICE, ALLOW, policy=policy)
    assert await cache.delete(*ALICE, context, policy=ADMIN) is True
    assert await cache.delete(*ALICE, context, policy=ADMIN) is False
    assert await cache.get(*ALICE, context, policy=MEMBER) == ALLOW
    assert await cache.delete(*ALICE, context) is True
    for policy in (MEMBER, ADMIN, ""):
        assert await cache.get(*ALICE, context, policy=policy) is None
        assert await cache.get(*ALICE, policy=policy) == ALLOW, "another context"
    assert await cache.delete(*ALICE, context) is False
    assert await cache.delete(*ALICE, policy="") is True
    assert await cache.size() == 2


OVERTAKING = {
    "its policy": lambda cache: cache.invalidate(policy=MEMBER),
    "its policy and user": lambda cache: cache.invalidate(user_id="alice", policy=MEMBER),
    "its policy and a tag": lambda cache: cache.invalidate(tags=["role:admin"], policy=MEMBER),
    "the request under its policy": lambda cache: cache.delete(*ALICE, policy=MEMBER),
    "the request under every policy": lambda cache: cache.delete(*ALICE),
    "the user whatever the policy": lambda cache: cache.invalidate(user_id="alice"),
}
PASSING = {
    "another policy": lambda cache: cache.invalidate(policy=ADMIN),
    "another policy and its user": lambda cache: cache.invalidate(user_id="alice", policy=ADMIN),
    "the request under another policy": lambda cache: cache.delete(*ALICE, policy=ADMIN),
    "another request under every policy": lambda cache: cache.delete(*BOB),
    "another context under every policy": lambda cache: cache.delete(*ALICE, {"ip": "::1"}),
    "another user under its policy": lambda cache: cache.invalidate(user_id="bob", policy=MEMBER),
}


async def overtaken(cache, revoke):
    """Returns whether a load and a stamped decision of a policy are stored across a revocation."""
    loader, stamp = ControlledLoader(), cache.stamp()
    task = asyncio.create_task(
        cache.get_or_load(*ALICE, loader, tags=["role:admin"], policy=MEMBER)
    )
    await loader.begun.wait()
    await revoke(cache)
    loader.bring(ALLOW)
    assert await task == ALLOW
    loaded = await served(cache, MEMBER)
    stamped = await cache.set(*ALICE, ALLOW, tags=["role:admin"], stamp=stamp, policy=MEMBER)
    assert (loaded is None) == (not stamped)
    return loaded is None


@pytest.mark.parametrize("revoke", OVERTAKING)
async def test_a_load_of_a_policy_is_invalidated_by_a_revocation_of_that_policy(cache, revoke):
    assert await overtaken(cache, OVERTAKING[revoke])


@pytest.mark.parametrize("revoke", PASSING)
async def test_a_load_of_a_policy_is_not_invalidated_by_other_revocations(cache, revoke):
    assert not await overtaken(cache, PASSING[revoke])


async def test_a_refresh_stays_with_its_policy(cache):
    refreshed = asyncio.Event()

    async def evaluate(*_, policy):
        assert policy == MEMBER
        refreshed.set()
        return DENY

    cache.set_revalidate_callback(evaluate)
    await cache.set(*ALICE, ALLOW, ttl_seconds=60, policy=ADMIN)
    await cache.set(*ALICE, ALLOW, ttl_seconds=2, policy=MEMBER)
    await asyncio.sleep(1.6)
    assert await cache.get(*ALICE, None, "critical", policy=MEMBER) == ALLOW
    async with asyncio.timeout(5):
        await refreshed.wait()
        while await cache.get(*ALICE, policy=MEMBER) != DENY:
            await asyncio.sleep(0.005)
    assert await served(cache, ADMIN) == ALLOW
    assert await served(cache, "") is None


async def test_a_callback_without_a_policy_replaces_no_decision_of_a_policy(cache):
    async def evaluate(*_):
        pytest.fail("it cannot know what the policy says")

    cache.set_revalidate_callback(evaluate)
    await cache.set(*ALICE, ALLOW, ttl_seconds=2, policy=MEMBER)
    await asyncio.sleep(1.6)
    assert await cache.get(*ALICE, None, "critical", policy=MEMBER) == ALLOW
    assert (cache.metrics.revalidations, cache.metrics.errors) == (0, 0)


# Errors


@pytest.mark.parametrize("wrong", [1, b"app", ["app"]], ids=repr)
async def test_a_policy_that_is_not_a_str_is_a_type_error_that_names_it(cache, wrong):
    for attempt in (
        lambda: cache.get(*ALICE, policy=wrong),
        lambda: cache.get_decision(*ALICE, policy=wrong),
        lambda: cache.set(*ALICE, ALLOW, policy=wrong),
        lambda: cache.get_or_load(*ALICE, never, policy=wrong),
        lambda: cache.get_batch([ALICE], policy=wrong),
        lambda: cache.set_batch([(*ALICE, ALLOW)], policy=wrong),
        lambda: cache.preload_cache([(*ALICE, ALLOW)], policy=wrong),
    ):
        with pytest.raises(TypeError, match="policy must be a str, not "):
            await attempt()
    for attempt in (
        lambda: cache.delete(*ALICE, policy=wrong),
        lambda: cache.invalidate(policy=wrong),
    ):
        with pytest.raises(TypeError, match="policy must be a str or None, not "):
            await attempt()


async def test_nothing_is_stored_under_a_policy_of_more_than_256_bytes(cache):
    longest, beyond = "é" * 128, "é" * 128 + "x"
    assert await cache.set(*ALICE, ALLOW, policy=longest) is True
    assert await cache.set(*ALICE, ALLOW, policy=beyond) is False
    assert await cache.get(*ALICE, policy=beyond) is None
    assert await cache.get_or_load(*ALICE, bringing(DENY), policy=beyond) == DENY
    assert await cache.set_batch([(*BOB, ALLOW)], policy=beyond) == 0
    assert await cache.delete(*ALICE, policy=beyond) is False
    assert await cache.invalidate(policy=beyond) == 0
    assert await cache.size() == 1
    assert await cache.get(*ALICE, policy=longest) == ALLOW
