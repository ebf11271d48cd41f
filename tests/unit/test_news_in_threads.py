"""Several threads that read the invalidation log at once."""

import json
import threading

import pytest

from sark_cache.backends.redis import news
from sark_cache.backends.redis.replies import At

ALICE = {
    "key": "k",
    "policy": "",
    "user_id": "alice",
    "action": "read",
    "resource": "doc",
    "context": "none",
}


def position(number):
    return f"{number:024x}"


def revoked(number, user):
    return f"{position(number)} {0:013} {json.dumps({'user_id': user})}"


@pytest.fixture
def slow_thread(monkeypatch):
    """Starts a thread that pauses while it reads; events report and end the pause."""
    reads, may_go_on = threading.Event(), threading.Event()
    read = news._read

    def read_slowly(record):
        if threading.current_thread().name == "slow":
            reads.set()
            may_go_on.wait(10)
        return read(record)

    monkeypatch.setattr(news, "_read", read_slowly)

    def begin(add):
        thread = threading.Thread(target=add, name="slow")
        thread.start()
        assert reads.wait(10)
        return thread

    yield begin, may_go_on
    may_go_on.set()


def test_a_thread_with_older_news_does_not_undo_newer_news(slow_thread):
    begin, may_go_on = slow_thread
    known = news.News()
    known.add(At(position(0)), None)
    before = known.era(ALICE)
    less = At(position(1), [revoked(1, "bob")])
    more = At(position(2), [revoked(2, "alice"), revoked(1, "bob")])
    slow = begin(lambda: known.add(less, position(0)))
    quick = threading.Thread(target=lambda: known.add(more, position(0)))
    quick.start()
    quick.join(0.2)
    may_go_on.set()
    slow.join(10)
    quick.join(10)
    assert known.era(ALICE) > before
    assert known.position == position(2)
