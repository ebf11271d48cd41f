"""`sark-cache flags` shows and changes rollouts for every process."""

import time

import pytest
import redis

from commands import URL, in_process, sark_cache, url_without
from sark_cache.rollout.manager import MOST_NAME_BYTES, FeatureFlagManager

KEY = "feature_flag:rust_cache"


def flags(server, *arguments, code=0):
    """Returns the JSON output of a command for a server's flags."""
    ended = sark_cache("flags", *arguments, "--json", **{URL: server.url})
    assert ended.code == code, ended.err
    assert bool(ended.err) is (code != 0)
    assert ended.document["ok"] is (code == 0)
    return ended.document


# Reading


def test_each_feature_has_a_percentage_and_its_source(fresh_redis):
    fresh_redis.command("SET", KEY, "25")
    fresh_redis.command("SET", "feature_flag:new", "7\n")
    assert flags(fresh_redis, "get") == {
        "ok": True,
        "redis": fresh_redis.url,
        "features": {
            "new": {"percentage": 7, "source": "redis", "problem": None},
            "rust_cache": {"percentage": 25, "source": "redis", "problem": None},
            "rust_opa": {"percentage": 0, "source": "default", "problem": None},
        },
    }


def test_flags_are_shown_as_readable_text(fresh_redis):
    fresh_redis.command("SET", KEY, "25")
    ended = sark_cache(
        "flags", "get", SARK_CACHE_RUST_OPA_ROLLOUT_PCT="3", **{URL: fresh_redis.url}
    )
    assert ended.err == ""
    assert ended.out.splitlines() == [
        f"Rollouts in Redis at {fresh_redis.url}",
        "  rust_cache  25 % of users (set in Redis)",
        "  rust_opa    3 % of users (from the settings, until one is set)",
    ]


def test_a_feature_that_was_never_set_applies_to_all_users(fresh_redis):
    output = sark_cache("flags", "get", "rust_cache", **{URL: fresh_redis.url}).out
    assert output.splitlines()[1:] == ["  rust_cache  never set: all users get the feature"]


def test_a_feature_is_shown_even_if_it_was_never_set(fresh_redis):
    assert list(flags(fresh_redis, "get", "rust_cache")["features"]) == ["rust_cache"]
    [unheard_of] = flags(fresh_redis, "get", "unheard of")["features"].values()
    assert (unheard_of["percentage"], unheard_of["source"]) == (0, "default")


def test_an_unknown_feature_is_shown_with_a_warning(fresh_redis):
    ended = sark_cache("flags", "get", "rust_cach", **{URL: fresh_redis.url})
    assert ended.code == 0
    assert ended.err.strip() == (
        "warning: no feature is called rust_cach. Did you mean rust_cache? "
        "There are: rust_cache, rust_opa."
    )
    fresh_redis.command("SET", "feature_flag:rust_cach", "5")
    for feature in ("rust_cach", "rust_cache", "rust_opa"):
        assert sark_cache("flags", "get", feature, **{URL: fresh_redis.url}).err == ""


def test_all_features_are_listed(fresh_redis):
    fresh_redis.command("SET", "feature_flag:new", "7")
    assert flags(fresh_redis, "list") == flags(fresh_redis, "get")
    output = sark_cache("flags", "list", **{URL: fresh_redis.url})
    assert [line.split()[0] for line in output.out.splitlines()[1:]] == [
        *("new", "rust_cache", "rust_opa")
    ]


def test_a_value_that_is_not_a_percentage_exits_with_1(fresh_redis):
    fresh_redis.command("SET", KEY, "101")
    fresh_redis.command("LPUSH", "feature_flag:rust_opa", "5")
    features = flags(fresh_redis, "get", code=1)["features"]
    assert "does not hold an integer from 0 to 100" in features["rust_cache"]["problem"]
    assert "does not hold an integer from 0 to 100" in features["rust_opa"]["problem"]
    for command in (["flags", "get"], ["doctor"]):
        ended = sark_cache(*command, **{URL: fresh_redis.url})
        assert "Set it again with sark-cache flags set" in ended.out + ended.err


