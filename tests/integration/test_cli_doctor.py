"""`sark-cache doctor`: its findings and warnings."""

import importlib.metadata
import platform
import re

import pytest

from commands import URL, in_process, sark_cache, url_without
from servers.relay import relayed

FIELDS = [
    *("ok", "problems", "warnings", "versions", "extras", "native", "settings", "rollouts"),
    *("redis", "backend"),
]


def doctor(*arguments, **variables):
    """Returns the findings and the exit code."""
    ended = sark_cache("doctor", "--json", *arguments, **variables)
    assert ended.err == ""
    assert ended.document["ok"] is (ended.code == 0)
    assert bool(ended.document["problems"]) is (ended.code == 1)
    return ended.document


def test_it_shows_the_installed_packages():
    found = doctor()
    assert list(found) == FIELDS
    assert found["versions"]["sark_cache"] == importlib.metadata.version("sark-cache")
    assert found["versions"]["python"].endswith(platform.python_version())
    installed = importlib.metadata.version("prometheus-client")
    assert found["extras"]["prometheus"] == {"prometheus-client": installed}
    assert {"redis", "typer", "pydantic-settings"} <= found["extras"]["cli"].keys()
    assert found["native"]["available"]
    assert found["native"]["works"]
    assert 0 < found["native"]["hit_nanoseconds"] < 1e6
    assert (found["redis"], found["backend"]) == (None, None)


def test_it_warns_if_nothing_is_cached():
    [warning] = doctor(SARK_CACHE_RUST_CACHE_ROLLOUT_PCT="0")["warnings"]
    assert "nothing is cached" in warning
    assert doctor()["warnings"] == []
    assert doctor(SARK_CACHE_RUST_CACHE_ROLLOUT_PCT="5")["warnings"] == []


def test_it_warns_if_caches_are_disabled():
    assert "SARK_CACHE_ENABLED" in doctor(SARK_CACHE_ENABLED="false")["warnings"][0]
    off = {"SARK_CACHE_RUST_CACHE_ROLLOUT_PCT": "5", "RUST_ENABLED": "false"}
    assert "SARK_CACHE_USE_RUST_CACHE" in doctor(**off)["warnings"][0]


def test_it_warns_if_several_workers_have_separate_native_caches(fresh_redis):
    several = {"WEB_CONCURRENCY": "3"}
    [warning] = doctor(**several)["warnings"]
    assert "several processes (WEB_CONCURRENCY=3)" in warning
    assert "SARK_CACHE_REDIS_URL" in warning
    *_, last = sark_cache("doctor", **several).out.splitlines()
    assert last == "warning: all that is configured works, but 1 warning stands above"
    for is_fine in ({"SARK_CACHE_TIERED": "false"}, {URL: fresh_redis.url}):
        warnings = doctor(**several, **is_fine)["warnings"]
        assert not [text for text in warnings if "several processes" in text]


# Settings


def test_settings_are_shown_as_they_were_read(fresh_redis):
    variables = {"SARK_CACHE_CACHE_TTL": "60", URL: fresh_redis.url}
    settings = doctor(**variables)["settings"]
    assert (settings["cache_ttl"], settings["cache_max_size"]) == (60, 10_000)
    assert settings["redis_url"] == fresh_redis.url
    ended = sark_cache("doctor", **variables)
    assert "  cache_ttl  60.0\n" in ended.out
    assert "cache_max_size" not in ended.out


def test_wrong_settings_are_named():
    variables = {"SARK_CACHE_CACHE_TTL": "soon", URL: "http://:s3cret@localhost/x"}
    found = doctor(**variables)
    [problem] = found["problems"]
    assert "SARK_CACHE_CACHE_TTL='soon'" in problem
    assert "SARK_CACHE_REDIS_URL is wrong: url must begin with" in problem
    assert found["settings"] is None
    output = sark_cache("doctor", **variables)
    assert "SARK_CACHE_CACHE_TTL='soon'" in output.out
    assert "s3cret" not in output.out + output.err + str(found)


