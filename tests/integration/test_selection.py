"""The backend that serves a user, for every combination of availability, settings and flags."""

import asyncio
import gc
import inspect
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
    CacheSettings,
    FeatureFlagManager,
    InvalidationError,
    NullPolicyCache,
    PolicyCache,
    RustPolicyCache,
    SelectedPolicyCache,
    SettingsError,
    close_policy_caches,
    create_policy_cache,
    get_policy_cache,
    get_rust_policy_cache,
)
from sark_cache.rollout import manager as flags
from sark_cache.selection import registry as process
from sark_cache.selection import selector as selection
from sark_cache.selection.linked import LinkedNullPolicyCache, LinkedPolicyCache

ALLOW = {"allow": True}
DENY = {"allow": False}
ALICE = ("alice", "read", "doc")

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
    is_in = rollout == "100" or (rollout is None and redis == "not set")
    native = available and enabled and is_in
    assert was_available is available
    assert backend == ("native" if native else "redis" if redis == "up" else "none")
    [message] = [text for level, text in logged if text.startswith("policy cache: ")]
    assert message.startswith(f"policy cache: {backend}: ")
    assert "alice" not in str(logged)
    if rollout is None and available and enabled:
        assert "no rollout was ever set" in message
    elif not native:
        why = "switched off" if not enabled else "compiled" if not available else "0 % that are in"
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
    assert backend == ("native" if percentage else "redis")


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
    native_by_setting = {"SARK_CACHE_RUST_CACHE_ROLLOUT_PCT": "5"}
    with_redis = {"SARK_CACHE_REDIS_URL": fresh_redis.url}
    _, _, logged = chosen_by(SEVERAL | native_by_setting | with_redis)
    assert any("WEB_CONCURRENCY=4" in text for level, text in logged if level == "WARNING")
    for is_fine in (with_redis, {"SARK_CACHE_TIERED": "false"}, {"WEB_CONCURRENCY": "1"}):
        _, _, logged = chosen_by(SEVERAL | is_fine)
        assert not [text for level, text in logged if level == "WARNING"]


async def test_a_rollout_that_is_set_at_run_time_takes_effect(settled, fresh_redis):
    chosen = settled(redis_url=fresh_redis.url)
    assert chosen.choose("alice") == ("redis", "no rollout was ever set, so Redis serves everybody")
    assert chosen.flags.get_rollout_pct("rust_cache") == 100
    assert not chosen.flags.was_set("rust_cache")
    chosen.flags.set_rollout_pct("rust_cache", 100)
    assert chosen.choose("alice") == ("native", "100 % of users are in")
    chosen.flags.rollback("rust_cache")
    assert chosen.flags.was_set("rust_cache")
    assert chosen.choose("alice").backend == "redis"


async def test_a_rollback_applies_to_all_users_even_if_no_rollout_was_set(settled):
    chosen = settled()
    assert chosen.choose("alice") == ("native", "no rollout was ever set, so everybody is in")
    chosen.flags.rollback_all()
    assert chosen.choose("alice").backend == "none"


async def test_unchanged_settings_warn_once(settled, caplog):
    for _ in range(2):
        settled(rust_cache_rollout_pct=0)
    assert caplog.text.count("nothing is cached") == 1
    settled(use_rust_cache=False)
    assert caplog.text.count("nothing is cached") == 2


@pytest.fixture
async def fresh_process(monkeypatch):
    """Resets the state of the selection to that of a new process."""
    for name in os.environ:
        if name.startswith("SARK_CACHE_"):
            monkeypatch.delenv(name)

    def forget():
        if selection._selection is not None:
            selection._selection.close()
            selection._selection = None

    forget()
    monkeypatch.setattr(flags, "_instance", None)
    await close_policy_caches()
    process._caches.clear()
    yield
    await close_policy_caches()
    process._caches.clear()
    forget()


@pytest.fixture
def settled(fresh_process):
    """Configures the selection of this process, with time-outs for a busy machine."""

    def settle(**settings):
        patient = {"redis_connect_timeout": 10, "redis_command_timeout": 10}
        return selection.use_settings(CacheSettings(**patient | settings))

    return settle


def test_the_first_choice_of_a_process_knows_the_rollout_that_redis_has(fresh_redis):
    fresh_redis.command("SET", "feature_flag:rust_cache", "100")
    backend, _, _ = chosen_by({"SARK_CACHE_REDIS_URL": fresh_redis.url})
    assert backend == "native"


