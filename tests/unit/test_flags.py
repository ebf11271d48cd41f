"""Feature flags: the users of a rollout, its percentages, and OpenFeature."""

import hashlib
import logging
import time

import pytest
import redis
import redis.asyncio
import valkey
import valkey.asyncio
from openfeature import api
from openfeature.flag_evaluation import FlagResolutionDetails
from openfeature.provider import ProviderStatus
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
from openfeature.provider.no_op_provider import NoOpProvider

from interpreters import needs_fork, run
from sark_cache.rollout.manager import (
    INITIAL,
    MOST_FEATURES,
    MOST_NAME_BYTES,
    FeatureFlagManager,
    get_feature_flag_manager,
)
from sark_cache.rollout.openfeature import DOMAIN, openfeature_client
from sark_cache.rollout.redis_store import percentage_in

USERS = [f"user-{number}" for number in range(10_000)]


@pytest.fixture
def flags():
    return FeatureFlagManager()


# Users of a rollout


@pytest.mark.parametrize("feature", ["rust_cache", "rust_opa", "anything else"])
@pytest.mark.parametrize("percentage", [0, 1, 37, 99, 100])
def test_users_are_selected_by_the_formula(flags, feature, percentage):
    flags.set_rollout_pct(feature, percentage)
    for user in USERS:
        text = hashlib.md5(f"{feature}:{user}".encode()).hexdigest()  # noqa: S324
        assert flags.should_use_rust(feature, user) is (int(text, 16) % 100 < percentage)


def test_users_of_sark_are_selected_as_before(flags):
    """Counted with SARK's own code, for `user0` to `user999` at 25 %."""
    flags.set_rollout_pct("rust_opa", 25)
    assert sum(flags.should_use_rust("rust_opa", f"user{n}") for n in range(1000)) == 252


def test_a_selected_user_stays_selected_at_higher_percentages(flags):
    inside = set()
    for percentage in range(101):
        flags.set_rollout_pct("rust_cache", percentage)
        now = {user for user in USERS if flags.should_use_rust("rust_cache", user)}
        assert inside <= now
        assert abs(len(now) - percentage * 100) < 200, "the share is about the percentage"
        inside = now
    assert inside == set(USERS)


def test_features_select_users_independently(flags):
    for feature in ("rust_opa", "rust_cache"):
        flags.set_rollout_pct(feature, 50)
    both = [
        (flags.should_use_rust("rust_opa", user), flags.should_use_rust("rust_cache", user))
        for user in USERS
    ]
    assert all(both.count(sides) > 2_000 for sides in set(both))
    assert len(set(both)) == 4


@pytest.mark.parametrize("user", ["", "ü", "日本", "a:b", "\ud800", "x" * 100_000])
def test_any_text_is_a_user_id(flags, user):
    flags.set_rollout_pct("rust_cache", 100)
    assert flags.should_use_rust("rust_cache", user)
    flags.rollback("rust_cache")
    assert not flags.should_use_rust("rust_cache", user)


# Percentages


def test_rollouts_start_at_0_percent(flags):
    assert flags.get_all_rollouts() == {"rust_opa": 0, "rust_cache": 0}
    assert not any(flags.should_use_rust("rust_cache", user) for user in USERS)


def test_rollouts_start_at_the_given_percentages():
    flags = FeatureFlagManager(initial={"rust_cache": 10, "new": 20})
    assert flags.get_all_rollouts() == {"rust_opa": 0, "rust_cache": 10, "new": 20}
    flags.set_rollout_pct("rust_cache", 30)
    assert flags.get_rollout_pct("rust_cache") == 30


def test_an_unknown_feature_is_used_by_no_user(flags):
    assert flags.get_rollout_pct("unheard of") == 0
    assert not flags.should_use_rust("unheard of", "alice")
    assert "unheard of" not in flags.get_all_rollouts()


def test_setting_a_feature_adds_it(flags):
    flags.set_rollout_pct("new", 100)
    assert flags.should_use_rust("new", "alice")
    assert flags.get_all_rollouts() == {"rust_opa": 0, "rust_cache": 0, "new": 100}


