"""Feature flags whose reads and writes overlap, and the thread and connection that serve them."""

import gc
import threading
import time

import redis
import redis.cluster
import redis.sentinel

from redis_flags import (
    A_SECOND,
    KEY,
    SOON,
    HeldUp,
    becomes,
    connections,
    flag_threads,
    looked,
    within,
)
from sark_cache.rollout.manager import FeatureFlagManager, get_feature_flag_manager


def test_concurrent_changes_of_threads_end_with_the_value_in_redis(fresh_redis, manager):
    flags = manager(fresh_redis)

    def change(first):
        for percentage in range(first, first + 50):
            flags.set_rollout_pct("rust_cache", percentage)

    threads = [threading.Thread(target=change, args=(first,)) for first in (0, 25, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    looked(flags)
    assert fresh_redis.command("GET", KEY) == str(flags.get_rollout_pct("rust_cache"))


def test_a_concurrent_read_does_not_undo_a_change(fresh_redis):
    with redis.Redis.from_url(fresh_redis.url) as client:
        held_up = HeldUp(client)
        flags = FeatureFlagManager(held_up)
        fresh_redis.command("SET", KEY, "100")
        assert flags.get_rollout_pct("rust_cache") == 100
        held_up.reads.hold_next()
        flags._poller.poll_now()
        held_up.reads.wait()
        setting = threading.Thread(target=flags.rollback, args=("rust_cache",))
        setting.start()
        assert becomes(flags, 0)
        held_up.sets.hold_next()
        held_up.reads.go_on()
        held_up.sets.wait()  # the result of the read has been handled
        assert flags.get_rollout_pct("rust_cache") == 0
        held_up.sets.go_on()
        setting.join()
        assert fresh_redis.command("GET", KEY) == "0"
        flags.close()


def test_a_change_made_while_another_is_written_is_written_next(fresh_redis):
    with redis.Redis.from_url(fresh_redis.url) as client:
        held_up = HeldUp(client)
        flags = FeatureFlagManager(held_up)
        flags.get_all_rollouts()
        held_up.sets.hold_next()
        setting = [threading.Thread(target=flags.set_rollout_pct, args=("rust_cache", 10))]
        setting[0].start()
        held_up.sets.wait()
        setting.append(threading.Thread(target=flags.set_rollout_pct, args=("rust_cache", 20)))
        setting[1].start()
        assert becomes(flags, 20)
        held_up.sets.go_on()
        for thread in setting:
            thread.join()
        assert flags.get_rollout_pct("rust_cache") == 20
        assert fresh_redis.command("GET", KEY) == "20"
        flags.close()


def test_the_flags_of_the_process_keep_their_first_client(fresh_redis):
    get_feature_flag_manager().close()
    flags = get_feature_flag_manager()
    fresh_redis.command("SET", KEY, "12")
    assert flags.get_rollout_pct("rust_cache") == 0
    assert get_feature_flag_manager(redis.Redis.from_url(fresh_redis.url)) is flags
    assert get_feature_flag_manager(redis.Redis(port=1)) is flags
    assert flags.get_rollout_pct("rust_cache") == 12
    flags.close()


def test_closing_ends_the_thread_and_the_connection(fresh_redis, manager):
    before = connections(fresh_redis)
    flags = manager(fresh_redis)
    flags.get_all_rollouts()
    assert (len(flag_threads()), connections(fresh_redis)) == (1, before + 1)
    flags.close()
    assert flag_threads() == []
    with within(A_SECOND) as in_time:
        while in_time() and connections(fresh_redis) > before:
            time.sleep(0.005)
    assert flags.get_rollout_pct("new") == 0, "asks nobody"


def test_flags_without_references_close_their_thread_and_connection(fresh_redis):
    before = connections(fresh_redis)
    FeatureFlagManager(redis.Redis.from_url(fresh_redis.url)).get_all_rollouts()
    gc.collect()
    with within(SOON) as in_time:
        while in_time() and (flag_threads() or connections(fresh_redis) > before):
            gc.collect()
            time.sleep(0.005)
