"""The backend that serves a user, for every combination of availability, settings and flags."""

import asyncio
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sark_cache
from sark_cache import (
    FeatureFlagManager,
    NullPolicyCache,
    SettingsError,
    create_policy_cache,
)
from sark_cache.selection.selector import use_settings
from sark_cache.settings import CacheSettings

CHOOSE = """
import json, logging, os, sys
from sark_cache import create_policy_cache, is_rust_cache_available
logged = []
class Handler(logging.Handler):
    def emit(self, record):
        logged.append((record.levelname, record.getMessage()))
logging.getLogger("sark_cache").addHandler(Handler())
logging.getLogger("sark_cache").setLevel(logging.INFO)
cache = create_policy_cache("alice")
print(json.dumps([cache.backend, is_rust_cache_available(), logged]))
"""
NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture(scope="session")
def without_compiled_module(tmp_path_factory):
    """A copy of the package without the compiled module, as on platforms without a wheel."""
    folder = tmp_path_factory.mktemp("pure")
    compiled = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(Path(sark_cache.__file__).parent, folder / "sark_cache", ignore=compiled)
    return folder


def chosen_by(settings, path=None):
    """Runs a process that selects a backend for alice; returns it, its availability and the log."""
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith("SARK_CACHE_")
    }
    if path is not None:
        variables["PYTHONPATH"] = str(path)
    run = subprocess.run(
        [sys.executable, "-P", "-c", CHOOSE],
        env=variables | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == ""
    return json.loads(run.stdout)


@pytest.mark.parametrize(
    ("available", "enabled", "rollout", "redis"),
    list(
        itertools.product(
            [True, False], [True, False], [None, "100", "0"], ["up", "down", "not set"]
        )
    ),
)
def test_every_combination_has_its_backend(
    fresh_redis, without_compiled_module, available, enabled, rollout, redis
):
    settings = {"SARK_CACHE_USE_RUST_CACHE": str(enabled)}
    if rollout is not None:
        settings["SARK_CACHE_RUST_CACHE_ROLLOUT_PCT"] = rollout
    if redis != "not set":
        settings["SARK_CACHE_REDIS_URL"] = fresh_redis.url if redis == "up" else NOBODY
    path = None if available else without_compiled_module
    backend, was_available, logged = chosen_by(settings, path)
    native = available and enabled and rollout != "0"
    assert was_available is available
    own = "native" if redis == "not set" else "tiered"
    assert backend == (own if native else "redis" if redis == "up" else "none")
    [message] = [text for level, text in logged if text.startswith("policy cache: ")]
    assert message.startswith(f"policy cache: {backend}: ")
    assert "alice" not in str(logged)
    if rollout is None and available and enabled:
        assert "no rollout was ever set" in message
    elif not native:
        why = (
            "switched off" if not enabled else "compiled" if not available else "not among the 0 %"
        )
        assert why in message
    if backend == "none":
        assert ("cannot be reached" if redis == "down" else "no Redis is configured") in message
    caches_nothing = redis == "not set" and not native
    warnings = [text for level, text in logged if level == "WARNING" and "sark-cache" in text]
    assert len(warnings) == caches_nothing
    assert all("nothing is cached" in text for text in warnings)


@pytest.mark.parametrize("percentage", [0, 100])
def test_a_percentage_in_redis_takes_precedence(fresh_redis, percentage):
    fresh_redis.command("SET", "feature_flag:rust_cache", str(percentage))
    backend, _, _ = chosen_by({"SARK_CACHE_REDIS_URL": fresh_redis.url})
    assert backend == ("tiered" if percentage else "redis")


def test_disabled_caches_give_a_warning(fresh_redis):
    off = {"SARK_CACHE_ENABLED": "false", "SARK_CACHE_REDIS_URL": fresh_redis.url}
    _, _, logged = chosen_by(off)
    [warning] = [text for level, text in logged if level == "WARNING"]
    assert "nothing is cached" in warning
    assert "SARK_CACHE_ENABLED" in warning


SEVERAL = {"WEB_CONCURRENCY": "4"}


def test_native_caches_of_several_workers_warn_once(fresh_redis):
    backend, _, logged = chosen_by(SEVERAL)
    assert backend == "native"
    [warning] = [text for level, text in logged if level == "WARNING"]
    assert "WEB_CONCURRENCY=4" in warning
    assert "SARK_CACHE_REDIS_URL" in warning
    with_redis = {"SARK_CACHE_REDIS_URL": fresh_redis.url}
    for is_fine in (with_redis, {"SARK_CACHE_TIERED": "false"}, {"WEB_CONCURRENCY": "1"}):
        _, _, logged = chosen_by(SEVERAL | is_fine)
        assert not [text for level, text in logged if level == "WARNING"]


def test_native_caches_share_no_revocations_if_that_is_switched_off(fresh_redis):
    apart = {"SARK_CACHE_TIERED": "false", "SARK_CACHE_REDIS_URL": fresh_redis.url}
    backend, _, _ = chosen_by(apart)
    assert backend == "native"


async def test_a_rollout_that_is_set_at_run_time_takes_effect(settled, fresh_redis):
    chosen = settled(redis_url=fresh_redis.url)
    assert chosen.choose("alice") == (
        "tiered",
        "no rollout was ever set, so all users get the native cache",
    )
    assert chosen.flags.get_rollout_pct("rust_cache") == 100
    assert not chosen.flags.was_set("rust_cache")
    chosen.flags.set_rollout_pct("rust_cache", 100)
    assert chosen.choose("alice") == (
        "tiered",
        "the user is among the 100 % of users in the rollout",
    )
    chosen.flags.rollback("rust_cache")
    assert chosen.flags.was_set("rust_cache")
    assert chosen.choose("alice").backend == "redis"


async def test_a_rollback_applies_to_all_users_even_if_no_rollout_was_set(settled):
    chosen = settled()
    assert chosen.choose("alice") == (
        "native",
        "no rollout was ever set, so all users get the native cache",
    )
    chosen.flags.rollback_all()
    assert chosen.choose("alice").backend == "none"


async def test_unchanged_settings_warn_once(settled, caplog):
    for _ in range(2):
        settled(rust_cache_rollout_pct=0)
    assert caplog.text.count("nothing is cached") == 1
    settled(use_rust_cache=False)
    assert caplog.text.count("nothing is cached") == 2


def test_the_first_choice_of_a_process_knows_the_rollout_that_redis_has(fresh_redis):
    fresh_redis.command("SET", "feature_flag:rust_cache", "0")
    backend, _, _ = chosen_by({"SARK_CACHE_REDIS_URL": fresh_redis.url})
    assert backend == "redis"


async def test_the_settings_are_those_of_the_caches(settled):
    settled(rust_cache_rollout_pct=100, cache_max_size=7, cache_ttl=3.5, enabled=False)
    cache = create_policy_cache("alice")
    assert (cache.max_size, cache.ttl_seconds, cache.enabled) == (7, 3.5, False)


def test_a_user_is_a_str(settled):
    settled()
    with pytest.raises(TypeError, match="user_id must be a str, not int"):
        create_policy_cache(1)


def test_wrong_settings_fail_at_the_start_with_the_name_of_the_variable(fresh_process, monkeypatch):
    monkeypatch.setenv("SARK_CACHE_CACHE_TTL", "soon")
    with pytest.raises(SettingsError, match="SARK_CACHE_CACHE_TTL"):
        create_policy_cache("alice")
    monkeypatch.setenv("SARK_CACHE_CACHE_TTL", "60")
    cache = create_policy_cache("alice")
    assert (cache.backend, cache.ttl_seconds) == ("native", 60)


async def test_an_outage_of_redis_and_its_end_are_noticed(settled, own_redis):
    server = own_redis()
    settled(redis_url=server.url, redis_command_timeout=0.25, use_rust_cache=False)
    assert create_policy_cache("alice").backend == "redis"
    server.kill()
    async with asyncio.timeout(10):
        while create_policy_cache("alice").backend != "none":
            await asyncio.sleep(0.01)
        server.start()
        while create_policy_cache("alice").backend != "redis":
            await asyncio.sleep(0.01)


async def test_a_selection_is_logged_once_and_with_the_user_only_on_request(settled, caplog):
    caplog.set_level(logging.INFO, logger="sark_cache")
    settled(rust_cache_rollout_pct=100)
    for _ in range(10):
        create_policy_cache("secret-user")
    [record] = [one for one in caplog.records if "policy cache" in one.message]
    assert (record.backend, record.levelname) == ("native", "INFO")
    assert record.reason == "the user is among the 100 % of users in the rollout"
    assert "secret" not in caplog.text
    settled(rust_cache_rollout_pct=100, log_user_ids=True)
    create_policy_cache("asked-for")
    assert caplog.records[-1].user_id == "asked-for"
    assert "asked-for" in caplog.records[-1].message


async def test_another_backend_replaces_one_that_cannot_be_created(
    fresh_process, fresh_redis, caplog
):
    def without_native(**settings):
        settings = CacheSettings(rust_cache_rollout_pct=100, **settings)
        # Values that are not checked: the cache refuses this one when it is created.
        use_settings(settings.model_copy(update={"cache_max_size": 2**63}))

    without_native(redis_url=fresh_redis.url)
    assert create_policy_cache("alice").backend == "redis"
    assert "creating the tiered cache failed" in caplog.text
    with pytest.raises(ValueError, match="max_size"):
        create_policy_cache("alice", fallback_on_error=False)
    without_native()
    assert isinstance(create_policy_cache("alice"), NullPolicyCache)


def test_without_pydantic_settings_the_error_says_how_to_install_it(fresh_process, monkeypatch):
    monkeypatch.delitem(sys.modules, "sark_cache.settings")
    monkeypatch.setitem(sys.modules, "pydantic_settings", None)
    with pytest.raises(ImportError, match=r"pip install 'sark-cache\[settings\]'"):
        create_policy_cache("alice")


async def test_a_flag_provider_decides_if_there_is_one(settled):
    from openfeature import api
    from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

    chosen = settled()
    assert isinstance(chosen.flags, FeatureFlagManager)
    variants = {"on": True, "off": False}
    api.set_provider(InMemoryProvider({"rust_cache": InMemoryFlag("on", variants)}))
    try:
        chosen = settled(rust_cache_rollout_pct=1)
        assert create_policy_cache("alice").backend == "native"
    finally:
        api.clear_providers()