def test_control_characters_in_names_are_escaped(fresh_redis):
    fresh_redis.command("SET", "feature_flag:\x1b[31mred", "5")
    fresh_redis.command("SET", "feature_flag:[red]é[/]", "5")
    fresh_redis.command("SET", b"feature_flag:\xff", "5")
    output = sark_cache("flags", "get", **{URL: fresh_redis.url}).out
    assert "\x1b" not in output
    assert "  [red]é[/]   5 % of users" in output
    assert len(output.splitlines()) == 4


# Changing


def test_a_new_percentage_is_seen_by_a_running_process(fresh_redis):
    client = redis.Redis.from_url(fresh_redis.url)
    running = FeatureFlagManager(client)
    assert running.get_rollout_pct("rust_cache") == 0
    moved = flags(fresh_redis, "set", "rust_cache", "25")
    assert moved["features"] == {"rust_cache": {"before": None, "percentage": 25}}
    assert fresh_redis.command("GET", KEY) == "25"
    give_up = time.monotonic() + 10
    while running.get_rollout_pct("rust_cache") != 25 and time.monotonic() < give_up:
        time.sleep(0.01)
    assert running.get_rollout_pct("rust_cache") == 25
    running.close()
    client.close()


def test_a_change_is_shown_as_readable_text(fresh_redis):
    fresh_redis.command("SET", KEY, "10")
    ended = sark_cache("flags", "set", "rust_cache", "25", "--redis-url", fresh_redis.url)
    assert ended.out.splitlines() == [
        f"Set in Redis at {fresh_redis.url}; processes see it within a second",
        "  rust_cache  25 % of users, before that 10 %",
    ]


def test_one_feature_is_rolled_back(fresh_redis):
    fresh_redis.command("SET", KEY, "25")
    fresh_redis.command("SET", "feature_flag:rust_opa", "30")
    assert flags(fresh_redis, "rollback", "rust_cache")["features"] == {
        "rust_cache": {"before": 25, "percentage": 0}
    }
    assert fresh_redis.command("MGET", KEY, "feature_flag:rust_opa") == ["0", "30"]


def test_every_feature_is_rolled_back_including_those_set_elsewhere(fresh_redis):
    fresh_redis.command("SET", KEY, "25")
    fresh_redis.command("SET", "feature_flag:new", "7")
    fresh_redis.command("LPUSH", "feature_flag:rust_opa", "5")
    assert list(flags(fresh_redis, "rollback", "--all")["features"]) == [
        *("new", "rust_cache", "rust_opa")
    ]
    assert (
        fresh_redis.command("MGET", KEY, "feature_flag:new", "feature_flag:rust_opa") == ["0"] * 3
    )


# Known features


def test_a_name_that_no_process_reads_cannot_be_set_but_can_be_removed(fresh_redis):
    name = "x" * (MOST_NAME_BYTES + 1)
    ended = sark_cache("flags", "set", name, "5", "--force", **{URL: fresh_redis.url})
    assert ended.code == 2
    assert "128 bytes" in ended.err
    assert fresh_redis.command("KEYS", "*") == []
    fresh_redis.command("SET", f"feature_flag:{name}", "5")
    assert flags(fresh_redis, "remove", name)["features"][name]["removed"] is True


@pytest.mark.parametrize("command", [["set", "{}", "5"], ["rollback", "{}"], ["remove", "{}"]])
@pytest.mark.parametrize("name", ["rust_cahce", "RUST-CACHE"])
def test_a_misspelt_name_is_refused_with_a_suggestion(fresh_redis, command, name):
    ended = sark_cache(
        *("flags", *(word.format(name) for word in command), "--json"), **{URL: fresh_redis.url}
    )
    assert ended.code == ended.document["exit_code"] == 2
    assert f"no feature is called {name}. Did you mean rust_cache?" in ended.err
    assert ended.document["did_you_mean"] == "rust_cache"
    assert fresh_redis.command("KEYS", "*") == []