def test_a_rollback_of_one_feature_changes_no_other(flags):
    for feature in ("rust_opa", "rust_cache"):
        flags.set_rollout_pct(feature, 100)
    flags.rollback("rust_opa")
    assert flags.get_all_rollouts() == {"rust_opa": 0, "rust_cache": 100}


def test_a_rollback_of_all_is_of_every_feature():
    flags = FeatureFlagManager(initial={"rust_opa": 50})
    flags.set_rollout_pct("rust_cache", 100)
    flags.set_rollout_pct("new", 100)
    flags.rollback_all()
    assert flags.get_all_rollouts() == {"rust_opa": 0, "rust_cache": 0, "new": 0}


@pytest.mark.parametrize("percentage", [-1, 101, 10**30])
def test_a_percentage_is_from_0_to_100(flags, percentage):
    with pytest.raises(ValueError, match=f"percentage must be from 0 to 100, not {percentage}"):
        flags.set_rollout_pct("rust_cache", percentage)
    with pytest.raises(ValueError, match=r"initial\['rust_cache'\] must be from 0 to 100"):
        FeatureFlagManager(initial={"rust_cache": percentage})
    assert flags.get_rollout_pct("rust_cache") == 0


@pytest.mark.parametrize("percentage", [50.0, "50", None, True])
def test_a_percentage_is_an_integer(flags, percentage):
    with pytest.raises(TypeError, match="percentage must be an integer from 0 to 100, not"):
        flags.set_rollout_pct("rust_cache", percentage)
    with pytest.raises(TypeError, match=r"initial\['rust_cache'\] must be an integer"):
        FeatureFlagManager(initial={"rust_cache": percentage})


@pytest.mark.parametrize("feature", [None, b"rust_cache", 1])
def test_a_feature_name_is_a_str(flags, feature):
    for ask in (
        flags.get_rollout_pct,
        flags.rollback,
        lambda name: flags.set_rollout_pct(name, 1),
        lambda name: flags.should_use_rust(name, "alice"),
    ):
        with pytest.raises(TypeError, match="feature must be a str"):
            ask(feature)


@pytest.mark.parametrize("feature", ["", "a\nb", "\ud800"])
def test_a_feature_name_that_redis_cannot_store_is_refused(flags, feature):
    with pytest.raises(ValueError, match="feature must be printable text"):
        flags.set_rollout_pct(feature, 1)
    assert flags.get_rollout_pct(feature) == 0


