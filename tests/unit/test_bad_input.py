"""Bad data is a miss that is counted and logged; a wrong type raises an error with its argument."""

import logging
import math
import sys
from collections.abc import Mapping

import pytest

from not_json import NOT_JSON, Broken, doubled, nested
from sark_cache import InvalidationError, RustPolicyCache, SarkCacheError
from sark_cache._core import fault_log as faults

ALLOW = {"allow": True}


@pytest.fixture(params=NOT_JSON, name="bad")
def bad_fixture(request):
    return NOT_JSON[request.param]


async def test_a_context_that_is_not_json_is_a_miss(cache, bad):
    await cache.set("alice", "read", "doc", ALLOW)
    assert await cache.get("alice", "read", "doc", bad) is None
    assert await cache.get_batch([("alice", "read", "doc", bad)]) == [None]
    assert await cache.set("alice", "read", "doc", ALLOW, bad) is False
    assert await cache.set_batch([("alice", "read", "doc", ALLOW, bad)]) == 0
    assert await cache.size() == 1
    assert cache.metrics.errors == 4
    assert (cache.metrics.hits, cache.metrics.misses) == (0, 2)


async def test_a_decision_that_is_not_json_is_not_stored_and_removes_the_older_one(cache, bad):
    await cache.set_batch([(user, "read", "doc", ALLOW) for user in ("alice", "bob", "carol")])
    assert await cache.set("alice", "read", "doc", bad) is False
    assert await cache.set_batch([("bob", "read", "doc", bad)]) == 0
    served = await cache.get_batch([(user, "read", "doc") for user in ("alice", "bob", "carol")])
    assert served == [None, None, ALLOW]
    assert cache.metrics.errors == 2


async def test_deleting_with_a_context_that_is_not_json_finds_nothing(cache):
    await cache.set("alice", "read", "doc", ALLOW)
    assert await cache.delete("alice", "read", "doc", {"x": object()}) is False
    assert await cache.get("alice", "read", "doc") == ALLOW
    assert cache.metrics.errors == 1


async def test_deleting_with_a_context_that_raises_is_never_silent(cache):
    with pytest.raises(InvalidationError, match="own code raised") as raised:
        await cache.delete("alice", "read", "doc", Broken(OSError("the disk is gone")))
    assert isinstance(raised.value.__cause__, OSError)


async def test_a_value_with_many_references_to_itself_is_refused_without_expanding_it(cache):
    huge = {"x": doubled(60)}
    assert await cache.get("alice", "read", "doc", huge) is None
    assert await cache.set("alice", "read", "doc", huge) is False
    assert await cache.set("alice", "read", "doc", ALLOW, huge) is False
    assert await cache.set("alice", "read", "doc", {"x": [None] * 10_000_000}) is False
    assert cache.metrics.errors == 4


class Meddling(Mapping):
    """A mapping that changes another dict while it is read."""

    def __init__(self, other):
        self.other = other

    def __getitem__(self, key):
        return 1

    def __iter__(self):
        self.other[f"new-{len(self.other)}"] = 1
        return iter(["a"])

    def __len__(self):
        return 1


async def test_a_dict_that_changes_while_it_is_read_is_read_as_it_was(cache):
    decision = {}
    decision.update(first=Meddling(decision), second=Meddling(decision), last=3)
    assert await cache.set("alice", "read", "doc", decision) is True
    served = await cache.get("alice", "read", "doc")
    assert served == {"first": {"a": 1}, "second": {"a": 1}, "last": 3}
    context = {}
    context.update(first=Meddling(context), last=3)
    assert await cache.set("alice", "read", "doc", ALLOW, context) is True
    assert await cache.get("alice", "read", "doc", {"first": {"a": 1}, "last": 3}) == ALLOW


async def test_64_levels_are_allowed(cache):
    deep = {"x": nested(63)}
    assert await cache.set("alice", "read", "doc", deep, deep) is True
    assert await cache.get("alice", "read", "doc", deep) == deep


async def test_a_lone_surrogate_in_a_field_is_a_miss(cache):
    assert await cache.get("\ud800", "read", "doc") is None
    assert await cache.set("alice", "\ud800", "doc", ALLOW) is False
    assert await cache.size() == 0
    assert cache.metrics.errors == 2


async def test_an_entry_over_64_kib_is_not_stored(cache, caplog):
    assert await cache.set("alice", "read", "doc", {"reason": "x" * 65_000}) is True
    assert len((await cache.get("alice", "read", "doc"))["reason"]) == 65_000
    assert await cache.set("alice", "read", "doc", {"reason": "x" * 65_530}) is False
    assert "65536 are allowed" in caplog.text
    assert await cache.set("alice", "read", "x" * 65_537, ALLOW) is False
    assert await cache.get("alice", "read", "x" * 65_537) is None
    assert await cache.get("alice", "read", "doc") is None, "superseded by what was too large"
    assert cache.metrics.errors == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_is_never_swallowed(cache, error):
    for attempt in (
        lambda: cache.get("alice", "read", "doc", Broken(error())),
        lambda: cache.set("alice", "read", "doc", ALLOW, Broken(error())),
        lambda: cache.set("alice", "read", "doc", Broken(error())),
    ):
        with pytest.raises(error):
            attempt()


