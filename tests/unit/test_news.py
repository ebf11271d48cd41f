"""The revocations that a process has read from the log, and the requests they may concern."""

import json

import pytest

from sark_cache._core.keys import Scope, request_key
from sark_cache.backends.redis.log_record import subject
from sark_cache.backends.redis.news import MOST_RECORDS, News
from sark_cache.backends.redis.replies import At

ALICE = ("", "alice", "read", "doc")


def position(number):
    return f"1700000000000-{number}.{number:016x}"


def record(number, **what):
    return f"{position(number)} {json.dumps(what)}"


def of(policy, user_id, action, resource):
    key = request_key("sark-cache:1", policy, user_id, action, resource)
    return subject(key, Scope(user_id, action, resource, policy, key.context))


@pytest.fixture
def news():
    news = News()
    news.add(At(position(0)), None)
    return news


def receive(news, *records, since=0):
    newest = records[-1].split()[0]
    news.add(At(newest, list(reversed(records))), position(since))


@pytest.mark.parametrize(
    ("what", "concerns"),
    [
        ({"user_id": "alice"}, True),
        ({"user_id": "bob"}, False),
        ({"user_id": "alice", "resource": "other"}, False),
        ({"policy": "another"}, False),
        ({"tags": ["role:admin"]}, True),  # it may get that tag when it is evaluated
        ({"user_id": "bob", "tags": ["role:admin"]}, False),
        ({"pattern": "policy:decision:bob:*"}, True),
        ({"keys": ["sark-cache:1::alice:read:doc:none"]}, True),
        ({"keys": ["sark-cache:1::bob:read:doc:none"]}, False),
        ({"keys": 7}, True),
        ({"begun": True}, False),
        ({}, True),
    ],
    ids=str,
)
def test_a_record_begins_an_era_for_the_requests_that_it_may_concern(news, what, concerns):
    before = news.era(of(*ALICE))
    receive(news, record(1, **what))
    assert (news.era(of(*ALICE)) > before) is concerns
    assert (news.position, news.latest) == (position(1), position(1))


def test_the_same_news_twice_or_late_begins_no_era(news):
    receive(news, record(1, user_id="alice"), record(2, user_id="bob"))
    era = news.era(of(*ALICE))
    receive(news, record(1, user_id="alice"))
    receive(news, record(1, user_id="alice"), record(2, user_id="bob"))
    assert news.era(of(*ALICE)) == era
    assert news.position == position(2)


def test_missed_records_concern_every_request(news):
    before = news.era(of(*ALICE))
    news.add(At(position(9), None), position(0))
    assert news.era(of(*ALICE)) > before
    receive(news, record(10, user_id="bob"), since=9)
    assert news.era(of(*ALICE)) > before


def test_unreadable_records_concern_every_request(news):
    before = news.era(of(*ALICE))
    news.add(At(position(1), [f"{position(1)} [[["]), position(0))
    assert news.era(of(*ALICE)) > before


def test_the_memory_is_limited(news):
    for number in range(1, MOST_RECORDS + 50):
        receive(news, record(number, user_id=f"user-{number}"), since=number - 1)
    first = news.era(of(*ALICE))
    receive(news, record(MOST_RECORDS + 50, user_id="bob"), since=MOST_RECORDS + 49)
    assert news.era(of(*ALICE)) > first, "a removed record counts as concerning every request"