def test_the_name_of_a_feature_is_short(flags):
    longest = "é" * (MOST_NAME_BYTES // 2)
    flags.set_rollout_pct(longest, 7)
    assert flags.get_rollout_pct(longest) == 7
    for change in (
        lambda: flags.set_rollout_pct(longest + "x", 7),
        lambda: flags.rollback("x" * 129),
    ):
        with pytest.raises(ValueError, match="at most 128 bytes long: choose a shorter name"):
            change()
    with pytest.raises(ValueError, match="at most 128 bytes long"):
        FeatureFlagManager(initial={longest + "x": 7})


def test_features_are_as_many_as_a_process_can_have_and_more_are_refused(flags):
    names = [f"feature-{number}" for number in range(MOST_FEATURES - len(INITIAL))]
    for name in names:
        flags.set_rollout_pct(name, 7)
    for change in (
        lambda: flags.set_rollout_pct("one more", 7),
        lambda: flags.rollback("one more"),
        lambda: flags.configure(initial={"one more": 7}),
    ):
        with pytest.raises(ValueError, match=r"at most 256 features, .* restart the process"):
            change()
    assert flags.get_rollout_pct("one more") == 0
    assert len(flags.get_all_rollouts()) == MOST_FEATURES
    flags.set_rollout_pct(names[0], 8)
    flags.configure(initial={names[0]: 9})
    assert flags.get_rollout_pct(names[0]) == 8
    flags.rollback_all()
    assert set(flags.get_all_rollouts().values()) == {0}


@pytest.mark.parametrize("user", [None, 1, b"alice"])
def test_a_user_id_is_a_str(flags, user):
    with pytest.raises(TypeError, match="user_id must be a str"):
        flags.should_use_rust("rust_cache", user)


@pytest.mark.parametrize(
    ("stored", "percentage"),
    [
        (b"0", 0),
        (b"25", 25),
        ("100", 100),
        (b"25\n", 25),
        (b" 7 ", 7),
        (b"007", 7),
        (b"", None),
        (b"101", None),
        (b"-1", None),
        (b"+1", None),
        (b"1.0", None),
        (b"1e1", None),
        (b"1_0", None),
        ("٣", None),
        (b"\xff", None),
        (b"9" * 10_000, None),
        (None, None),
        (25, None),
        (ValueError("WRONGTYPE"), None),
    ],
)
def test_a_value_in_redis_is_read_as_a_percentage_or_not_at_all(stored, percentage):
    assert percentage_in(stored) == percentage


def test_changes_are_logged_and_users_are_not(flags, caplog):
    caplog.set_level(logging.DEBUG)
    flags.set_rollout_pct("rust_cache", 25)
    flags.set_rollout_pct("rust_cache", 25)
    flags.should_use_rust("rust_cache", "alice")
    flags.rollback("rust_cache")
    changes = [(r.levelname, r.feature, getattr(r, "from"), r.to) for r in caplog.records]
    assert changes == [("INFO", "rust_cache", 0, 25), ("INFO", "rust_cache", 25, 0)]
    assert "from 0 % to 25 %" in caplog.text
    assert "alice" not in caplog.text


# Clients


@pytest.mark.parametrize(
    "client",
    [
        redis.asyncio.Redis(),
        valkey.asyncio.Valkey(),
        redis.asyncio.RedisCluster(host="127.0.0.1"),
        redis.sentinel.Sentinel([("127.0.0.1", 1)]),
        "redis://127.0.0.1",
    ],
    ids=lambda client: f"{type(client).__module__}.{type(client).__qualname__}",
)
def test_a_client_that_threads_cannot_use_is_refused(client):
    name = type(client).__qualname__
    with pytest.raises(TypeError, match=rf"redis_client must be a synchronous client.*{name}"):
        FeatureFlagManager(client)


# One for each process


@pytest.fixture
def process_flags():
    get_feature_flag_manager().close()
    yield get_feature_flag_manager
    get_feature_flag_manager().close()


def test_a_process_has_one(process_flags):
    assert process_flags() is process_flags()


def test_a_closed_one_sets_nothing_and_is_replaced(process_flags):
    closed = process_flags()
    closed.set_rollout_pct("rust_cache", 40)
    closed.close()
    closed.close()
    for change in (closed.rollback_all, lambda: closed.rollback("rust_cache")):
        with pytest.raises(RuntimeError, match="closed: create another one"):
            change()
    assert closed.get_rollout_pct("rust_cache") == 40, "the last known stays"
    assert process_flags() is not closed
    assert process_flags().get_rollout_pct("rust_cache") == 0


def test_initial_percentages_apply_even_after_an_earlier_call(process_flags):
    process_flags()
    assert process_flags(initial={"rust_cache": 5}).get_rollout_pct("rust_cache") == 5
    assert process_flags().get_rollout_pct("rust_cache") == 5


@needs_fork
def test_a_child_can_get_and_change_the_flags_whatever_the_parent_s_threads_do():
    assert run(
        """
        import os, signal, threading
        from sark_cache.rollout.manager import get_feature_flag_manager
        done = threading.Event()

        def busy():
            while not done.is_set():
                get_feature_flag_manager(initial={"rust_cache": 1}).set_rollout_pct("x", 50)
                get_feature_flag_manager().rollback_all()

        threads = [threading.Thread(target=busy) for _ in range(2)]
        for thread in threads: thread.start()
        codes = []
        for _ in range(50):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                get_feature_flag_manager().set_rollout_pct("x", 50)
                os._exit(get_feature_flag_manager().get_rollout_pct("x"))
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        done.set()
        for thread in threads: thread.join()
        print(codes == [50] * 50)
        """
    ) == ["True"]


# OpenFeature


def flag(decide):
    """A flag of the SDK's in-memory provider whose value depends on the user."""

    def evaluate(_, context):
        return FlagResolutionDetails(value=decide(context.targeting_key))

    return InMemoryFlag("on", {"on": True}, context_evaluator=evaluate)


def use(provider, domain=None):
    """Sets the application's provider and waits until it is ready."""
    api.set_provider(provider, domain)
    give_up = time.monotonic() + 10
    while api.get_client(domain).get_provider_status() is not ProviderStatus.READY:
        assert time.monotonic() < give_up, "the provider does not become ready"
        time.sleep(0.001)


@pytest.fixture
def provide():
    """Sets the application's provider to one with these flags."""

    def provide(domain=None, /, **flags):
        provider = InMemoryProvider({name: flag(decide) for name, decide in flags.items()})
        use(provider, domain)
        return openfeature_client()

    yield provide
    api.shutdown()


def test_without_a_provider_openfeature_is_not_asked():
    assert openfeature_client() is None
    use(NoOpProvider())
    assert openfeature_client() is None


def test_without_the_sdk_openfeature_is_not_looked_for():
    assert run(
        """
        import sys
        from sark_cache.rollout.manager import get_feature_flag_manager
        from sark_cache.rollout.openfeature import openfeature_client
        print(openfeature_client(), get_feature_flag_manager().should_use_rust("x", "alice"))
        print([name for name in sys.modules if name.partition(".")[0] in ("openfeature", "redis")])
        """
    ) == ["None False", "[]"]


def test_the_provider_decides_about_each_user(provide):
    client = provide(rust_cache=lambda user: user == "alice")
    flags = FeatureFlagManager(openfeature_client=client, initial={"rust_cache": 50})
    assert [u for u in ("alice", *USERS) if flags.should_use_rust("rust_cache", u)] == ["alice"]


def test_a_provider_of_our_domain_takes_precedence_over_the_default_one(provide):
    provide(rust_cache=lambda _: False)
    client = provide(DOMAIN, rust_cache=lambda _: True)
    assert FeatureFlagManager(openfeature_client=client).should_use_rust("rust_cache", "alice")


def test_the_percentage_decides_about_flags_unknown_to_the_provider(provide):
    flags = FeatureFlagManager(openfeature_client=provide(other=lambda _: True))
    by_percentage = FeatureFlagManager()
    for each in (flags, by_percentage):
        each.set_rollout_pct("rust_cache", 50)
    for user in USERS[:200]:
        decision = flags.should_use_rust("rust_cache", user)
        assert decision is by_percentage.should_use_rust("rust_cache", user)


def test_a_rollback_overrides_the_provider(provide):
    flags = FeatureFlagManager(openfeature_client=provide(rust_cache=lambda _: True))
    assert flags.should_use_rust("rust_cache", "alice")
    flags.rollback("rust_cache")
    assert not flags.should_use_rust("rust_cache", "alice")
    flags.set_rollout_pct("rust_cache", 1)
    assert flags.should_use_rust("rust_cache", "alice"), "the provider decides again"


def failing(user):
    message = f"no such user: {user}"
    raise LookupError(message)


@pytest.mark.parametrize("decide", [failing, lambda _: "yes"])
def test_the_percentage_decides_if_the_provider_fails(provide, decide):
    flags = FeatureFlagManager(
        openfeature_client=provide(rust_cache=decide), initial={"rust_cache": 100}
    )
    assert flags.should_use_rust("rust_cache", "alice")


class Unruly:
    """A client that raises, unlike the SDK's, which catches the errors of its provider."""

    def __init__(self, answer):
        self.answer = answer

    def get_boolean_value(self, _flag_key, _default_value, context):
        if isinstance(self.answer, Exception):
            raise self.answer.__class__(context.targeting_key)
        return self.answer


@pytest.mark.parametrize(
    ("answer", "logged"),
    [(LookupError(), "the client raised LookupError"), (1, "the client returned int, not a bool")],
)
def test_a_failing_client_is_logged_once_and_the_percentage_decides(answer, logged, caplog):
    flags = FeatureFlagManager(openfeature_client=Unruly(answer), initial={"rust_cache": 100})
    for _ in range(100):
        assert flags.should_use_rust("rust_cache", "alice") is True
    [record] = caplog.records
    assert logged in record.message
    assert "alice" not in caplog.text


def test_the_flags_of_the_process_use_a_provider_that_is_set_later(process_flags, provide):
    assert not process_flags().should_use_rust("rust_cache", "alice")
    provide(rust_cache=lambda _: True)
    assert process_flags().should_use_rust("rust_cache", "alice")