def test_an_unknown_variable_gives_a_warning():
    assert "SARK_CACHE_COLOUR" in doctor(SARK_CACHE_COLOUR="red")["warnings"][0]
    found = doctor(SARK_CACHE_CACHE_TTLS="60")
    assert "did you mean SARK_CACHE_CACHE_TTL?" in found["problems"][0]


def test_an_option_unknown_to_the_client_is_a_wrong_setting():
    found = doctor(**{URL: "redis://localhost?colour=red"})
    assert f"{URL} is wrong: url has an option that redis-py does not take" in found["problems"][0]
    assert "It must be a URL: redis://" in found["problems"][0]


# Redis


def test_it_shows_the_server(fresh_redis):
    found = doctor(**{URL: fresh_redis.url})
    assert found["redis"]["address"] == fresh_redis.url
    assert found["redis"]["topology"] == "server"
    assert found["redis"]["reachable"]
    assert found["redis"]["in_time"]
    [server] = found["redis"]["servers"]
    assert server["address"] == f"{fresh_redis.host}:{fresh_redis.port}"
    assert server["version"].split()[0] in {"Redis", "Valkey"}
    assert (server["role"], server["replicas"]) == ("primary", 0)
    assert server["runs_scripts"]
    assert server["refused"] == {}
    assert 0 < server["round_trip_ms"] == found["redis"]["round_trip_ms"] < 1_000


def test_it_changes_nothing_there(fresh_redis):
    for user in ([], ["--user", "alice"]):
        doctor(*user, **{URL: fresh_redis.url})
        assert fresh_redis.command("KEYS", "*") == []


def test_it_shows_the_server_as_readable_text(own_redis):
    server = own_redis(maxmemory="64mb", maxmemory_policy="volatile-lru", appendonly=True)
    output = sark_cache("doctor", **{URL: server.url}).out
    assert f"Redis at {server.url}\n" in output
    assert "; primary; 0 replicas connected; answers in " in output
    assert "; runs scripts; keeps at most 64 MiB (volatile-lru)\n" in output
    assert output.endswith("ok: all that is configured works\n")


@pytest.mark.parametrize(("login", "code"), [("s3cr%2Ft%20p%40ss", 0), ("wr0ng", 1)])
def test_a_password_is_never_shown(own_redis, login, code):
    server = own_redis(requirepass="s3cr/t p@ss")
    url = f"redis://:{login}@{server.host}:{server.port}/0"
    for ended in (
        sark_cache("doctor", "--user", "alice", **{URL: url}),
        sark_cache("doctor", "--json", **{URL: url}),
        sark_cache("doctor", "--redis-url", url),
    ):
        assert ended.code == code
        for secret in ("s3cr", "wr0ng", "p@ss", "p%40ss"):
            assert secret not in ended.out + ended.err


def test_a_unix_socket_is_accepted(own_redis):
    server = own_redis(unixsocket="socket")
    found = doctor("--redis-url", server.unix_url)
    assert found["redis"]["servers"][0]["address"].endswith("/socket")


def test_sentinels_lead_to_the_primary(fresh_sentinels):
    redis = doctor(**{URL: fresh_sentinels.url})["redis"]
    assert redis["topology"] == "sentinel"
    [server] = redis["servers"]
    assert server["address"].endswith(f":{fresh_sentinels.master.port}")
    assert (server["role"], server["replicas"]) == ("primary", 1)


@pytest.mark.parametrize("library", ["redis", "valkey"])
def test_each_primary_of_a_cluster_is_examined(fresh_cluster, library):
    url = fresh_cluster.url.replace("redis", library, 1)
    found = doctor("--user", "alice", **{URL: url})
    assert found["redis"]["topology"] == "cluster"
    ports = [server["address"].rpartition(":")[2] for server in found["redis"]["servers"]]
    assert sorted(ports) == sorted(str(server.port) for server in fresh_cluster.servers)
    assert {server["cluster_state"] for server in found["redis"]["servers"]} == {"ok"}
    assert found["backend"]["backend"] == "tiered"


