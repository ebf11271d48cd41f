"""A reader of the log believes only a primary that has all records."""

from dataclasses import replace

import pytest

from sark_cache.backends.redis.invalidation import REPLICA_SECONDS
from sark_cache.backends.tiered.authority import (
    Believed,
    Replication,
    Verdict,
    judge,
    read_replication,
    read_uptime,
)

OURS, OTHER = "a" * 40, "b" * 40
NOBODY = "0" * 40
KNOWN = Believed(OURS, 1_000, confirmed_at=50.0, replicas=1, replicas_at=50.0)
SEEN = Replication(True, OURS, 1_000, NOBODY, -1, 1)
PROMOTED = SEEN._replace(history=OTHER, former=OURS, former_end=1_001, replicas=0)


def test_the_known_server_is_believed():
    assert judge(KNOWN, SEEN, 51.0) is Verdict.GO_ON
    assert judge(KNOWN, SEEN._replace(offset=5_000), 51.0) is Verdict.GO_ON


def test_the_first_server_is_believed():
    assert judge(None, PROMOTED, 51.0) is Verdict.GO_ON


def test_a_replica_is_left():
    assert judge(KNOWN, SEEN._replace(is_primary=False), 51.0) is Verdict.LEAVE
    assert judge(None, SEEN._replace(is_primary=False), 51.0) is Verdict.LEAVE


def test_a_server_that_lost_the_end_of_its_history_is_not_believed():
    assert judge(KNOWN, SEEN._replace(offset=999), 51.0) is Verdict.FLUSH


def test_a_promoted_replica_that_was_running_has_all_records():
    assert judge(KNOWN, PROMOTED, 51.0) is Verdict.ASK_UPTIME
    assert judge(KNOWN, PROMOTED, 51.0, uptime=3.5) is Verdict.GO_ON


def test_a_server_that_was_restarted_from_disk_may_lack_records():
    for uptime in (0.0, 1.0, 3.0):
        assert judge(KNOWN, PROMOTED, 51.0, uptime=uptime) is Verdict.FLUSH


@pytest.mark.parametrize(
    "seen",
    [
        PROMOTED._replace(former=NOBODY),
        PROMOTED._replace(former_end=999),
        PROMOTED._replace(former_end=-1),
    ],
)
def test_any_other_history_is_not_believed(seen):
    assert judge(KNOWN, seen, 51.0) is Verdict.FLUSH
    assert judge(KNOWN, seen, 51.0, uptime=1e6) is Verdict.FLUSH


def test_a_primary_that_lost_replicas_grants_nothing_for_a_while():
    lonely = SEEN._replace(replicas=0)
    assert judge(KNOWN, lonely, 51.0) is Verdict.HOLD
    assert judge(KNOWN, lonely, 50.0 + REPLICA_SECONDS) is Verdict.GO_ON
    assert judge(replace(KNOWN, replicas=0), lonely, 51.0) is Verdict.GO_ON


def test_the_replicas_that_were_there_are_remembered_until_they_are_back_or_given_up():
    later = KNOWN.then(SEEN._replace(replicas=0), 60.0)
    assert (later.replicas, later.replicas_at) == (1, 50.0)
    assert judge(later, SEEN._replace(replicas=0), 61.0) is Verdict.HOLD
    assert KNOWN.then(SEEN._replace(replicas=2), 60.0).replicas == 2
    given_up = KNOWN.then(SEEN._replace(replicas=0), 50.0 + REPLICA_SECONDS)
    assert given_up.replicas == 0


def test_a_promoted_server_begins_with_the_replicas_that_it_has():
    promoted = KNOWN.then(PROMOTED, 60.0)
    assert (promoted.history, promoted.replicas) == (OTHER, 0)


INFORMATION = f"""# Replication\r
role:master\r
connected_slaves:3\r
slave0:ip=10.0.0.2,port=6379,state=online,offset=900,lag=0\r
slave1:ip=10.0.0.3,port=6379,state=online,offset=800,lag=3\r
slave2:ip=10.0.0.4,port=6379,state=wait_bgsave,offset=0,lag=0\r
slave_read_repl_offset:1\r
master_replid:{OURS}\r
master_replid2:{NOBODY}\r
master_repl_offset:1000\r
second_repl_offset:-1\r
"""


def test_only_replicas_that_are_online_and_were_heard_lately_count():
    assert read_replication(INFORMATION) == SEEN._replace(replicas=1)
    assert read_replication(INFORMATION.encode()).replicas == 1


def test_a_replica_is_read_as_one():
    assert not read_replication(INFORMATION.replace("role:master", "role:slave")).is_primary


@pytest.mark.parametrize(
    "wrong", ["", "role:sentinel", INFORMATION.replace("master_replid:", "other:"), 3, None]
)
def test_malformed_information_is_refused(wrong):
    with pytest.raises((KeyError, TypeError, ValueError)):
        read_replication(wrong)


def test_the_uptime_is_read():
    assert read_uptime("# Server\r\nuptime_in_seconds:12\r\n") == 12.0
