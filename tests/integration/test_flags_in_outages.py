"""Feature flags while their server is down, refuses commands, holds nonsense or hangs."""

import logging

import pytest
import redis
import redis.cluster
import redis.sentinel

from interpreters import started
from redis_flags import (
    A_SECOND,
    KEY,
    SOON,
    becomes,
    looked,
    within,
)
from sark_cache.errors import FlagError
from sark_cache.rollout.manager import FeatureFlagManager

# A server that is down or refuses


def test_an_outage_changes_nothing_and_its_end_is_noticed(fresh_redis, manager, caplog):
    flags = manager(fresh_redis)
    flags.set_rollout_pct("rust_cache", 40)
    fresh_redis.kill()
    for _ in range(3):
        looked(flags)
        assert flags.get_rollout_pct("rust_cache") == 40
    [fault] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "refresh failed: ConnectionError" in fault.message
    fresh_redis.start()
    fresh_redis.command("SET", KEY, "41")
    assert becomes(flags, 41, SOON)


def test_a_server_restarted_without_its_data_changes_nothing(fresh_redis, manager):
    flags = manager(fresh_redis)
    flags.set_rollout_pct("rust_cache", 40)
    fresh_redis.kill()
    fresh_redis.start()
    looked(flags)
    looked(flags)
    assert flags.get_rollout_pct("rust_cache") == 40
    assert fresh_redis.command("KEYS", "*") == [], "nobody has set it since"


def test_without_a_server_from_the_start_no_call_waits_long(fresh_redis, manager):
    fresh_redis.kill()
    with within(A_SECOND):
        flags = manager(fresh_redis, initial={"rust_cache": 100})
        assert flags.should_use_rust("rust_cache", "alice")
        assert flags.get_rollout_pct("new") == 0


def test_an_unconfirmed_change_applies_here_and_is_written_when_redis_is_back(
    fresh_redis, manager, caplog
):
    here, there = manager(fresh_redis), manager(fresh_redis)
    here.set_rollout_pct("rust_cache", 100)
    assert becomes(there, 100)
    fresh_redis.kill()
    with pytest.raises(FlagError, match=r"rust_cache to 0 %.*other processes may not see it yet"):
        here.rollback("rust_cache")
    assert not here.should_use_rust("rust_cache", "alice")
    assert there.should_use_rust("rust_cache", "alice")
    fresh_redis.start()
    assert becomes(there, 0, SOON)
    assert fresh_redis.command("GET", KEY) == "0"
    assert "0 % was set while Redis was not reachable; Redis now has 0 %" in caplog.text


def test_the_newest_pending_change_wins(fresh_redis, manager):
    flags = manager(fresh_redis)
    flags.set_rollout_pct("rust_cache", 10)
    fresh_redis.kill()
    for percentage in (30, 60, 20):
        with pytest.raises(FlagError):
            flags.set_rollout_pct("rust_cache", percentage)
    fresh_redis.start()
    looked(flags)
    assert fresh_redis.command("GET", KEY) == "20"
    assert flags.get_rollout_pct("rust_cache") == 20


@pytest.mark.parametrize(
    ("intended", "elsewhere", "stands"),
    [
        (100, "10", 100),  # unchanged: it is the value that was last seen here
        (100, None, 100),
        (100, "5", 5),  # rolled back by another process
        (100, "0", 0),
        (0, "50", 0),  # a rollback is kept although another process went on
        (20, "50", 20),
        (100, "nonsense", 100),
        (100, "-1", 100),
    ],
)
def test_the_lower_of_a_late_change_and_a_change_of_another_process_wins(
    own_redis, intended, elsewhere, stands
):
    server = own_redis()
    cut_off, back = ("ACL", "SETUSER", "flags", "off"), ("ACL", "SETUSER", "flags", "on")
    server.command(*back, ">word", "~*", "&*", "+@all")
    flags = FeatureFlagManager(redis.Redis.from_url(server.url, username="flags", password="word"))  # noqa: S106
    flags.set_rollout_pct("rust_cache", 10)
    server.command(*cut_off)
    server.command("CLIENT", "KILL", "USER", "flags")
    with pytest.raises(FlagError):
        flags.set_rollout_pct("rust_cache", intended)
    assert flags.get_rollout_pct("rust_cache") == intended
    if elsewhere is not None:
        server.command("SET", KEY, elsewhere)
    server.command(*back)
    looked(flags)
    assert flags.get_rollout_pct("rust_cache") == stands
    assert server.command("GET", KEY) == str(stands)
    flags.close()