def test_a_part_of_a_cluster_that_is_down_is_a_problem(fresh_cluster):
    down = fresh_cluster.servers[0]
    down.kill()
    found = doctor(**{URL: fresh_cluster.url})
    assert any(problem.startswith(f"{down.host}:{down.port}: ") for problem in found["problems"])
    assert found["redis"]["reachable"]
    output = sark_cache("doctor", **{URL: fresh_cluster.url}).out
    assert f"  {down.host}:{down.port}  version unknown\n" in output


def test_a_cluster_that_reports_itself_as_down_is_a_problem(own_redis):
    server = own_redis(cluster_enabled=True, cluster_announce_ip="127.0.0.1")
    server.command("CLUSTER", "ADDSLOTS", 0)
    found = doctor(**{URL: f"redis+cluster://{server.host}:{server.port}"})
    assert any("reports its cluster as: fail" in problem for problem in found["problems"])


def test_an_unreachable_server_is_a_problem(own_redis):
    server = own_redis()
    server.kill()
    found = doctor("--user", "alice", SARK_CACHE_USE_RUST_CACHE="no", **{URL: server.url})
    assert f"Redis at {server.url} cannot be reached" in found["problems"][0]
    assert not found["redis"]["reachable"]
    assert found["redis"]["round_trip_ms"] is None
    assert found["backend"]["backend"] == "none"
    assert "  reachable  no\n" in sark_cache("doctor", **{URL: server.url}).out


def test_a_server_that_is_too_slow_for_requests_is_a_problem(fresh_redis):
    variables = {"SARK_CACHE_REDIS_COMMAND_TIMEOUT": "0.000001", URL: fresh_redis.url}
    found = doctor(**variables)
    assert (found["redis"]["reachable"], found["redis"]["in_time"]) == (True, False)
    assert "SARK_CACHE_REDIS_COMMAND_TIMEOUT 1e-06 s" in found["problems"][0]


WELL = {"save": "", "appendonly": True}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"maxmemory": "64mb", "maxmemory_policy": "allkeys-lru"}, "evicts any key .*allkeys-lru"),
        ({"maxmemory_policy": "allkeys-random"}, "evicts any key .*allkeys-random"),
        ({"appendonly": False}, r"keeps no append-only file \(appendonly no\)"),
    ],
)
def test_a_server_that_may_lose_or_restore_entries_gives_a_warning(own_redis, config, words):
    server = own_redis(**(WELL | config))
    found = doctor(**{URL: server.url})
    assert found["ok"]
    [warning] = found["warnings"]
    assert re.search(words, warning)
    output = sark_cache("doctor", **{URL: server.url})
    *_, last = output.out.splitlines()
    assert last == "warning: all that is configured works, but 1 warning stands above"
    assert output.code == 0


def test_a_well_configured_server_gives_no_warning(own_redis):
    server = own_redis(**WELL)
    found = doctor(**{URL: server.url})
    assert found["warnings"] == []
    [examined] = found["redis"]["servers"]
    assert (examined["snapshots"], examined["appends"]) == ("", True)
    assert examined["counts_replicas"] is True
    assert examined["reports_history"] is True


def test_missing_guarantees_without_role_and_info_give_a_warning(own_redis):
    server = own_redis(**WELL)
    url = url_without(server, "role", "info")
    found = doctor(**{URL: url})
    [about_info, about_role, about_following] = found["warnings"]
    assert "does not answer INFO" in about_info
    assert "confirmed by the primary alone" in about_role
    assert "SARK_CACHE_REDIS_REPLICAS" in about_role
    assert "refuses commands with which native caches share revocations: INFO" in about_following
    [_, about_role, _] = doctor(**{URL: url, "SARK_CACHE_REDIS_REPLICAS": "2"})["warnings"]
    assert "confirmed by the primary and 2 replicas" in about_role


@pytest.mark.parametrize("command", ["pttl", "xadd", "xrange", "xrevrange", "unlink"])
def test_each_missing_command_is_a_problem(own_redis, command):
    server = own_redis(**WELL)
    [problem] = doctor(**{URL: url_without(server, command)})["problems"]
    assert f"refuses commands that the cache needs: {command.upper()} (" in problem


