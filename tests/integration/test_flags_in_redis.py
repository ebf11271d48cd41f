"""Feature flags in a real server: every process sees a change within a second."""

import logging
import time

import pytest

from interpreters import started
from redis_flags import (
    A_SECOND,
    KEY,
    PATIENCE,
    becomes,
    looked,
)
from sark_cache.rollout.manager import MAX_DISCOVERED


def test_a_percentage_is_decimal_text_in_redis(fresh_redis, manager):
    manager(fresh_redis).set_rollout_pct("rust_cache", 25)
    assert fresh_redis.command("GET", KEY) == "25"


def test_the_first_answer_of_a_process_is_correct(fresh_redis, manager):
    fresh_redis.command("SET", KEY, "100")
    assert manager(fresh_redis).should_use_rust("rust_cache", "alice")
    assert manager(fresh_redis).get_all_rollouts() == {"rust_opa": 0, "rust_cache": 100}


def test_the_value_in_redis_takes_precedence_over_the_initial_one(fresh_redis, manager):
    fresh_redis.command("SET", KEY, "0")
    flags = manager(fresh_redis, initial={"rust_cache": 50, "rust_opa": 30})
    assert flags.get_all_rollouts() == {"rust_opa": 30, "rust_cache": 0}
    assert fresh_redis.command("KEYS", "*") == [KEY], "what it starts with is nobody else's"


@pytest.mark.parametrize("percentage", [1, 50, 100])
def test_a_change_is_seen_within_a_second(fresh_redis, manager, percentage):
    here, there = manager(fresh_redis), manager(fresh_redis)
    there.get_all_rollouts()
    here.set_rollout_pct("rust_cache", percentage)
    assert becomes(there, percentage)


def test_a_change_made_by_hand_is_seen_and_logged(fresh_redis, manager, caplog):
    caplog.set_level(logging.INFO)
    flags = manager(fresh_redis)
    flags.get_all_rollouts()
    fresh_redis.command("SET", KEY, "25\n")  # like `echo 25 | redis-cli -x set`
    assert becomes(flags, 25)
    [change] = caplog.records
    assert (change.feature, getattr(change, "from"), change.to) == ("rust_cache", 0, 25)


def test_a_rollback_of_all_features_reaches_other_processes(fresh_redis, manager):
    here, there = manager(fresh_redis), manager(fresh_redis)
    for feature in ("rust_cache", "rust_opa"):
        here.set_rollout_pct(feature, 100)
    assert becomes(there, 100)
    here.rollback_all()
    assert becomes(there, 0)
    assert becomes(there, 0, feature="rust_opa")


def test_a_feature_set_elsewhere_is_found_on_request(fresh_redis, manager):
    fresh_redis.command("SET", "feature_flag:new", "100")
    flags = manager(fresh_redis)
    assert "new" not in flags.get_all_rollouts()
    assert flags.should_use_rust("new", "alice")
    assert flags.get_all_rollouts()["new"] == 100
    flags.rollback_all()
    assert fresh_redis.command("GET", "feature_flag:new") == "0"


def test_a_feature_that_was_requested_before_it_was_set_is_found(fresh_redis, manager):
    here, there = manager(fresh_redis), manager(fresh_redis)
    assert there.get_rollout_pct("new") == 0
    here.set_rollout_pct("new", 60)
    assert becomes(there, 60, feature="new")


def test_a_poll_stays_small_however_many_features_are_requested(fresh_redis, manager):
    flags = manager(fresh_redis)
    for number in range(3 * MAX_DISCOVERED):
        assert flags.get_rollout_pct(f"made up {number}") == 0
    assert flags.get_rollout_pct("not\nprintable") == flags.get_rollout_pct("\ud800") == 0
    before = int(fresh_redis.info("stats")["total_commands_processed"])
    looked(flags)
    after = int(fresh_redis.info("stats")["total_commands_processed"])
    assert after - before < 3 * (MAX_DISCOVERED + 2) / 2, "one look, or two if one was due"


def test_reading_a_flag_makes_no_round_trips(fresh_redis, manager):
    flags = manager(fresh_redis)
    flags.get_all_rollouts()

    def reads():
        return int(fresh_redis.info("commandstats")["cmdstat_get"].split("=")[1].split(",")[0])

    before, begun = reads(), time.monotonic()
    for number in range(10_000):
        flags.should_use_rust("rust_cache", f"user-{number}")
    looks = (time.monotonic() - begun) / 0.5 + 2
    assert reads() - before <= 2 * looks, "two features, read twice a second by the thread"


FOUR = """
import sys, time
import redis
from sark_cache.rollout.manager import get_feature_flag_manager
flags = get_feature_flag_manager(redis.Redis.from_url(sys.argv[1]))
assert flags.should_use_rust("rust_cache", "alice")
print("in", flush=True)
until = time.monotonic() + 30
while flags.should_use_rust("rust_cache", "alice") and time.monotonic() < until:
    time.sleep(0.001)
print(time.clock_gettime(time.CLOCK_MONOTONIC), flush=True)
"""


def test_a_rollback_is_seen_within_a_second_in_four_processes(fresh_redis, manager):
    flags = manager(fresh_redis)
    flags.set_rollout_pct("rust_cache", 100)
    with (
        started(FOUR, fresh_redis.url) as first,
        started(FOUR, fresh_redis.url) as second,
        started(FOUR, fresh_redis.url) as third,
        started(FOUR, fresh_redis.url) as fourth,
    ):
        processes = (first, second, third, fourth)
        assert [process.stdout.readline() for process in processes] == ["in\n"] * 4
        flags.rollback("rust_cache")
        rolled_back = time.clock_gettime(time.CLOCK_MONOTONIC)
        out = [float(process.stdout.readline()) for process in processes]
        assert max(out) - rolled_back < A_SECOND
        assert [process.wait(PATIENCE) for process in processes] == [0] * 4