async def test_other_arguments_of_a_wrong_type_are_named_too(cache):
    with pytest.raises(TypeError, match="context must be a mapping or None, not int"):
        await cache.get("alice", "read", "doc", 1)
    with pytest.raises(TypeError, match="context must be a mapping or None, not list"):
        await cache.set("alice", "read", "doc", ALLOW, [("ip", "::1")])
    with pytest.raises(TypeError, match="sensitivity must be a str or None, not int"):
        await cache.get("alice", "read", "doc", None, 1)
    with pytest.raises(TypeError, match="sensitivity must be a str or None, not int"):
        await cache.set("alice", "read", "doc", ALLOW, sensitivity=3)
    for decision in (None, True, "allow", ["allow"], 1):
        with pytest.raises(TypeError, match="decision must be a dict, not "):
            await cache.set("alice", "read", "doc", decision)
    with pytest.raises(TypeError, match="pattern must be a str, not NoneType"):
        await cache.invalidate_pattern(None)
    with pytest.raises(TypeError, match="a tag must be a str, not int"):
        await cache.set("alice", "read", "doc", ALLOW, tags=[1])
    with pytest.raises(TypeError, match="enabled must be True or False, not int"):
        cache.enabled = 1
    with pytest.raises(TypeError, match="use_optimized_ttl must be True or False"):
        RustPolicyCache(use_optimized_ttl="yes")
    with pytest.raises(TypeError, match="tags must be"):
        await cache.set("alice", "read", "doc", ALLOW, tags=7)
    with pytest.raises(TypeError):
        await cache.get("alice", "read")
    with pytest.raises(TypeError):
        await cache.get("alice", "read", "doc", user="alice")
    assert cache.metrics.errors == 0
    assert cache.metrics.total_requests == 0


@pytest.mark.parametrize(
    "rows", [None, 7, ["alice"], [("alice",)], [("a", "b", "c", {}, {}, 1, 2)]]
)
async def test_a_batch_of_the_wrong_shape_is_a_type_error(cache, rows):
    with pytest.raises(TypeError, match=r"requests.* \(user_id, action, resource, context\)"):
        await cache.get_batch(rows)
    with pytest.raises(TypeError, match=r"entries.* \(user_id, action, resource, decision"):
        await cache.set_batch(rows)


@pytest.mark.parametrize("latency", [-1, math.nan, math.inf])
def test_an_impossible_latency_is_an_error(cache, latency):
    with pytest.raises(ValueError, match="latency_ms must be a finite number"):
        cache.record_opa_latency(latency)


async def test_a_wrong_type_is_an_error_even_while_the_cache_is_disabled(cache):
    cache.enabled = False
    for attempt in (
        lambda: cache.get(1, "read", "doc"),
        lambda: cache.get_batch([(1, 2, 3)]),
        lambda: cache.set("alice", "read", "doc", 5),
        lambda: cache.set_batch([("alice", "read", "doc", 5)]),
    ):
        with pytest.raises(TypeError):
            attempt()
    assert cache.get_metrics()["errors"] == 0


async def test_a_revocation_of_a_field_that_is_not_utf_8_removes_nothing(cache):
    await cache.set("alice", "read", "doc", ALLOW, tags=["good"])
    assert await cache.set("bob", "read", "doc", ALLOW, tags=["\ud800"]) is False
    assert await cache.invalidate(user_id="\ud800") == 0
    assert await cache.invalidate(tags=["\ud800"]) == 0
    assert await cache.size() == 1
    assert await cache.invalidate(tags=["\ud800", "good"]) == 1
    with pytest.raises(ValueError, match="lone surrogate"):
        await cache.invalidate_pattern("\ud800*")
    with pytest.raises(ValueError, match="pattern must be at most 1024 bytes"):
        await cache.invalidate_pattern("x" * 1025)


async def test_a_failing_log_handler_fails_no_request(cache, monkeypatch):
    def fail(operation, reason):
        message = "the log is full"
        raise OSError(message)

    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    monkeypatch.setattr(cache, "_report", fail)
    assert await cache.get("alice", "read", "doc", {"x": object()}) is None
    assert [hook.exc_type for hook in unraisable] == [OSError]
    assert cache.metrics.errors == 1


async def test_the_message_of_an_exception_is_not_logged(cache, caplog):
    await cache.get("alice", "read", "doc", Broken(KeyError("ssn=123-45-6789")))
    assert "raised KeyError" in caplog.text
    assert "ssn" not in caplog.text


async def test_a_burst_of_faults_is_logged_once_and_without_the_request(cache, caplog, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(faults.time, "monotonic", lambda: clock[0])
    for _ in range(100):
        await cache.get("secret-user", "read", "secret-doc", {"x": object()})
    assert len(caplog.records) == 1
    record = caplog.records[0]
    assert (record.name, record.levelno) == ("sark_cache", logging.WARNING)
    assert "a value of type object is not JSON" in record.message
    assert "secret" not in record.message
    assert (record.operation, record.backend, record.left_out) == ("get", "native", 0)
    await cache.set("secret-user", "read", "doc", {"x": object()})
    assert [r.operation for r in caplog.records] == ["get", "set"]
    clock[0] += faults.QUIET_SECONDS
    await cache.get("secret-user", "read", "secret-doc", {"x": object()})
    assert caplog.records[-1].left_out == 99


def test_errors_of_the_package_have_one_base_class():
    assert issubclass(InvalidationError, SarkCacheError)