def test_a_command_that_is_missing_has_a_cure(own_redis):
    server = own_redis(**WELL)
    for command in ("get", "scan", "xadd"):
        problems = doctor(**{URL: url_without(server, command)})["problems"]
        assert f"ACL SETUSER <user> +{command}" in problems[-1]


def test_commands_that_are_needed_later_are_warned_of(own_redis):
    server = own_redis(**WELL)
    [about_time, about_wait] = doctor(**{URL: url_without(server, "time", "wait")})["warnings"]
    assert "does not answer TIME" in about_time
    assert "ACL SETUSER <user> +time" in about_time
    assert "nothing is served as soon as it has a replica" in about_wait
    assert "ACL SETUSER <user> +wait" in about_wait


@pytest.mark.parametrize("command", ["hgetall", "hmget", "hexists", "hlen", "hdel", "xread"])
def test_commands_with_which_native_caches_share_revocations_are_warned_of(own_redis, command):
    server = own_redis(**WELL)
    url = url_without(server, command)
    [warning] = doctor(**{URL: url})["warnings"]
    assert f"share revocations: {command.upper()} (NoPermissionError" in warning
    assert f"ACL SETUSER <user> +{command}" in warning
    for apart in ("SARK_CACHE_TIERED", "SARK_CACHE_USE_RUST_CACHE"):
        assert doctor(**{URL: url, apart: "false"})["warnings"] == []


@pytest.mark.parametrize("servers", ["fresh_sentinels", "fresh_cluster"])
def test_a_failover_that_may_be_faster_than_the_leases_is_warned_of(servers, request):
    url = request.getfixturevalue(servers).url
    warnings = doctor(**{URL: url, "SARK_CACHE_MAX_STALENESS": "60"})["warnings"]
    about_failovers = [warning for warning in warnings if "may be replaced" in warning]
    assert about_failovers
    assert all("(63 s)" in warning for warning in about_failovers)
    assert all("users get Redis" in warning for warning in about_failovers)
    trusted = doctor(
        **{URL: url, "SARK_CACHE_MAX_STALENESS": "60", "SARK_CACHE_TRUST_SERVER": "true"}
    )
    assert any("may serve a decision for some seconds" in one for one in trusted["warnings"])
    assert not any("users get Redis" in one for one in trusted["warnings"])


def test_missing_rights_to_keys_are_distinguished_from_missing_commands(own_redis):
    server = own_redis(**WELL)
    server.command("ACL", "SETUSER", "shop", "on", ">s3cret", "~sark-cache:*", "+@all")
    url = server.url.replace("redis://", "redis://shop:s3cret@")
    settings = {URL: url, "SARK_CACHE_NAMESPACE": "shop:"}
    problems = doctor(**settings)["problems"]
    assert "ACL SETUSER <user> +get ~feature_flag:*" in problems[0]
    cure = "~shop:sark-cache:* ~{shop:policy:decision}.*"
    assert problems[1].endswith(f"ACL SETUSER <user> {cure}")
    server.command("ACL", "SETUSER", "shop", "~feature_flag:*", "~shop:sark-cache:*")
    [problem] = doctor(**settings)["problems"]
    assert problem.endswith(cure)
    server.command("ACL", "SETUSER", "shop", *cure.split())
    assert doctor(**settings)["problems"] == []


@pytest.mark.parametrize("save", ["3600 1", ""])
def test_a_restart_from_a_snapshot_that_nobody_would_notice_gives_a_warning(own_redis, save):
    server = own_redis(**(WELL | {"save": save}))
    warnings = doctor(**{URL: url_without(server, "info")})["warnings"]
    warned = any("does not report its master_replid (INFO)" in warning for warning in warnings)
    assert warned is bool(save)


def test_sentinels_that_do_not_answer_are_named_by_their_address():
    url = "redis+sentinel://localhost:1,localhost:2/mymaster/0"
    [problem] = doctor(**{URL: url})["problems"]
    for address in ("localhost:1", "localhost:2"):
        assert f"{address} - " in problem
    assert "object at" not in problem
    assert "Connection(" not in problem