def test_a_refused_change_raises_the_reason_and_is_written_when_possible(own_redis, manager):
    server = own_redis(maxmemory="1", maxmemory_policy="noeviction")
    flags = manager(server)
    with pytest.raises(FlagError, match=r"OutOfMemory|OOM"):
        flags.set_rollout_pct("rust_cache", 30)
    assert flags.get_rollout_pct("rust_cache") == 30
    server.command("CONFIG", "SET", "maxmemory", "0")
    looked(flags)
    assert server.command("GET", KEY) == "30"


def test_a_wrong_password_is_logged_once_and_not_shown(own_redis, caplog):
    server = own_redis(requirepass="right")
    wrong = redis.Redis.from_url(server.url.replace("right", "wr0ng"))
    flags = FeatureFlagManager(wrong, initial={"rust_cache": 100})
    assert flags.should_use_rust("rust_cache", "alice")
    looked(flags)
    with pytest.raises(FlagError) as refused:
        flags.set_rollout_pct("rust_cache", 50)
    assert len([r for r in caplog.records if "refresh" in r.message]) == 1
    assert "wr0ng" not in caplog.text + str(refused.value)
    flags.close()


@pytest.mark.parametrize("nonsense", ["", "abc", "101", "-1", "2.5", "true", "100000000000"])
def test_a_value_that_is_not_a_percentage_changes_nothing_and_is_logged_once(
    fresh_redis, manager, caplog, nonsense
):
    flags = manager(fresh_redis)
    flags.set_rollout_pct("rust_cache", 40)
    fresh_redis.command("SET", KEY, nonsense)
    fresh_redis.command("SET", "feature_flag:rust_opa", "7")
    for _ in range(3):
        looked(flags)
    assert flags.get_all_rollouts() == {"rust_cache": 40, "rust_opa": 7}
    [fault] = caplog.records
    assert f"{KEY} does not hold an integer from 0 to 100" in fault.message


def test_a_value_of_another_type_changes_nothing_and_can_be_overwritten(
    fresh_redis, manager, caplog
):
    flags = manager(fresh_redis)
    flags.set_rollout_pct("rust_cache", 40)
    fresh_redis.command("DEL", KEY)
    fresh_redis.command("LPUSH", KEY, "50")
    looked(flags)
    assert flags.get_rollout_pct("rust_cache") == 40
    assert f"{KEY} does not hold an integer" in caplog.text
    flags.set_rollout_pct("rust_cache", 30)
    assert fresh_redis.command("GET", KEY) == "30"


# A server that hangs


def test_a_hanging_server_does_not_delay_reads(fresh_redis, manager):
    flags = manager(fresh_redis)
    flags.set_rollout_pct("rust_cache", 100)
    fresh_redis.pause()
    for _ in range(3):
        assert not flags._poller.poll_now().is_set()
        with within(A_SECOND):
            assert all(flags.should_use_rust("rust_cache", f"user-{n}") for n in range(10_000))
    fresh_redis.resume()
    fresh_redis.command("SET", KEY, "50")
    assert becomes(flags, 50, SOON)


def test_a_hanging_server_delays_the_first_read_a_moment(fresh_redis, manager):
    fresh_redis.pause()
    with within(A_SECOND):
        flags = manager(fresh_redis)
        assert not flags.should_use_rust("rust_cache", "alice")
        flags.close()


def test_a_change_waits_one_second_for_a_hanging_server(fresh_redis, manager):
    here, there = manager(fresh_redis), manager(fresh_redis)
    for each in (here, there):
        each.get_all_rollouts()
    fresh_redis.pause()
    with within(1.5), pytest.raises(FlagError, match="Redis did not confirm"):
        here.set_rollout_pct("rust_cache", 70)
    assert here.get_rollout_pct("rust_cache") == 70
    fresh_redis.resume()
    assert becomes(there, 70, SOON)


@pytest.mark.parametrize("server", ["answers", "hangs", "is gone"])
def test_the_interpreter_exits_at_once(fresh_redis, server):
    code = """
    import sys
    import redis
    from sark_cache.rollout.manager import get_feature_flag_manager
    flags = get_feature_flag_manager(redis.Redis.from_url(sys.argv[1]))
    flags.get_all_rollouts()
    print("begun", flush=True)
    sys.stdin.readline()
    flags._poller.poll_now()
    print("leaving", flush=True)
    """
    with started(code, fresh_redis.url) as process:
        assert process.stdout.readline() == "begun\n"
        if server == "hangs":
            fresh_redis.pause()
        elif server == "is gone":
            fresh_redis.kill()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "leaving\n"
        _, err = process.communicate(timeout=2)
    assert process.returncode == 0
    assert server != "answers" or err == ""
