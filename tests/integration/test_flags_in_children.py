"""Feature flags after a fork: a child polls and writes on its own."""

from interpreters import needs_fork, run, started
from redis_flags import KEY, PATIENCE


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
    signal.alarm(30)
    if sides == [0]:
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

        signal.alarm(60)

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
