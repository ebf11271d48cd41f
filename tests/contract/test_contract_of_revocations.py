"""Once a revocation has returned, no older decision that it matches is served or stored."""

import itertools

import pytest

from sark_cache import InvalidationError

ALLOW = {"allow": True}
ALICE = ("alice", "read", "doc")
USERS, ACTIONS, RESOURCES = ("alice", "al*", "*"), ("read", "re?d"), ("doc", "d:c", "[doc]")
REQUESTS = list(itertools.product(USERS, ACTIONS, RESOURCES))
NAMES = ("user_id", "action", "resource")


@pytest.mark.parametrize(
    "named",
    [names for size in range(4) for names in itertools.combinations(range(3), size)],
    ids=str,
)
@pytest.mark.parametrize("request_", [REQUESTS[0], ("*", "re?d", "[doc]")], ids=str)
async def test_all_given_fields_must_match_and_none_is_a_pattern(cache, named, request_):
    for context in (None, {"ip": "::1"}):
        await cache.set_batch([(*request, ALLOW, context) for request in REQUESTS])
    revoked = {r for r in REQUESTS if all(r[at] == request_[at] for at in named)}
    removed = await cache.invalidate(**{NAMES[at]: request_[at] for at in named})
    assert removed == 2 * len(revoked)
    for context in (None, {"ip": "::1"}):
        served = await cache.get_batch([(*request, context) for request in REQUESTS])
        assert {
            r for r, decision in zip(REQUESTS, served, strict=True) if decision is None
        } == revoked
    assert cache.metrics.invalidations == removed


async def test_tags_revoke_every_decision_that_has_one_of_them(cache):
    await cache.set(*ALICE, ALLOW, tags=("role:admin", 'bundle:"1"'))
    await cache.set("bob", "read", "doc", ALLOW, tags=["role:user"])
    await cache.set("carol", "read", "doc", ALLOW)
    assert await cache.invalidate(user_id="bob", tags={"role:admin"}) == 0
    assert await cache.invalidate(tags=['bundle:"1"', "unheard of"]) == 1
    assert await cache.get(*ALICE) is None
    assert await cache.invalidate(user_id="bob", action="read", tags=["role:user"]) == 1
    assert await cache.size() == 1


async def test_a_pattern_revokes_decisions_whose_key_text_matches(cache):
    await cache.set_batch([(user, "read", "a/b", ALLOW) for user in ("alice", "alan", "bob", "a*")])
    assert await cache.invalidate_pattern("policy:decision:al*:read:*") == 2
    assert await cache.invalidate_pattern("policy:decision:a%2A:*") == 1
    assert await cache.invalidate_pattern("bob") == 0
    assert await cache.invalidate_pattern("*:none") == 1
    with pytest.raises(ValueError, match="pattern must be at most 1024 bytes"):
        await cache.invalidate_pattern("x" * 1_025)
    with pytest.raises(ValueError, match="lone surrogate"):
        await cache.invalidate_pattern("\ud800*")
    with pytest.raises(TypeError, match="pattern must be a str, not NoneType"):
        await cache.invalidate_pattern(None)


async def test_one_decision_can_be_deleted(cache):
    await cache.set(*ALICE, ALLOW)
    await cache.set(*ALICE, ALLOW, {"ip": "::1"})
    assert await cache.delete(*ALICE) is True
    assert await cache.delete(*ALICE) is False
    assert await cache.get(*ALICE) is None
    assert await cache.get(*ALICE, {"ip": "::1"}) == ALLOW
    assert await cache.delete("nobody", "read", "doc") is False


@pytest.mark.parametrize("clear", ["clear", "clear_all"])
async def test_clearing_revokes_everything(cache, clear):
    await cache.set_batch([(f"user-{i}", "read", "doc", ALLOW) for i in range(700)])
    assert await getattr(cache, clear)() is True
    assert await cache.size() == 0
    assert await cache.get("user-1", "read", "doc") is None


async def test_a_revoked_decision_can_be_stored_again(cache):
    await cache.set(*ALICE, ALLOW)
    await cache.invalidate(user_id="alice")
    assert await cache.set(*ALICE, ALLOW) is True
    assert await cache.get(*ALICE) == ALLOW


# Stamps: a decision that was evaluated before a revocation is not stored after it

REVOCATIONS = {
    "user": lambda cache: cache.invalidate(user_id="alice"),
    "action": lambda cache: cache.invalidate(action="read"),
    "resource": lambda cache: cache.invalidate(resource="doc"),
    "all three": lambda cache: cache.invalidate(*ALICE),
    "tag": lambda cache: cache.invalidate(tags=["x", "role:admin"]),
    "user and tag": lambda cache: cache.invalidate("alice", tags=["role:admin"]),
    "everything": lambda cache: cache.invalidate(),
    "clear": lambda cache: cache.clear(),
    "delete": lambda cache: cache.delete(*ALICE, {"ip": "::1"}),
    "pattern": lambda cache: cache.invalidate_pattern("policy:decision:alice:*"),
}
OTHERS = {
    "another user": lambda cache: cache.invalidate(user_id="bob"),
    "another resource": lambda cache: cache.invalidate(user_id="alice", resource="other"),
    "another tag": lambda cache: cache.invalidate(tags=["role:user"]),
    "another user with the tag": lambda cache: cache.invalidate("bob", tags=["role:admin"]),
    "another context": lambda cache: cache.delete(*ALICE),
    "nothing": lambda cache: cache.size(),
}