async def test_the_caches_are_those_of_the_process(settled, fresh_redis, monkeypatch):
    monkeypatch.setenv("SARK_CACHE_REDIS_URL", fresh_redis.url)
    settled(redis_url=fresh_redis.url, rust_cache_rollout_pct=100)
    native = create_policy_cache("alice")
    assert native is create_policy_cache("bob") is get_rust_policy_cache()
    assert isinstance(native, RustPolicyCache)
    native_flags = selection.get_selection().flags
    native_flags.rollback("rust_cache")
    redis = create_policy_cache("alice")
    assert redis is create_policy_cache("bob") is get_policy_cache()
    assert isinstance(redis, PolicyCache)
    await close_policy_caches()
    assert create_policy_cache("alice") is not redis


async def test_closing_a_cache_of_the_process_leaves_it_usable(settled, fresh_redis):
    chosen = settled(redis_url=fresh_redis.url)
    redis, native = get_policy_cache(), get_rust_policy_cache()
    none = process.get_or_create(LinkedNullPolicyCache, LinkedNullPolicyCache)
    assert create_policy_cache("alice") is redis
    for cache in (redis, native, none):
        await cache.set(*ALICE, ALLOW)
        async with cache as entered:
            assert entered is cache
        await cache.close()
        assert await cache.health_check() is True
        assert not cache.closed
        assert await cache.get(*ALICE) == (None if cache is none else ALLOW)
    assert get_policy_cache() is redis
    assert get_rust_policy_cache() is native
    assert create_policy_cache("alice") is redis
    assert await redis.invalidate(user_id="alice") == 2
    await close_policy_caches()
    assert redis.closed
    assert native.closed
    assert get_policy_cache() is not redis
    chosen.close()


async def test_closing_all_caches_closes_the_native_one_at_once_whatever_the_others_do(
    settled, own_redis
):
    server = own_redis()
    settled(redis_url=server.url)
    redis, native = get_policy_cache(), get_rust_policy_cache()
    assert await redis.health_check()
    await native.set(*ALICE, ALLOW)
    server.pause()
    try:
        revoked = asyncio.ensure_future(redis.invalidate(user_id="bob"))
        ending = asyncio.create_task(close_policy_caches())
        await asyncio.sleep(0.05)
        assert not ending.done(), "Redis is to confirm the revocation first"
        assert await native.get(*ALICE) is None, "no revocation would reach it any more"
        assert native.closed
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
    finally:
        server.resume()
    with pytest.raises(InvalidationError, match="this cache is closed"):
        await revoked  # which a close that was cancelled did not wait for
    await redis.end()


