"""Settings are read from the environment; wrong ones are refused at the start."""

import logging

import pytest
from pydantic import SecretStr, ValidationError

from interpreters import run
from sark_cache._core.arguments import DEFAULT_MAX_STALENESS
from sark_cache.errors import SarkCacheError, SettingsError
from sark_cache.settings import SETTINGS, CacheSettings, Takes, variables_of

DEFAULTS = {
    "use_rust_cache": True,
    "enabled": True,
    "cache_max_size": 10_000,
    "cache_max_bytes": None,
    "cache_eviction": "lru",
    "cache_ttl": 300,
    "use_optimized_ttl": True,
    "stale_while_revalidate": True,
    "redis_url": None,
    "redis_connect_timeout": 0.05,
    "redis_command_timeout": 0.25,
    "namespace": "",
    "redis_replicas": None,
    "max_staleness": DEFAULT_MAX_STALENESS,
    "settle": True,
    "trust_server": False,
    "cleanup_enabled": True,
    "cleanup_interval": 60,
    "tiered": None,
    "rust_cache_rollout_pct": None,
    "rust_opa_rollout_pct": 0,
    "log_user_ids": False,
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Removes all settings from the environment; returns a function that sets some."""
    for setting in DEFAULTS:
        for variable in variables_of(setting):
            monkeypatch.delenv(variable, raising=False)

    def put(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


# Reading


def test_without_variables_settings_are_the_defaults():
    assert CacheSettings.from_environment().model_dump() == DEFAULTS


def test_every_setting_has_a_description_and_its_allowed_values():
    assert SETTINGS.keys() == DEFAULTS.keys()
    for setting in SETTINGS.values():
        assert setting.description
        assert len([each for each in setting.metadata if isinstance(each, Takes)]) == 1


@pytest.mark.parametrize(
    ("variable", "value", "setting", "read"),
    [
        ("SARK_CACHE_USE_RUST_CACHE", "false", "use_rust_cache", False),
        ("SARK_CACHE_ENABLED", "0", "enabled", False),
        ("SARK_CACHE_CACHE_MAX_SIZE", "1", "cache_max_size", 1),
        ("SARK_CACHE_CACHE_MAX_BYTES", "1000000", "cache_max_bytes", 1_000_000),
        ("SARK_CACHE_CACHE_EVICTION", "tiny_lfu", "cache_eviction", "tiny_lfu"),
        ("SARK_CACHE_CACHE_TTL", "0.5", "cache_ttl", 0.5),
        ("SARK_CACHE_USE_OPTIMIZED_TTL", "no", "use_optimized_ttl", False),
        ("SARK_CACHE_STALE_WHILE_REVALIDATE", "off", "stale_while_revalidate", False),
        ("SARK_CACHE_REDIS_CONNECT_TIMEOUT", "1", "redis_connect_timeout", 1),
        ("SARK_CACHE_REDIS_COMMAND_TIMEOUT", "2.5", "redis_command_timeout", 2.5),
        ("SARK_CACHE_REDIS_REPLICAS", "2", "redis_replicas", 2),
        ("SARK_CACHE_MAX_STALENESS", "0.25", "max_staleness", 0.25),
        ("SARK_CACHE_SETTLE", "false", "settle", False),
        ("SARK_CACHE_NAMESPACE", "shop.eu:", "namespace", "shop.eu:"),
        ("SARK_CACHE_CLEANUP_ENABLED", "False", "cleanup_enabled", False),
        ("SARK_CACHE_CLEANUP_INTERVAL", "10", "cleanup_interval", 10),
        ("SARK_CACHE_RUST_CACHE_ROLLOUT_PCT", "25", "rust_cache_rollout_pct", 25),
        ("SARK_CACHE_RUST_OPA_ROLLOUT_PCT", "100", "rust_opa_rollout_pct", 100),
        ("SARK_CACHE_LOG_USER_IDS", "true", "log_user_ids", True),
        ("sark_cache_cache_ttl", "60", "cache_ttl", 60),
    ],
)
def test_each_setting_is_read_from_its_variable(environment, variable, value, setting, read):
    environment(**{variable: value})
    settings = CacheSettings.from_environment()
    assert settings.model_dump() == {**DEFAULTS, setting: read}
    assert variable.upper() in variables_of(setting)


@pytest.mark.parametrize(
    ("variables", "used"),
    [
        ({"RUST_ENABLED": "false"}, False),
        ({"RUST_ENABLED": "true"}, True),
        ({"RUST_ENABLED": "true", "SARK_CACHE_USE_RUST_CACHE": "false"}, False),
        ({"RUST_ENABLED": "false", "SARK_CACHE_USE_RUST_CACHE": "true"}, True),
        ({"RUST_ENABLED": "false", "SARK_CACHE_USE_RUST_CACHE": ""}, False),
        ({"USE_RUST_CACHE": "false", "ENABLED": "false"}, True),
    ],
)
def test_the_variable_of_sark_is_read_and_the_prefixed_one_takes_precedence(
    environment, variables, used
):
    environment(**variables)
    settings = CacheSettings.from_environment()
    assert settings.use_rust_cache is used
    assert settings.enabled


def test_an_empty_variable_counts_as_unset(environment):
    environment(SARK_CACHE_REDIS_URL="", SARK_CACHE_CACHE_MAX_SIZE="")
    assert CacheSettings.from_environment().model_dump() == DEFAULTS


def test_an_argument_takes_precedence_over_its_variable(environment):
    environment(SARK_CACHE_CACHE_TTL="60", RUST_ENABLED="true")
    settings = CacheSettings(cache_ttl=5, use_rust_cache=False, cache_max_bytes=None)
    assert (settings.cache_ttl, settings.use_rust_cache) == (5, False)


def test_settings_are_immutable():
    with pytest.raises(ValidationError, match="frozen"):
        CacheSettings().cache_ttl = 5


# Redis


URLS = [
    "redis://localhost:6379/0",
    "redis://user:secret@localhost:6379/0",
    "rediss://:secret@cache.example.org",
    "unix:///run/redis.sock?db=1",
    "redis+sentinel://one:26379,two:26379/mymaster/0",
    "rediss+sentinel://:secret@one/mymaster",
    "redis+cluster://one:6379,two:6379",
    "rediss+cluster://one",
    "valkey://localhost",
    "valkeys://localhost",
    "valkey+sentinel://one/mymaster",
    "valkeys+sentinel://one/mymaster",
    "valkey+cluster://one",
    "valkeys+cluster://one",
]


@pytest.mark.parametrize("url", URLS)
def test_every_kind_of_server_is_accepted(environment, url):
    environment(SARK_CACHE_REDIS_URL=url)
    settings = CacheSettings.from_environment()
    assert settings.redis_url == SecretStr(url)
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert url not in shown
        assert "secret" not in shown


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://user:secret@localhost:6379/0?password=secret", "redis://localhost:6379/0"),
        ("unix://:secret@/run/a@b.sock?db=1", "unix:///run/a@b.sock"),
        ("redis+sentinel://:secret@one,two:1/mymaster", "redis+sentinel://one,two:1/mymaster"),
        ("redis://:sec%40ret@[::1]:6379", "redis://[::1]:6379"),
        (None, None),
    ],
)
def test_the_address_is_shown_without_credentials(url, address):
    assert CacheSettings(redis_url=url).redis_address == address


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://:secret@localhost",
        "redis+sentinel://:secret@one",
        "redis://:secret@localhost:99999",
        "redis://user:123/secret@localhost",
        "redis://:secret\N{ACCOUNT OF}@localhost",
        "secret:secret@localhost",
        "postgresql+sentinel://secret",
    ],
)
def test_a_url_that_is_not_a_server_is_refused_and_not_shown(environment, url):
    environment(SARK_CACHE_REDIS_URL=url)
    with pytest.raises(
        SettingsError, match=r"SARK_CACHE_REDIS_URL is wrong: url .*\. It must be a URL: redis://"
    ) as refused:
        CacheSettings.from_environment()
    with pytest.raises(ValidationError) as invalid:
        CacheSettings(redis_url=url)
    for error in (refused.value, invalid.value):
        assert "secret" not in str(error)
        assert error.__cause__ is None
        assert error.__suppress_context__ or error.__context__ is None


# Errors


@pytest.mark.parametrize(
    ("variable", "value", "takes"),
    [
        ("SARK_CACHE_USE_RUST_CACHE", "maybe", "true or false"),
        ("RUST_ENABLED", "maybe", "true or false"),
        ("SARK_CACHE_CACHE_MAX_SIZE", "0", "an integer from 1 to 2**62"),
        ("SARK_CACHE_CACHE_MAX_SIZE", str(2**62 + 1), "an integer from 1 to 2**62"),
        ("SARK_CACHE_CACHE_MAX_SIZE", "ten", "an integer from 1 to 2**62"),
        ("SARK_CACHE_CACHE_MAX_BYTES", "1023", "an integer from 1024 to 2**62"),
        ("SARK_CACHE_CACHE_MAX_BYTES", str(2**62 + 1), "an integer from 1024 to 2**62"),
        ("SARK_CACHE_REDIS_REPLICAS", "1001", "an integer from 0 to 1000"),
        ("SARK_CACHE_MAX_STALENESS", "0.04", "a number of seconds from 0.05 to 60"),
        ("SARK_CACHE_MAX_STALENESS", "inf", "a number of seconds from 0.05 to 60"),
        ("SARK_CACHE_CACHE_EVICTION", "fifo", "lru or tiny_lfu"),
        ("SARK_CACHE_CACHE_TTL", "0", "a number of seconds, more than 0 and finite"),
        ("SARK_CACHE_CACHE_TTL", "nan", "a number of seconds, more than 0 and finite"),
        ("SARK_CACHE_CACHE_TTL", "5m", "a number of seconds, more than 0 and finite"),
        ("SARK_CACHE_REDIS_CONNECT_TIMEOUT", "-1", "a number of seconds, more than 0 and finite"),
        ("SARK_CACHE_REDIS_COMMAND_TIMEOUT", "inf", "a number of seconds, more than 0 and finite"),
        ("SARK_CACHE_NAMESPACE", "{shop}", "at most 64 letters, digits and characters of ._:/-"),
        ("SARK_CACHE_CLEANUP_INTERVAL", "0", "a number of seconds, more than 0 and finite"),
        ("SARK_CACHE_RUST_CACHE_ROLLOUT_PCT", "101", "an integer from 0 to 100"),
        ("SARK_CACHE_RUST_OPA_ROLLOUT_PCT", "-1", "an integer from 0 to 100"),
        ("SARK_CACHE_LOG_USER_IDS", "2", "true or false"),
    ],
)
def test_a_wrong_value_is_refused_with_its_variable_and_the_allowed_values(
    environment, variable, value, takes
):
    environment(**{variable: value})
    with pytest.raises(SettingsError) as refused:
        CacheSettings.from_environment()
    assert str(refused.value).splitlines() == [
        "wrong settings in the environment:",
        f"  {variable}={value!r} must be {takes}",
    ]


def test_all_wrong_values_are_reported_at_once(environment):
    environment(
        SARK_CACHE_CACHE_TTL="x" * 1000,
        SARK_CACHE_CACHE_MAX_SIZE="0",
        SARK_CACHE_REDIS_URL="secret",
        SARK_CACHE_CACHE_TTLL="60",
    )
    with pytest.raises(SettingsError) as refused:
        CacheSettings.from_environment()
    _, *lines = str(refused.value).splitlines()
    assert [line.split("=")[0].split()[0] for line in lines] == [
        "SARK_CACHE_CACHE_MAX_SIZE",
        "SARK_CACHE_CACHE_TTL",
        "SARK_CACHE_REDIS_URL",
        "SARK_CACHE_CACHE_TTLL",
    ]
    assert len(lines[1]) < 150
    assert isinstance(refused.value, SarkCacheError)
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("SARK_CACHE_REDIS_ULR", "SARK_CACHE_REDIS_URL"),
        ("SARK_CACHE_CACHE_MAXSIZE", "SARK_CACHE_CACHE_MAX_SIZE"),
        ("SARK_CACHE_MAX_SIZE", "SARK_CACHE_CACHE_MAX_SIZE"),
        ("SARK_CACHE_TTL", "SARK_CACHE_CACHE_TTL"),
        ("sark_cache_ttl", "SARK_CACHE_CACHE_TTL"),
        ("SARK_CACHE_URL", "SARK_CACHE_REDIS_URL"),
        ("SARK_CACHE_RUST_CACHE_ROLLOUT", "SARK_CACHE_RUST_CACHE_ROLLOUT_PCT"),
        ("SARK_CACHE_LOG_USERIDS", "SARK_CACHE_LOG_USER_IDS"),
    ],
)
def test_a_misspelt_variable_is_refused_with_a_suggestion(environment, variable, meant):
    environment(**{variable: "60"})
    with pytest.raises(
        SettingsError, match=rf"{variable.upper()} is not a setting: did you mean {meant}\?"
    ):
        CacheSettings.from_environment()


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("SARK_CACHE_REDIS_PORT", "SARK_CACHE_REDIS_URL"),
        ("SARK_CACHE_SIGNING_KEY", "SARK_CACHE_"),
        ("SARK_CACHE_", "SARK_CACHE_"),
    ],
)
def test_a_variable_of_something_else_is_logged_and_ignored(environment, caplog, variable, nearest):
    environment(**{variable: "secret"})
    assert CacheSettings.from_environment().model_dump() == DEFAULTS
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{variable} is not a setting of sark-cache" in record.message
    assert f"the nearest one is {nearest}" in record.message
    assert "secret" not in caplog.text


def test_variables_that_kubernetes_sets_for_services_are_ignored(environment, caplog):
    environment(
        SARK_CACHE_SERVICE_HOST="10.0.0.1",
        SARK_CACHE_SERVICE_PORT="80",
        SARK_CACHE_SERVICE_PORT_HTTP="80",
        SARK_CACHE_PORT="tcp://10.0.0.1:80",
        SARK_CACHE_PORT_80_TCP="tcp://10.0.0.1:80",
        SARK_CACHE_PORT_80_TCP_PROTO="tcp",
        SARK_CACHE_PORT_80_TCP_PORT="80",
        SARK_CACHE_PORT_80_TCP_ADDR="10.0.0.1",
        SARK_CACHE_REDIS_SERVICE_HOST="10.0.0.2",
        SARK_CACHE_REDIS_PORT="tcp://10.0.0.2:6379",
        SARK_CACHE_REDIS_PORT_6379_TCP_ADDR="10.0.0.2",
    )
    assert CacheSettings.from_environment().model_dump() == DEFAULTS
    assert caplog.records == []


def test_nothing_else_of_the_package_imports_pydantic():
    assert run(
        """
        import sys
        import sark_cache
        import sark_cache.rollout.manager, sark_cache.cleanup
        print([name for name in sys.modules if name.startswith("pydantic")])
        sark_cache.CacheSettings
        print("pydantic_settings" in sys.modules)
        """
    ) == ["[]", "True"]