def stored(cache, stamp):
    return cache.set(*ALICE, ALLOW, {"ip": "::1"}, tags=["role:admin"], stamp=stamp)


@pytest.mark.parametrize("revoke", REVOCATIONS)
async def test_a_decision_from_before_a_revocation_is_not_stored(cache, revoke):
    stamp = cache.stamp()
    await REVOCATIONS[revoke](cache)
    before = cache.metrics.invalidations
    assert await stored(cache, stamp) is False
    assert await cache.get(*ALICE, {"ip": "::1"}) is None
    assert cache.metrics.invalidations == before + 1
    rows = [(*ALICE, ALLOW, {"ip": "::1"}), ("zoe", "x", "y", ALLOW)]
    of_others = revoke not in {"everything", "clear", "pattern", "tag"}
    assert await cache.set_batch(rows, tags=["role:admin"], stamp=stamp) in {of_others, 0, 1}
    assert await cache.get(*ALICE, {"ip": "::1"}) is None
    assert await stored(cache, cache.stamp()) is True


@pytest.mark.parametrize("revoke", OTHERS)
async def test_a_decision_that_a_revocation_does_not_match_is_stored(cache, revoke):
    stamp = cache.stamp()
    await OTHERS[revoke](cache)
    assert await stored(cache, stamp) is True
    assert await cache.get(*ALICE, {"ip": "::1"}) == ALLOW


async def test_a_stamp_stays_valid_across_many_revocations_of_others(cache):
    stamp = cache.stamp()
    for i in range(40):
        await cache.invalidate(user_id=f"user-{i}")
    assert await stored(cache, stamp) is True


async def test_a_stamp_of_another_type_is_an_error(cache):
    with pytest.raises(TypeError, match="stamp"):
        await cache.set(*ALICE, ALLOW, stamp=1)
    with pytest.raises(TypeError, match="stamp"):
        await cache.set_batch([(*ALICE, ALLOW)], stamp="now")


async def test_stamped_decisions_are_stored_in_one_batch(cache):
    stamp = cache.stamp()
    rows = [(f"user-{i}", "read", "doc", ALLOW) for i in range(600)]
    assert await cache.set_batch(rows, stamp=stamp) == 600
    await cache.invalidate(user_id="user-7")
    assert await cache.set_batch(rows, stamp=stamp) == 599
    assert await cache.get("user-7", "read", "doc") is None


# Errors


@pytest.mark.parametrize("wrong", [1, b"alice", ["alice"]], ids=repr)
@pytest.mark.parametrize("argument", ["user_id", "action", "resource"])
async def test_a_field_that_is_not_a_str_is_a_type_error_that_names_it(cache, argument, wrong):
    await cache.set(*ALICE, ALLOW)
    with pytest.raises(TypeError, match=f"{argument} must be a str or None, not "):
        await cache.invalidate(**{argument: wrong})
    with pytest.raises(TypeError, match=f"{argument} must be a str, not "):
        await cache.delete(**{**dict(zip(NAMES, ALICE, strict=True)), argument: wrong})
    assert await cache.size() == 1


async def test_tags_are_a_collection_of_str(cache):
    with pytest.raises(TypeError, match="tags must be a list, tuple or set of str"):
        await cache.invalidate(tags="role:user")
    with pytest.raises(TypeError, match="a tag must be a str, not int"):
        await cache.invalidate(tags=[1])


async def test_a_revocation_of_a_field_that_is_not_utf_8_removes_nothing(cache):
    await cache.set(*ALICE, ALLOW, tags=["good"])
    assert await cache.set("bob", "read", "doc", ALLOW, tags=["\ud800"]) is False
    assert await cache.invalidate(user_id="\ud800") == 0
    assert await cache.invalidate(tags=["\ud800"]) == 0
    assert await cache.size() == 1
    assert await cache.invalidate(tags=["\ud800", "good"]) == 1


async def test_deleting_with_a_context_that_is_not_json_finds_nothing(cache):
    await cache.set(*ALICE, ALLOW)
    assert await cache.delete(*ALICE, {"x": object()}) is False
    assert await cache.get(*ALICE) == ALLOW


async def test_deleting_with_a_context_that_raises_is_never_silent(cache):
    class Broken(dict):
        def items(self):
            message = "the disk is gone"
            raise OSError(message)

    with pytest.raises(InvalidationError, match="own code raised") as raised:
        await cache.delete(*ALICE, Broken(a=1))
    assert isinstance(raised.value.__cause__, OSError)