def test_a_server_without_memory_is_a_problem(own_redis):
    server = own_redis(maxmemory="100kb", maxmemory_policy="noeviction")
    [problem] = doctor(**{URL: server.url})["problems"]
    assert "SET (OutOfMemoryError (OOM))" in problem
    assert problem.endswith("raise maxmemory, or set maxmemory-policy volatile-ttl")


def test_a_replica_is_a_problem(own_redis):
    primary = own_redis()
    replica = own_redis(replicaof=(primary.host, primary.port))
    problems = doctor(**{URL: replica.url})["problems"]
    assert any("is a replica" in problem for problem in problems)


def test_missing_permissions_of_a_user_are_a_problem(own_redis):
    server = own_redis()
    url = url_without(server, "eval", "scan", "info")
    found = doctor("--redis-url", url)
    assert "EVAL (NoPermissionError" in found["problems"][0]
    assert "SCAN (NoPermissionError" in found["problems"][0]
    assert any("does not answer INFO" in warning for warning in found["warnings"])
    [examined] = found["redis"]["servers"]
    assert not examined["runs_scripts"]
    assert examined["version"] is None
    output = sark_cache("doctor", **{URL: url}).out
    assert f"  {examined['address']}  version unknown; answers in " in output
    assert "; runs no scripts\n" in output


# Rollouts and backends


@pytest.fixture
def far_away(fresh_redis):
    """The URL of a server whose replies take a tenth of a second to arrive."""

    with relayed(fresh_redis, lambda _size: 0.1) as url:
        yield url


def test_a_server_that_is_far_away_is_waited_for(fresh_redis, far_away):
    fresh_redis.command("SET", "feature_flag:rust_cache", "1")
    found = doctor("--user", "alice", **{URL: far_away})
    assert found["redis"]["round_trip_ms"] >= 100
    assert found["redis"]["in_time"]
    assert found["backend"]["backend"] == "redis"
    assert "1 %" in found["backend"]["reason"]


def test_rollouts_are_read_from_redis_or_else_from_the_settings(fresh_redis):
    fresh_redis.command("SET", "feature_flag:rust_opa", "30")
    found = doctor(SARK_CACHE_RUST_CACHE_ROLLOUT_PCT="5", **{URL: fresh_redis.url})
    assert found["rollouts"] == {
        "rust_opa": {"percentage": 30, "source": "redis", "problem": None},
        "rust_cache": {"percentage": 5, "source": "settings", "problem": None},
    }


def test_a_rollout_that_is_not_a_percentage_is_a_problem(fresh_redis):
    fresh_redis.command("LPUSH", "feature_flag:rust_opa", "30")
    fresh_redis.command("SET", "feature_flag:rust_cache", "many")
    found = doctor(**{URL: fresh_redis.url})
    assert len(found["problems"]) == 2
    assert found["rollouts"]["rust_cache"]["percentage"] == 100  # as if it had never been set


BACKENDS = [
    ("100", {}, "tiered", "the user is among the 100 % of users in the rollout"),
    ("0", {}, "redis", "the user is not among the 0 % of users in the rollout"),
    ("100", {"SARK_CACHE_USE_RUST_CACHE": "no"}, "redis", "switched off"),
]


@pytest.mark.parametrize(("percentage", "variables", "backend", "reason"), BACKENDS)
def test_it_shows_the_backend_of_a_user_and_the_reason(
    fresh_redis, percentage, variables, backend, reason
):
    fresh_redis.command("SET", "feature_flag:rust_cache", percentage)
    found = doctor("--user", "alice", **variables, **{URL: fresh_redis.url})["backend"]
    assert (found["user"], found["backend"]) == ("alice", backend)
    assert reason in found["reason"]


def test_without_redis_users_outside_the_rollout_have_no_cache():
    output = sark_cache("doctor", "--user", "alice", SARK_CACHE_RUST_CACHE_ROLLOUT_PCT="0").out
    assert (
        "Backend for alice\n  none  the user is not among the 0 % of users in the rollout; no Redis"
        in output
    )


def test_an_empty_user_is_a_usage_error():
    ended = in_process("doctor", "--user", "")
    assert (ended.code, ended.out) == (2, "")
