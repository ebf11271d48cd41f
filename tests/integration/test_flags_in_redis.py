"""Feature flags in a real server: every process sees a change within a second, even after an
outage."""

import gc
import logging
import threading
import time
from contextlib import contextmanager

import pytest
import redis
import redis.cluster
import redis.sentinel
import valkey
import valkey.cluster
import valkey.sentinel

from interpreters import needs_fork, run, started
from sark_cache.errors import FlagError
from sark_cache.rollout.manager import MAX_DISCOVERED, FeatureFlagManager, get_feature_flag_manager
from sark_cache.rollout.redis_store import FlagStore

KEY = "feature_flag:rust_cache"
A_SECOND = 1.0
"""The number of seconds within which a change is seen."""
SOON = 2.0
"""The number of seconds within which a manager notices that its server is back."""
PATIENCE = 10.0
"""The maximum number of seconds to wait where no limit is promised."""


@pytest.fixture
def manager(server_available):
    """Makes managers of a server's flags that are closed after the test."""
    made = []

    def make(server, **options):
        made.append(FeatureFlagManager(redis.Redis.from_url(server.url), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@contextmanager
def within(seconds):
    """Fails unless the condition of the block is met in time."""
    begun = time.monotonic()
    yield lambda: time.monotonic() - begun < seconds
    assert time.monotonic() - begun < seconds


def becomes(flags, percentage, seconds=A_SECOND, feature="rust_cache"):
    """Waits until a percentage is seen; returns whether it was."""
    with within(seconds) as in_time:
        while in_time() and flags.get_rollout_pct(feature) != percentage:
            time.sleep(0.005)
    return flags.get_rollout_pct(feature) == percentage


def looked(flags):
    """Waits for a poll that starts now."""
    assert flags._poller.poll_now().wait(PATIENCE)


# Sharing


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
while flags.should_use_rust("rust_cache", "alice"):
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


# A server that is down


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
    assert "0 % was set while Redis was away; now 0 % stands there" in caplog.text


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


# Processes and threads


@needs_fork
def test_a_forked_child_sees_changes_over_its_own_connection(fresh_redis, manager):
    code = """
    import os, signal, sys, time
    import redis
    from sark_cache.rollout.manager import get_feature_flag_manager
    flags = get_feature_flag_manager(redis.Redis.from_url(sys.argv[1]))
    assert flags.get_rollout_pct("rust_cache") == 10
    print("begun", flush=True)
    sides = [os.fork()]
    if sides == [0]:
        signal.alarm(30)
        sys.stdin.close()
    for percentage in (20, 30):
        while flags.get_rollout_pct("rust_cache") != percentage:
            time.sleep(0.005)
        print(percentage, flush=True)
    if sides == [0]:
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(sides[0], 0)[1]), flush=True)
    """
    flags = manager(fresh_redis)
    flags.set_rollout_pct("rust_cache", 10)
    with started(code, fresh_redis.url) as process:
        assert process.stdout.readline() == "begun\n"
        for percentage in (20, 30):
            flags.set_rollout_pct("rust_cache", percentage)
            assert [process.stdout.readline() for _ in range(2)] == [f"{percentage}\n"] * 2
        assert process.stdout.readline() == "0\n"
        assert process.communicate(timeout=PATIENCE)[1] == ""


@needs_fork
def test_a_child_gives_no_outdated_answer_long_after_the_fork(fresh_redis):
    assert run(
        """
        import os, signal, sys
        import redis
        from sark_cache.rollout.manager import get_feature_flag_manager
        client = redis.Redis.from_url(sys.argv[1])
        flags = get_feature_flag_manager(client)
        flags.set_rollout_pct("rust_cache", 100)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os.read(read, 1)
            os._exit(flags.get_rollout_pct("rust_cache"))
        client.set("feature_flag:rust_cache", "3")
        os.write(write, b"!")
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        client.close()
        """,
        fresh_redis.url,
    ) == ["3"]


@needs_fork
def test_a_child_does_not_write_pending_changes_of_its_parent(fresh_redis):
    code = """
    import os, signal, sys
    import redis
    from sark_cache.errors import FlagError
    from sark_cache.rollout.manager import get_feature_flag_manager
    flags = get_feature_flag_manager(redis.Redis.from_url(sys.argv[1]))
    flags.get_all_rollouts()
    print("begun", flush=True)
    sys.stdin.readline()
    try:
        flags.set_rollout_pct("rust_cache", 100)
    except FlagError:
        print("not confirmed", flush=True)
    child = os.fork()
    if child:
        flags.close()
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    signal.alarm(20)
    sys.stdin.readline()
    assert flags._poller.poll_now().wait(10)
    os._exit(flags.get_rollout_pct("rust_cache"))
    """
    with started(code, fresh_redis.url) as process:
        assert process.stdout.readline() == "begun\n"
        fresh_redis.kill()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "not confirmed\n"
        fresh_redis.start()
        fresh_redis.command("SET", KEY, "0")
        process.communicate("\n", timeout=PATIENCE)
    assert process.returncode == 0
    assert fresh_redis.command("GET", KEY) == "0"


@needs_fork
def test_children_forked_at_any_moment_of_a_poll_see_changes(fresh_redis):
    assert run(
        """
        import os, signal, sys, threading
        import redis
        from sark_cache.rollout.manager import get_feature_flag_manager
        client = redis.Redis.from_url(sys.argv[1])
        flags = get_feature_flag_manager(client)
        flags.set_rollout_pct("rust_cache", 10)
        done = threading.Event()

        def look_all_the_time():
            while not done.is_set():
                flags._poller.poll_now().wait(10)

        looking = threading.Thread(target=look_all_the_time)
        looking.start()
        codes = []
        for percentage in range(11, 41):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                flags.set_rollout_pct("rust_cache", percentage)
                os._exit(flags.get_rollout_pct("rust_cache"))
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        done.set()
        looking.join()
        print(codes == list(range(11, 41)), client.get("feature_flag:rust_cache"))
        client.close()
        """,
        fresh_redis.url,
    ) == ["True b'40'"]


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


def test_the_flags_of_the_process_keep_their_first_client(fresh_redis):
    get_feature_flag_manager().close()
    flags = get_feature_flag_manager()
    fresh_redis.command("SET", KEY, "12")
    assert flags.get_rollout_pct("rust_cache") == 0
    assert get_feature_flag_manager(redis.Redis.from_url(fresh_redis.url)) is flags
    assert get_feature_flag_manager(redis.Redis(port=1)) is flags
    assert flags.get_rollout_pct("rust_cache") == 12
    flags.close()


def connections(server):
    """Returns the number of connected clients, without the one that counts."""
    return len(server.command("CLIENT", "LIST").splitlines()) - 1


def flag_threads():
    return [thread for thread in threading.enumerate() if "flag poller" in thread.name]


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


# Clients of every kind


CLIENTS = {
    "redis-py": lambda s: redis.Redis.from_url(s.url),
    "redis-py, RESP 3 and text": lambda s: redis.Redis.from_url(
        s.url, protocol=3, decode_responses=True
    ),
    "redis-py, a pool that blocks": lambda s: redis.Redis(
        connection_pool=redis.BlockingConnectionPool.from_url(s.url, max_connections=1)
    ),
    "redis-py, unix socket": lambda s: redis.Redis.from_url(s.unix_url),
    "valkey-py": lambda s: valkey.Valkey.from_url(s.url),
    "valkey-py, unix socket": lambda s: valkey.Valkey.from_url(s.unix_url),
}


@pytest.mark.parametrize("kind", CLIENTS)
def test_every_kind_of_client_is_accepted(own_redis, kind):
    server = own_redis(requirepass="p@ss word", unixsocket="socket")
    client = CLIENTS[kind](server)
    check_client(client, server)
    client.close()


@pytest.mark.parametrize("library", [redis.cluster.RedisCluster, valkey.cluster.ValkeyCluster])
def test_a_cluster_is_accepted(fresh_cluster, library):
    client = library.from_url(fresh_cluster.servers[0].url)
    check_client(client, fresh_cluster)
    client.close()


@pytest.mark.parametrize("library", [redis.sentinel, valkey.sentinel])
def test_sentinels_are_accepted_and_a_failover_is_followed(fresh_sentinels, library):
    addresses = [(sentinel.host, sentinel.port) for sentinel in fresh_sentinels.sentinels]
    sentinel = library.Sentinel(addresses, socket_timeout=1)
    client = sentinel.master_for(fresh_sentinels.SERVICE)
    flags = check_client(client, fresh_sentinels)
    fresh_sentinels.failover()
    with within(PATIENCE) as in_time:
        while in_time():
            try:
                flags.set_rollout_pct("rust_cache", 77)
            except FlagError:
                continue
            break
    assert fresh_sentinels.master.command("GET", KEY) == "77"
    flags.close()
    client.close()
    for each in sentinel.sentinels:
        each.close()


def check_client(client, servers):
    """Checks that flags over a client see changes, survive a kind of fault, and stay usable."""
    flags, others = FeatureFlagManager(client), FeatureFlagManager(client)
    flags.set_rollout_pct("rust_cache", 33)
    flags.set_rollout_pct("rust_opa", 44)
    looked(others)  # finding the nodes of a cluster may take longer than the first call waits
    assert others.get_all_rollouts() == {"rust_cache": 33, "rust_opa": 44}
    assert client.get(KEY) in (b"33", "33")
    client.delete(KEY)
    client.lpush(KEY, "a list")
    looked(others)
    assert others.get_all_rollouts() == {"rust_cache": 33, "rust_opa": 44}
    store = FlagStore(client)
    assert store.write_late("rust_opa", 50, 44) == 50
    assert store.write_late("rust_opa", 60, 44) == 50
    store.close()
    client.delete(KEY)
    others.close()
    return flags


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


class Gate:
    """Blocks a call once its work is done, if `hold_next` was called."""

    def __init__(self):
        self._open, self._reached = threading.Event(), threading.Event()
        self._open.set()

    def hold_next(self):
        self._reached.clear()
        self._open.clear()

    def wait(self):
        assert self._reached.wait(PATIENCE)

    def go_on(self):
        self._open.set()

    def after(self, act):
        def gated(*arguments, **options):
            answer = act(*arguments, **options)
            self._reached.set()
            assert self._open.wait(PATIENCE)
            return answer

        return gated


class Wrapped:
    """A client whose type is hidden, like one that counts or traces."""

    def __init__(self, client):
        self._client = client
        self.set, self.eval = client.set, client.eval
        self.closed = False

    def pipeline(self, transaction):
        return self._client.pipeline(transaction)

    def close(self):
        self.closed = True


class HeldUp(Wrapped):
    """A client whose replies arrive when the test releases them."""

    def __init__(self, client):
        super().__init__(client)
        self.reads, self.sets = Gate(), Gate()
        self.set = self.sets.after(client.set)

    def pipeline(self, transaction):
        pipeline = self._client.pipeline(transaction)
        pipeline.execute = self.reads.after(pipeline.execute)
        return pipeline


def test_a_client_of_an_unknown_type_is_used_and_not_closed(fresh_redis):
    with redis.Redis.from_url(fresh_redis.url) as client:
        wrapped = Wrapped(client)
        flags = FeatureFlagManager(wrapped)
        flags.set_rollout_pct("rust_cache", 33)
        assert fresh_redis.command("GET", KEY) == "33"
        flags.close()
        assert not wrapped.closed
        assert client.ping()


def test_an_exhausted_pool_of_the_application_does_not_block_the_flags(fresh_redis):
    pool = redis.BlockingConnectionPool.from_url(fresh_redis.url, max_connections=1, timeout=60)
    taken = pool.get_connection()
    flags = FeatureFlagManager(redis.Redis(connection_pool=pool))
    flags.set_rollout_pct("rust_cache", 33)
    assert fresh_redis.command("GET", KEY) == "33"
    flags.close()
    pool.release(taken)
    pool.disconnect()