def test_an_unknown_name_is_refused_with_a_list_of_features(fresh_redis):
    many = [f"feature-{number:02}" for number in range(20)]
    for name in many:
        fresh_redis.command("SET", f"feature_flag:{name}", "5")
    ended = sark_cache("flags", "set", "xyz", "5", **{URL: fresh_redis.url})
    assert (ended.code, ended.out) == (2, "")
    assert f"There are: {', '.join(many[:10])}, ..." in ended.err
    assert "Did you mean" not in ended.err
    assert "--force" in ended.err


def test_a_new_feature_is_set_with_force_and_known_afterwards(fresh_redis):
    assert flags(fresh_redis, "set", "new", "5", "--force")["features"] == {
        "new": {"before": 0, "percentage": 5}
    }
    assert flags(fresh_redis, "set", "new", "10")["features"]["new"]["before"] == 5
    assert flags(fresh_redis, "rollback", "new")["features"]["new"]["before"] == 10
    flags(fresh_redis, "rollback", "newer", "--force")
    assert fresh_redis.command("MGET", "feature_flag:new", "feature_flag:newer") == ["0", "0"]


def test_a_feature_whose_value_is_not_a_percentage_is_known(fresh_redis):
    fresh_redis.command("SET", "feature_flag:new", "many")
    flags(fresh_redis, "set", "new", "5")
    assert fresh_redis.command("GET", "feature_flag:new") == "5"


def test_a_feature_is_removed(fresh_redis):
    fresh_redis.command("SET", "feature_flag:new", "25")
    fresh_redis.command("SET", KEY, "25")
    removed = flags(fresh_redis, "remove", "new")["features"]["new"]
    assert removed == {"removed": True, "percentage": 0, "source": "default", "problem": None}
    assert "new" not in flags(fresh_redis, "list")["features"]
    output = sark_cache(
        *("flags", "remove", "rust_cache"),
        **{URL: fresh_redis.url, "SARK_CACHE_RUST_CACHE_ROLLOUT_PCT": "3"},
    )
    assert output.out.splitlines() == [
        f"Removed from Redis at {fresh_redis.url}",
        (
            "  rust_cache  removed; in a process that starts now: 3 % of users "
            "(from the settings, until one is set)"
        ),
    ]
    assert not flags(fresh_redis, "remove", "rust_cache")["features"]["rust_cache"]["removed"]
    assert fresh_redis.command("KEYS", "*") == []


@pytest.mark.parametrize("servers", ["fresh_cluster", "fresh_sentinels"])
def test_a_cluster_and_sentinels_are_accepted(request, servers):
    server = request.getfixturevalue(servers)
    flags(server, "set", "new", "1", "--force")
    flags(server, "remove", "new")
    flags(server, "set", "rust_cache", "25")
    flags(server, "set", "rust_opa", "30")
    found = flags(server, "get")["features"]
    assert [found[name]["percentage"] for name in ("rust_cache", "rust_opa")] == [25, 30]


WRONG = [
    ["set", "rust_cache", "101"],
    ["set", "rust_cache", "-1"],
    ["set", "rust_cache", "some"],
    ["set", "rust_cache"],
    ["set", "", "5"],
    ["set", "two\nlines", "5"],
    ["get", ""],
    ["rollback"],
    ["rollback", "rust_cache", "--all"],
    ["rollback", ""],
    ["remove"],
    ["remove", ""],
]


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_usage_sets_nothing(fresh_redis, arguments):
    ended = in_process("flags", *arguments, **{URL: fresh_redis.url})
    assert (ended.code, ended.out) == (2, "")
    assert fresh_redis.command("KEYS", "*") == []


# Failures


def test_without_redis_it_exits_with_4():
    for arguments in (["list"], ["get"], ["set", "rust_cache", "5"], ["rollback", "--all"]):
        ended = sark_cache("flags", *arguments)
        assert (ended.code, ended.out) == (4, "")
        assert "no Redis is configured: set SARK_CACHE_REDIS_URL" in ended.err


def test_wrong_settings_exit_with_4_and_are_named():
    ended = sark_cache("flags", "get", "--json", SARK_CACHE_CACHE_TTL="soon")
    assert ended.code == ended.document["exit_code"] == 4
    assert "SARK_CACHE_CACHE_TTL='soon'" in ended.document["error"]
    assert "SARK_CACHE_CACHE_TTL='soon'" in ended.err


