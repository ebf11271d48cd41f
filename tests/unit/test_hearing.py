"""A reader applies news that follow its position, and leaves others to the next confirmation."""

import pytest

from sark_cache import RustPolicyCache
from sark_cache._core.compiled import Lease
from sark_cache.backends.redis.log import InvalidationLog
from sark_cache.backends.redis.settle import Settling
from sark_cache.backends.tiered.confirmation import LoggedItem, Position
from sark_cache.backends.tiered.follower import Identity, LogFollower, Member
from sark_cache.backends.tiered.own_records import OwnRecords

USERS = ("alice", "bob", "carol")


def item(number, previous=None):
    """Returns the record that revokes one of the users, after the record before it."""
    previous = at(number - 1).name if previous is None else previous
    record = f'{{"user_id":"{USERS[number - 1]}"}}'
    return LoggedItem(at(number), record, previous)


def at(number):
    return Position(f"{number}-1", f"{number:016x}")


@pytest.fixture
async def cache():
    async with RustPolicyCache() as cache:
        for user in USERS:
            await cache.set(user, "read", "doc", {"allow": True})
        yield cache


@pytest.fixture
def follower(cache):
    """A reader whose position is the record before the first one."""
    log = InvalidationLog("")
    member = Member(cache, OwnRecords(), 1.0)
    follower = LogFollower(log, "policy:decision", Lease(), Settling(log, 1.0), lambda: [member])
    follower.position = at(0)
    return follower


async def revoked(cache):
    return [user for user in USERS if await cache.get(user, "read", "doc") is None]


async def test_news_that_follow_the_position_are_applied(cache, follower):
    assert follower.hear([item(1), item(2)])
    assert follower.position == item(2).position
    assert await revoked(cache) == ["alice", "bob"]


async def test_news_that_were_applied_before_are_skipped(cache, follower):
    assert follower.hear([item(1)])
    assert follower.hear([item(1), item(2)])
    assert follower.hear([item(2)])
    assert follower.position == item(2).position
    assert await revoked(cache) == ["alice", "bob"]


@pytest.mark.parametrize(
    "news",
    [
        [item(2)],
        [item(1), item(3)],
        [item(1, previous="")],
        [item(1, previous=at(7).name)],
        [item(1), item(2, previous=at(7).name)],
        [item(1, previous=at(0)._replace(id="0-2").name)],
    ],
    ids=[
        "later",
        "with a gap",
        "of unknown order",
        "of another log",
        "of another log after one",
        "after the same record, sent again",
    ],
)
async def test_news_with_a_gap_are_left_to_the_next_confirmation(cache, follower, news):
    before = follower.position
    assert not follower.hear(news)
    assert follower.position == before
    assert await revoked(cache) == []


async def test_a_reader_without_a_position_applies_nothing(cache, follower):
    follower.position = None
    assert not follower.hear([item(1)])
    assert follower.acknowledgement(Identity()) is None
    assert await revoked(cache) == []


async def test_an_item_of_another_program_is_followed_by_nothing(cache, follower):
    follower.position = Position("0-1", "")
    assert not follower.hear([item(1, previous="")])
    assert await revoked(cache) == []
