"""Bad data is a miss that is counted and logged; a wrong type raises an error with its argument."""

import logging

import pytest

from not_json import NOT_JSON, Broken, nested

ALLOW = {"allow": True}
ALICE = ("alice", "read", "doc")


@pytest.fixture(params=NOT_JSON, name="bad")
def bad_fixture(request):
    return NOT_JSON[request.param]


async def test_a_context_that_is_not_json_is_a_miss(cache, bad):
    await cache.set(*ALICE, ALLOW)
    assert await cache.get(*ALICE, bad) is None
    assert await cache.get_batch([(*ALICE, bad)]) == [None]
    assert await cache.set(*ALICE, ALLOW, bad) is False
    assert await cache.set_batch([(*ALICE, ALLOW, bad)]) == 0
    assert await cache.size() == 1
    assert cache.metrics.errors == 4
    assert (cache.metrics.hits, cache.metrics.misses) == (0, 2)


async def test_a_decision_that_is_not_json_is_not_stored_and_removes_the_older_one(cache, bad):
    await cache.set_batch([(user, "read", "doc", ALLOW) for user in ("alice", "bob", "carol")])
    assert await cache.set(*ALICE, bad) is False
    assert await cache.set_batch([("bob", "read", "doc", bad)]) == 0
    served = await cache.get_batch([(user, "read", "doc") for user in ("alice", "bob", "carol")])
    assert served == [None, None, ALLOW]
    assert cache.metrics.errors == 2


async def test_64_levels_are_allowed(cache):
    deep = {"x": nested(63)}
    assert await cache.set(*ALICE, deep, deep) is True
    assert await cache.get(*ALICE, deep) == deep


async def test_a_lone_surrogate_in_a_field_is_a_miss(cache):
    assert await cache.get("\ud800", "read", "doc") is None
    assert await cache.set("alice", "\ud800", "doc", ALLOW) is False
    assert await cache.size() == 0
    assert cache.metrics.errors == 2


async def test_an_entry_over_64_kib_is_not_stored(cache, caplog):
    assert await cache.set(*ALICE, {"reason": "x" * 65_000}) is True
    assert len((await cache.get(*ALICE))["reason"]) == 65_000
    assert await cache.set(*ALICE, {"reason": "x" * 65_537}) is False
    assert "65536 bytes" in caplog.text or "65536 are allowed" in caplog.text
    assert await cache.get(*ALICE) is None, "superseded by what was too large"


async def test_an_interrupt_is_never_swallowed(cache):
    for attempt in (
        lambda: cache.get(*ALICE, Broken(KeyboardInterrupt())),
        lambda: cache.set(*ALICE, ALLOW, Broken(KeyboardInterrupt())),
        lambda: cache.set(*ALICE, Broken(KeyboardInterrupt())),
    ):
        with pytest.raises(KeyboardInterrupt):
            await attempt()


@pytest.mark.parametrize(
    "wrong", [None, 1, b"alice", ["alice"], object()], ids=lambda wrong: type(wrong).__name__
)
@pytest.mark.parametrize("argument", ["user_id", "action", "resource"])
async def test_a_field_that_is_not_a_str_is_a_type_error_that_names_it(cache, argument, wrong):
    fields = {"user_id": "alice", "action": "read", "resource": "doc", argument: wrong}
    message = f"{argument} must be a str, not "
    with pytest.raises(TypeError, match=message):
        await cache.get(**fields)
    with pytest.raises(TypeError, match=message):
        await cache.set(**fields, decision=ALLOW)
    with pytest.raises(TypeError, match=message):
        await cache.get_decision(**fields)
    with pytest.raises(TypeError, match=message):
        await cache.delete(**fields)
    if wrong is not None:
        with pytest.raises(TypeError, match=f"{argument} must be a str or None"):
            await cache.invalidate(**{argument: wrong})
    with pytest.raises(TypeError, match=message):
        await cache.get_or_load(**fields, loader=pytest.fail)
    row = tuple(fields.values())
    with pytest.raises(TypeError, match=rf"requests\[1\]: {message}"):
        await cache.get_batch([ALICE, row])
    with pytest.raises(TypeError, match=rf"entries\[0\]: {message}"):
        await cache.set_batch([(*row, ALLOW)])
    assert await cache.size() == 0
    assert cache.metrics.errors == 0


async def test_other_arguments_of_a_wrong_type_are_named_too(cache):
    with pytest.raises(TypeError, match="context must be a mapping or None, not int"):
        await cache.get(*ALICE, 1)
    with pytest.raises(TypeError, match="context must be a mapping or None, not list"):
        await cache.set(*ALICE, ALLOW, [("ip", "::1")])
    with pytest.raises(TypeError, match="sensitivity must be a str or None, not int"):
        await cache.get(*ALICE, None, 1)
    for decision in (None, True, "allow", ["allow"], 1):
        with pytest.raises(TypeError, match="decision must be a dict, not "):
            await cache.set(*ALICE, decision)
    with pytest.raises(TypeError, match="a tag must be a str, not int"):
        await cache.set(*ALICE, ALLOW, tags=[1])
    with pytest.raises(TypeError, match="tags must be"):
        await cache.set(*ALICE, ALLOW, tags=7)
    with pytest.raises(TypeError, match="ttl_seconds must be a number of seconds"):
        await cache.set(*ALICE, ALLOW, ttl_seconds="60")
    with pytest.raises(TypeError, match="ttl_seconds must be a number of seconds"):
        await cache.set(*ALICE, ALLOW, ttl_seconds=True)
    with pytest.raises(TypeError, match="enabled must be True or False, not int"):
        cache.enabled = 1
    with pytest.raises(TypeError, match="use_optimized_ttl must be True or False"):
        cache.use_optimized_ttl = "yes"
    assert cache.metrics.errors == 0
    assert cache.metrics.total_requests == 0


@pytest.mark.parametrize(
    "rows", [None, 7, ["alice"], [("alice",)], [("a", "b", "c", {}, {}, 1, 2)]], ids=repr
)
async def test_a_batch_of_the_wrong_shape_is_a_type_error(cache, rows):
    with pytest.raises(TypeError, match=r"requests.* \(user_id, action, resource, context\)"):
        await cache.get_batch(rows)
    with pytest.raises(TypeError, match=r"entries.* \(user_id, action, resource, decision"):
        await cache.set_batch(rows)


async def test_a_wrong_type_is_an_error_even_while_the_cache_is_disabled(cache):
    cache.enabled = False
    for attempt in (
        lambda: cache.get(1, "read", "doc"),
        lambda: cache.get_batch([(1, 2, 3)]),
        lambda: cache.set(*ALICE, 5),
        lambda: cache.set_batch([(*ALICE, 5)]),
    ):
        with pytest.raises(TypeError):
            await attempt()


async def test_a_burst_of_faults_is_logged_once_and_without_the_request(cache, caplog):
    for _ in range(20):
        await cache.get("secret-user", "read", "secret-doc", {"x": Broken(KeyError("secret"))})
    [record] = caplog.records
    assert (record.name, record.levelno) == ("sark_cache", logging.WARNING)
    assert "an object's own code raised KeyError" in record.message
    assert "secret" not in record.message
    assert (record.operation, record.backend) == ("get", cache.backend)