def test_an_unknown_variable_gives_a_warning(fresh_redis):
    ended = sark_cache("flags", "get", SARK_CACHE_COLOUR="red", **{URL: fresh_redis.url})
    assert ended.code == 0
    assert ended.err.startswith("warning: SARK_CACHE_COLOUR is not a setting")


def test_the_option_takes_precedence_over_the_variable(fresh_redis):
    url = {URL: "http://wrong", URL.lower(): "http://wrong"}
    ended = sark_cache("flags", "get", "--redis-url", fresh_redis.url, **url)
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize("url", ["http://:s3cret@localhost", "redis://:1/s3cret@localhost", ""])
def test_an_option_that_is_not_a_url_is_a_usage_error_and_not_shown(url):
    ended = in_process("flags", "get", "--redis-url", url)
    assert (ended.code, ended.out) == (2, "")
    unwrapped = " ".join(ended.err.replace("│", " ").split())
    assert "Invalid value for --redis-url: url must " in unwrapped
    assert "It must be a URL: redis://" in unwrapped
    assert "s3cret" not in ended.err


def test_a_server_that_cannot_be_reached_exits_with_3(own_redis):
    server = own_redis(requirepass="s3cret")
    for url in (server.url.replace("s3cret", "wr0ng"), server.url):
        ended = sark_cache("flags", "set", "rust_cache", "5", "--json", **{URL: url})
        assert ended.code == ended.document["exit_code"] == 3
        assert "cannot be reached" in ended.document["error"]
        assert ended.document["error"] in ended.err
        assert "s3cret" not in ended.out + ended.err
        assert "wr0ng" not in ended.out + ended.err
        server.kill()


def test_a_change_that_the_server_refuses_exits_with_1(own_redis):
    primary = own_redis()
    replica = own_redis(replicaof=(primary.host, primary.port))
    error = flags(replica, "set", "rust_cache", "5", code=1)["error"]
    assert "did not confirm setting rust_cache to 5 % (ReadOnlyError" in error


def test_a_value_that_the_server_does_not_show_exits_with_1(own_redis):
    server = own_redis()
    url = url_without(server, "get", "scan")
    for arguments in (["get"], ["get", "rust_cache"]):
        ended = sark_cache("flags", *arguments, **{URL: url})
        assert (ended.code, ended.out) == (1, "")
        assert "NoPermissionError" in ended.err


def test_setting_a_feature_needs_force_if_the_server_does_not_show_known_ones(own_redis):
    server = own_redis()
    url = url_without(server, "get", "scan")
    ended = sark_cache("flags", "set", "new", "5", **{URL: url})
    assert (ended.code, ended.out) == (1, "")
    assert "Redis does not say whether new was ever set: NoPermissionError" in ended.err
    assert "--force sets it anyway" in ended.err
    assert sark_cache("flags", "set", "new", "5", "--force", **{URL: url}).code == 0
    assert server.command("GET", "feature_flag:new") == "5"
    url = url_without(server, "scan")
    ended = sark_cache("flags", "set", "rust-cache", "5", **{URL: url})
    assert ended.code == 2
    assert "Did you mean rust_cache?" in ended.err
    url = url_without(server, "del")
    ended = sark_cache("flags", "remove", "new", **{URL: url})
    assert ended.code == 1
    assert "NoPermissionError" in ended.err


def test_a_rollback_changes_all_features_it_can(own_redis):
    server = own_redis()
    server.command("SET", KEY, "25")
    url = url_without(server, "get", "scan")
    ended = sark_cache("flags", "rollback", "--all", **{URL: url})
    assert ended.code == 1
    assert "features other than rust_opa, rust_cache cannot be listed" in ended.err
    assert server.command("GET", KEY) == "0"
    ended = sark_cache("flags", "rollback", "rust_opa", **{URL: url})
    assert ended.code == 0
    assert "rust_opa  0 % of users, before that ? %" in ended.out