async def test_a_cache_that_was_made_from_other_settings_gives_a_warning(
    settled, fresh_redis, monkeypatch, caplog
):
    monkeypatch.setenv("SARK_CACHE_REDIS_URL", NOBODY)
    early, native = get_policy_cache(), get_rust_policy_cache()
    settled(redis_url=fresh_redis.url, namespace="shop")
    assert get_policy_cache() is early
    assert get_rust_policy_cache() is native
    (warned,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "the redis cache of this process was made from other settings" in warned
    assert "(redis_url, namespace, redis_connect_timeout, redis_command_timeout)" in warned
    await close_policy_caches()
    caplog.clear()
    settled(redis_url=fresh_redis.url, namespace="shop")
    settled(redis_url=fresh_redis.url, namespace="shop")
    assert "other settings" not in caplog.text
    await close_policy_caches()


def test_a_cache_is_registered_after_it_is_linked_to_the_others(fresh_process):
    found = []

    class Watched(LinkedNullPolicyCache):
        def set_peers(self, peers):
            found.append(self in process.open_caches())
            super().set_peers(peers)

    made = process.get_or_create(Watched, Watched)
    assert found == [False]
    assert made in process.open_caches()


async def test_closing_a_cache_of_the_process_drops_idle_connections(settled, fresh_redis):
    settled(redis_url=fresh_redis.url)
    cache = get_policy_cache()
    await asyncio.gather(*(cache.get(f"user-{number}", "read", "doc") for number in range(5)))
    before = int(fresh_redis.command("CLIENT", "LIST").count("cmd=eval"))
    await cache.close()
    async with asyncio.timeout(10):
        while int(fresh_redis.command("CLIENT", "LIST").count("cmd=eval")) >= before:
            await asyncio.sleep(0.01)
    assert before >= 1
    assert await cache.get(*ALICE) is None
    assert cache.metrics.errors == 0


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


async def test_a_revocation_through_one_cache_reaches_all(settled, fresh_redis):
    chosen = settled(redis_url=fresh_redis.url, rust_cache_rollout_pct=100)
    native = create_policy_cache("alice")
    chosen.flags.rollback("rust_cache")
    redis = create_policy_cache("alice")
    none = process.get_or_create(LinkedNullPolicyCache, LinkedNullPolicyCache)
    for through in (native, redis, none):
        for revoke, died in [
            (lambda cache: cache.invalidate(user_id="alice"), 2),
            (lambda cache: cache.invalidate(tags=["t"]), 2),
            (lambda cache: cache.invalidate_pattern("policy:decision:alice:*"), 2),
            (lambda cache: cache.delete(*ALICE), True),
            (lambda cache: cache.clear(), True),
            (lambda cache: cache.clear_all(), True),
        ]:
            for cache in (native, redis):
                assert await cache.set(*ALICE, ALLOW, tags=["t"])
            assert await revoke(through) == died
            assert await native.get(*ALICE) is None
            assert await redis.get(*ALICE) is None


async def test_a_revoked_decision_does_not_return_when_a_rollout_changes(settled, fresh_redis):
    chosen = settled(redis_url=fresh_redis.url)
    await create_policy_cache("alice").set(*ALICE, ALLOW)
    chosen.flags.set_rollout_pct("rust_cache", 100)
    assert await create_policy_cache("alice").invalidate(user_id="alice") == 1
    chosen.flags.rollback("rust_cache")
    assert await create_policy_cache("alice").get(*ALICE) is None


async def test_a_revocation_that_redis_cannot_confirm_applies_here_and_raises(settled, own_redis):
    server = own_redis()
    settled(redis_url=server.url, rust_cache_rollout_pct=100, redis_command_timeout=0.25)
    cache = create_policy_cache("alice")
    await cache.set(*ALICE, ALLOW)
    server.kill()
    with pytest.raises(InvalidationError):
        await cache.invalidate(user_id="alice")
    assert await cache.get(*ALICE) is None


async def test_an_outage_of_redis_and_its_end_are_noticed(settled, own_redis):
    server = own_redis()
    settled(redis_url=server.url, redis_command_timeout=0.25)
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
    assert record.reason == "100 % of users are in"
    assert "secret" not in caplog.text
    settled(rust_cache_rollout_pct=100, log_user_ids=True)
    create_policy_cache("asked-for")
    assert caplog.records[-1].user_id == "asked-for"
    assert "asked-for" in caplog.records[-1].message


async def test_another_backend_replaces_one_that_cannot_be_created(settled, fresh_redis, caplog):
    settled(rust_cache_rollout_pct=100, cache_max_size=2**63, redis_url=fresh_redis.url)
    assert create_policy_cache("alice").backend == "redis"
    assert "making the native cache failed" in caplog.text
    with pytest.raises(ValueError, match="max_size"):
        create_policy_cache("alice", fallback_on_error=False)
    settled(rust_cache_rollout_pct=100, cache_max_size=2**63)
    assert isinstance(create_policy_cache("alice"), NullPolicyCache)


async def test_a_revocation_reaches_redis_even_after_its_cache_was_closed(settled, fresh_redis):
    chosen = settled(redis_url=fresh_redis.url)
    async with create_policy_cache("alice") as redis:
        await redis.set(*ALICE, ALLOW)
    chosen.flags.set_rollout_pct("rust_cache", 100)
    assert await create_policy_cache("alice").invalidate(user_id="alice") == 1
    chosen.flags.rollback("rust_cache")
    assert await create_policy_cache("alice").get(*ALICE) is None


async def test_wrong_arguments_of_a_revocation_raise_and_leave_no_coroutine(
    settled, fresh_redis, recwarn
):
    settled(redis_url=fresh_redis.url, rust_cache_rollout_pct=100)
    create_policy_cache("alice")
    redis = process.get_or_create(LinkedPolicyCache, pytest.fail)
    for wrong in (lambda: redis.invalidate(user_id=1), lambda: redis.delete(1, "read", "doc")):
        with pytest.raises(TypeError, match="user_id must be a str"):
            await wrong()
    gc.collect()
    assert not [str(w.message) for w in recwarn.list]


def test_without_pydantic_settings_the_error_says_how_to_install_it(fresh_process, monkeypatch):
    monkeypatch.delitem(sys.modules, "sark_cache.settings")
    monkeypatch.setitem(sys.modules, "pydantic_settings", None)
    with pytest.raises(ImportError, match=r"pip install 'sark-cache\[settings\]'"):
        create_policy_cache("alice")


# The selected cache


async def test_disabling_it_also_disables_caches_that_are_created_later(settled):
    chosen = settled(rust_cache_rollout_pct=0)
    cache = SelectedPolicyCache(chosen)
    cache.enabled = False
    chosen.flags.set_rollout_pct("rust_cache", 100)
    assert await cache.set(*ALICE, ALLOW) is False
    assert await cache.get(*ALICE) is None
    assert get_rust_policy_cache().enabled is False
    cache.enabled = True
    assert await cache.set(*ALICE, ALLOW) is True


@pytest.mark.parametrize("percentage", [0, 100], ids=["redis", "native"])
@pytest.mark.parametrize("denied", ["set", "set_batch"])
async def test_a_deny_while_it_is_off_ends_the_older_allow(
    settled, fresh_redis, percentage, denied
):
    cache = SelectedPolicyCache(
        settled(redis_url=fresh_redis.url, rust_cache_rollout_pct=percentage)
    )
    assert await cache.set(*ALICE, ALLOW)
    assert await cache.get(*ALICE) == ALLOW
    cache.enabled = False
    if denied == "set":
        assert await cache.set(*ALICE, DENY) is False
    else:
        assert await cache.set_batch([(*ALICE, DENY)]) == 0
    cache.enabled = True
    assert await cache.get(*ALICE) is None
    assert await cache.get_batch([ALICE]) == [None]


async def test_a_closed_one_serves_and_stores_nothing_and_refuses_to_revoke(settled):
    cache = SelectedPolicyCache(settled(rust_cache_rollout_pct=100))
    await cache.set(*ALICE, ALLOW)
    await cache.close()
    assert await cache.get(*ALICE) is None
    assert await cache.set(*ALICE, ALLOW) is False

    async def load():
        return ALLOW

    assert await cache.get_or_load(*ALICE, load) == ALLOW
    cache.record_opa_latency(5)
    with pytest.raises(InvalidationError, match="closed"):
        await cache.invalidate(user_id="alice")
    assert await get_rust_policy_cache().get(*ALICE) == ALLOW, "which others use"


async def half(settled, server):
    """Returns a cache that serves half of its users from each backend, and the users."""
    chosen = settled(redis_url=server.url, rust_cache_rollout_pct=50)
    users = [f"user-{number}" for number in range(200)]
    native = {user for user in users if chosen.choose(user).backend == "native"}
    assert 50 < len(native) < 150
    return SelectedPolicyCache(chosen), users, native


async def test_each_user_is_served_by_their_backend(settled, fresh_redis):
    cache, users, native = await half(settled, fresh_redis)
    for user in users:
        assert await cache.set(user, "read", "doc", ALLOW, tags=["t"]) is True
        assert await cache.get(user, "read", "doc") == ALLOW
    assert await cache.size() == await cache.get_cache_size() == 200
    assert await get_rust_policy_cache().size() == len(native)
    assert {one.backend for one in cache.backends()} == {"native", "redis"}
    assert await cache.invalidate(user_id="user-7") == 1
    assert await cache.delete("user-8", "read", "doc") is True
    assert await cache.invalidate_pattern("*:user-9:*") == 1
    assert await cache.invalidate(tags=["t"]) == 197
    assert await cache.cleanup_expired() == 0
    metrics = cache.metrics
    assert (metrics.hits, metrics.invalidations) == (200, 200)
    assert metrics.cache_latency_p50_us > 0
    assert cache.latency_histogram().count >= 200 - len(native)
    cache.reset_metrics()
    assert cache.get_metrics()["total_requests"] == 0
    await cache.close()


async def test_batches_across_both_backends_are_answered_in_order(settled, fresh_redis):
    cache, users, _ = await half(settled, fresh_redis)
    rows = [(user, "read", "doc", {"allow": True, "user": user}) for user in users]
    stamp = cache.stamp()
    assert await cache.set_batch(rows[:100]) == 100
    assert await cache.preload_cache(rows[100:]) == 100
    served = await cache.get_batch([(user, "read", "doc") for user in users])
    assert [decision["user"] for decision in served] == users
    await cache.health_check()
    stamp = cache.stamp()
    assert await cache.set_batch(rows, stamp=stamp) == 200
    await cache.invalidate(user_id=users[3])
    assert await cache.set_batch(rows, stamp=stamp) == 199
    assert await cache.set(users[3], "read", "doc", ALLOW, stamp=stamp) is False
    assert await cache.clear_all() is True
    await cache.close()


async def test_a_decision_that_is_revoked_while_redis_stores_part_of_a_batch_is_not_stored(
    settled, fresh_redis
):
    cache, users, native = await half(settled, fresh_redis)
    alice, bob = min(native), min(set(users) - native)
    assert await cache.health_check()
    storing = asyncio.create_task(
        cache.set_batch([(user, "read", "doc", ALLOW) for user in (bob, alice)])
    )
    await asyncio.sleep(0)
    await cache.invalidate(user_id=alice)
    await storing
    assert await cache.get(alice, "read", "doc") is None
    await cache.close()


async def test_a_decision_that_is_revoked_while_redis_reads_part_of_a_batch_is_not_served(
    settled, fresh_redis
):
    cache, users, native = await half(settled, fresh_redis)
    alice, bob = min(native), min(set(users) - native)
    await cache.set(alice, "read", "doc", ALLOW)
    await cache.get(bob, "read", "doc")
    asking = asyncio.create_task(cache.get_batch([(user, "read", "doc") for user in (alice, bob)]))
    await asyncio.sleep(0)
    await cache.invalidate(user_id=alice)
    assert await asking == [None, None]
    await cache.close()


async def test_the_signature_of_the_callback_is_read_once(settled):
    class Evaluator:
        looks = 0

        @property
        def __signature__(self):
            type(self).looks += 1
            return inspect.signature(self.__call__)

        async def __call__(self, *_request, **_policy):
            return ALLOW

    cache = SelectedPolicyCache(settled(rust_cache_rollout_pct=100))
    cache.set_revalidate_callback(Evaluator())
    for _ in range(3):
        await cache.get(*ALICE)
    assert Evaluator.looks == 1
    await cache.close()


async def test_loads_and_refreshes_use_the_backend_of_the_user(settled, fresh_redis):
    cache, users, native = await half(settled, fresh_redis)

    async def load():
        return ALLOW

    refreshed = []

    async def refresh(*request):
        refreshed.append(request)
        return ALLOW

    cache.set_revalidate_callback(refresh)
    for user in (min(native), min(set(users) - native)):
        assert await cache.get_or_load(user, "read", "doc", load, ttl_seconds=60) == ALLOW
        assert await cache.get_or_load(user, "read", "doc", pytest.fail) == ALLOW
        assert create_policy_cache(user).revalidate_callback is refresh
    assert cache.metrics.loads == 2
    cache.record_opa_latency(5)
    assert cache.metrics.avg_opa_latency_ms == pytest.approx(5, rel=0.05)
    assert cache.evaluation_histogram().count == 1
    cache.enabled = False
    assert cache.enabled is False
    assert await cache.get(min(native), "read", "doc") is None
    cache.enabled = True
    async with cache:
        assert await cache.health_check() is True
    assert cache.closed
    assert await cache.health_check() is False
    with pytest.raises(RuntimeError, match="closed"):
        async with cache:
            pass


async def test_a_stamp_from_before_the_backend_changed_stores_nothing(settled, fresh_redis):
    chosen = settled(redis_url=fresh_redis.url)
    cache = SelectedPolicyCache()
    assert await cache.health_check()
    stamp = cache.stamp()
    chosen.flags.set_rollout_pct("rust_cache", 100)
    assert await cache.set(*ALICE, ALLOW, stamp=stamp) is False
    assert await cache.set_batch([(*ALICE, ALLOW)], stamp=stamp) == 0
    assert await cache.set(*ALICE, ALLOW, stamp=cache.stamp()) is True
    assert "native" in repr(cache)
    await cache.close()


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
