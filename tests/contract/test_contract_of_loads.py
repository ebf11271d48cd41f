"""`get_or_load` runs one loader for concurrent requests and stores no invalidated result."""

import asyncio
import time

import pytest

from loaders import ALLOW, DENY, ControlledLoader, bringing, never
from loaders import REQUEST as ALICE
from sark_cache import Loaded
from sark_cache.backends.base import BasePolicyCache


async def asking(cache, loader, count, **options):
    """Starts tasks that request the same decision, and returns once all have missed."""
    missed = cache.metrics.misses + count
    tasks = [
        asyncio.create_task(cache.get_or_load(*ALICE, loader, **options)) for _ in range(count)
    ]
    while cache.metrics.misses < missed:
        await asyncio.sleep(0.001)
    await loader.begun.wait()
    await asyncio.sleep(0.01)  # the last one begins to wait
    return tasks


async def test_the_result_of_the_loader_is_returned_and_stored(cache):
    assert await cache.get_or_load(*ALICE, bringing(ALLOW)) == ALLOW
    assert await cache.get_or_load(*ALICE, never) == ALLOW
    assert await cache.get(*ALICE) == ALLOW
    metrics = cache.metrics
    assert (metrics.hits, metrics.misses, metrics.loads, metrics.coalesced) == (2, 1, 1, 0)


async def test_one_loader_runs_for_all_concurrent_requests(cache):
    loader = ControlledLoader()
    tasks = await asking(cache, loader, 50)
    loader.bring(ALLOW)
    decisions = await asyncio.gather(*tasks)
    assert decisions == [ALLOW] * 50
    assert loader.runs == 1
    assert (cache.metrics.loads, cache.metrics.coalesced) == (1, 49)
    for decision in decisions:
        decision["roles"].clear()
    assert await cache.get(*ALICE) == ALLOW


async def test_a_failure_is_raised_to_every_waiter_and_is_not_cached(cache):
    loader = ControlledLoader()
    tasks = await asking(cache, loader, 5)
    loader.fail(ConnectionError("the engine is down"))
    for answer in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(answer, ConnectionError)
    assert (loader.runs, cache.metrics.load_errors) == (1, 1)
    assert await cache.get_or_load(*ALICE, bringing(ALLOW)) == ALLOW


async def test_a_cancelled_leader_hands_over_to_a_waiter(cache):
    loader = ControlledLoader()
    leader, *others = await asking(cache, loader, 5)
    leader.cancel()
    while loader.runs < 2:
        await asyncio.sleep(0.001)
    loader.bring(ALLOW)
    assert await asyncio.gather(*others) == [ALLOW] * 4
    assert loader.runs == 2
    with pytest.raises(asyncio.CancelledError):
        await leader


async def test_a_cancelled_waiter_does_not_affect_the_others(cache):
    loader = ControlledLoader()
    leader, first, second = await asking(cache, loader, 3)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    loader.bring(ALLOW)
    assert await asyncio.gather(leader, second) == [ALLOW] * 2
    assert loader.runs == 1


REVOCATIONS = {
    "user": lambda cache: cache.invalidate(user_id="alice"),
    "tag": lambda cache: cache.invalidate(tags=["role:admin"]),
    "late tag": lambda cache: cache.invalidate(tags=["late"]),
    "delete": lambda cache: cache.delete(*ALICE),
    "pattern": lambda cache: cache.invalidate_pattern("policy:decision:alice:*"),
    "everything": lambda cache: cache.clear(),
}


@pytest.mark.parametrize("revoke", REVOCATIONS)
async def test_a_decision_that_is_revoked_while_it_loads_is_not_stored(cache, revoke):
    loader = ControlledLoader()
    tasks = await asking(cache, loader, 3, tags=["role:admin"])
    await REVOCATIONS[revoke](cache)
    loader.bring(Loaded(ALLOW, tags=["late"]))
    assert await asyncio.gather(*tasks) == [ALLOW] * 3, "they asked before it"
    assert await cache.get(*ALICE) is None
    assert await cache.get_or_load(*ALICE, bringing(DENY)) == DENY


async def test_a_request_after_a_revocation_does_not_join_an_older_load(cache):
    old = ControlledLoader()
    before = await asking(cache, old, 2)
    await cache.invalidate(user_id="alice")
    assert await cache.get_or_load(*ALICE, bringing(DENY)) == DENY
    old.bring(ALLOW)
    assert await asyncio.gather(*before) == [ALLOW] * 2
    assert await cache.get(*ALICE) == DENY


async def test_a_revocation_of_other_decisions_does_not_prevent_storing(cache):
    loader = ControlledLoader()
    tasks = await asking(cache, loader, 2, tags=["role:admin"])
    await cache.invalidate(user_id="bob")
    await cache.invalidate(tags=["role:user"])
    loader.bring(ALLOW)
    await asyncio.gather(*tasks)
    assert await cache.get_or_load(*ALICE, never) == ALLOW


async def test_a_decision_set_during_a_load_is_not_overwritten(cache):
    loader = ControlledLoader()
    tasks = await asking(cache, loader, 2)
    await cache.set(*ALICE, DENY)
    loader.bring(ALLOW)
    assert await asyncio.gather(*tasks) == [ALLOW] * 2
    assert await cache.get(*ALICE) == DENY


async def test_the_loader_may_return_the_ttl_and_tags(cache):
    load = bringing(Loaded(ALLOW, tags=["late"]))
    assert await cache.get_or_load(*ALICE, load, ttl_seconds=60, tags=["early"]) == ALLOW
    assert await cache.invalidate(tags=["late"]) == 1
    await cache.get_or_load(*ALICE, load, ttl_seconds=60, tags=["early"])
    assert await cache.invalidate(tags=["early"]) == 1
    await cache.get_or_load(*ALICE, bringing(Loaded(ALLOW, ttl_seconds=0.2)), ttl_seconds=60)
    async with asyncio.timeout(5):
        while await cache.get(*ALICE) is not None:
            await asyncio.sleep(0.01)


async def test_a_ttl_of_zero_shares_and_stores_nothing(cache):
    loader = ControlledLoader()
    tasks = await asking(cache, loader, 3, ttl_seconds=0)
    loader.bring(ALLOW)
    assert await asyncio.gather(*tasks) == [ALLOW] * 3
    assert loader.runs == 1
    assert await cache.get(*ALICE) is None


@pytest.mark.parametrize("bad", [{"x": object()}, {"x": "y" * 70_000}], ids=["no JSON", "large"])
async def test_a_result_that_cannot_be_stored_is_returned_unchanged(cache, bad, caplog):
    assert await cache.get_or_load(*ALICE, bringing(bad)) == bad
    assert await cache.get(*ALICE) is None
    assert cache.metrics.errors == 1
    assert "get_or_load failed" in caplog.text


async def test_every_request_evaluates_a_result_that_cannot_be_copied(cache):
    loader = ControlledLoader()
    tasks = await asking(cache, loader, 3)
    bad = {"x": object()}
    loader.bring(bad)
    assert await asyncio.gather(*tasks) == [bad] * 3
    assert loader.runs == 3


@pytest.mark.parametrize(
    "tags", [["\ud800"], [f"tag-{number}" for number in range(20_000)], ["x" * 100_000]]
)
async def test_every_request_evaluates_with_tags_that_cannot_be_stored(cache, tags):
    assert await cache.get_or_load(*ALICE, bringing(ALLOW), tags=tags) == ALLOW
    assert await cache.get_or_load("x" * 70_000, "read", "doc", bringing(ALLOW)) == ALLOW


async def test_every_request_evaluates_with_a_context_that_is_not_json(cache):
    assert await cache.get_or_load(*ALICE, bringing(ALLOW), {"x": object()}) == ALLOW
    assert await cache.size() == 0
    assert cache.metrics.errors == 1


async def test_a_loader_that_requests_its_own_key_gets_an_error(cache):
    async def load():
        return await cache.get_or_load(*ALICE, never)

    with pytest.raises(RuntimeError, match="own key"):
        await cache.get_or_load(*ALICE, load)


@pytest.mark.parametrize("brought", [None, True, "allow", ["allow"]], ids=repr)
async def test_a_loader_that_returns_no_decision_is_an_error(cache, brought):
    with pytest.raises(TypeError, match="loader must return a decision"):
        await cache.get_or_load(*ALICE, bringing(brought))
    with pytest.raises(TypeError, match="loader must be an async function"):
        await cache.get_or_load(*ALICE, lambda: brought)
    with pytest.raises(TypeError, match="loader must be an async function"):
        await cache.get_or_load(*ALICE, 1)


# Refresh ahead

SHORTEST_PAUSE = 0.125
"""The minimum number of seconds before a refresh without a result is tried again."""


class Late:
    """A cache with an entry in the last part of its TTL."""

    def __init__(self, cache, brings):
        self.cache = cache
        self.brings = brings
        self.asked = []
        self.done = asyncio.Event()
        cache.set_revalidate_callback(self)

    async def __call__(self, *request):
        self.asked.append(request)
        await self.done.wait()
        if isinstance(self.brings, Exception):
            raise self.brings
        return self.brings

    async def hit(self, sensitivity="critical", ttl=2.0):
        """Requests the entry once less than 30 % of its TTL is left."""
        await self.cache.set(*ALICE, ALLOW, {"ip": "::1"}, ttl, tags=["role:admin"])
        await asyncio.sleep((1 - self.cache.STALE_THRESHOLD_RATIO) * ttl + 0.05)
        assert await self.cache.get(*ALICE, {"ip": "::1"}, sensitivity) == ALLOW

    async def ended(self):
        """Waits until the refresh has ended."""
        self.done.set()
        async with asyncio.timeout(5):
            while any(task.get_name() == "sark-cache refresh" for task in asyncio.all_tasks()):
                await asyncio.sleep(0.005)


async def test_a_hit_near_expiration_is_refreshed_once_in_the_background(cache):
    late = Late(cache, DENY)
    await late.hit(ttl=2)
    assert await cache.get(*ALICE, {"ip": "::1"}, "confidential") == ALLOW
    await late.ended()
    assert late.asked == [(*ALICE, {"ip": "::1"})]
    assert await cache.get(*ALICE, {"ip": "::1"}) == DENY
    metrics = cache.metrics
    assert (metrics.stale_hits, metrics.hits, metrics.revalidations) == (2, 1, 1)
    assert await cache.invalidate(tags=["role:admin"]) == 1, "it carries the tags of the old one"


async def test_a_hit_without_sensitivity_is_not_refreshed(cache):
    late = Late(cache, DENY)
    await late.hit(sensitivity="public", ttl=0.5)
    await late.ended()
    assert late.asked == []


async def test_an_invalidated_refresh_is_not_stored(cache):
    late = Late(cache, ALLOW)
    await late.hit()
    while not late.asked:
        await asyncio.sleep(0.001)
    await cache.invalidate(user_id="alice")
    await late.ended()
    assert await cache.get(*ALICE, {"ip": "::1"}) is None


async def test_a_refresh_does_not_overwrite_a_decision_that_was_set_during_it(cache):
    late = Late(cache, ALLOW)
    await late.hit()
    while not late.asked:
        await asyncio.sleep(0.001)
    await cache.set(*ALICE, DENY, {"ip": "::1"})
    await late.ended()
    assert await cache.get(*ALICE, {"ip": "::1"}) == DENY


async def test_a_failed_refresh_is_counted_and_the_entry_stays(cache, caplog):
    late = Late(cache, ConnectionError("secret"))
    await late.hit(ttl=10 / 4)
    await late.ended()
    assert cache.metrics.errors == 1
    assert "the callback raised ConnectionError" in caplog.text
    assert "secret" not in caplog.text


@pytest.fixture
def refreshed_early(monkeypatch):
    """Makes entries due for a refresh at once, and for as long as a test may take."""
    monkeypatch.setattr(BasePolicyCache, "STALE_THRESHOLD_RATIO", 0.999)


@pytest.mark.usefixtures("refreshed_early")
async def test_a_failed_refresh_is_not_retried_at_once(cache):
    late = Late(cache, ConnectionError())
    late.done.set()
    await late.hit(ttl=60)
    began = time.monotonic()
    for _ in range(30):
        assert await cache.get(*ALICE, {"ip": "::1"}, "critical") == ALLOW
        await asyncio.sleep(0)
    await late.ended()
    assert len(late.asked) <= 1 + (time.monotonic() - began) / SHORTEST_PAUSE
    assert cache.metrics.errors == cache.metrics.revalidations == len(late.asked)
    asked = len(late.asked)
    async with asyncio.timeout(5):
        while len(late.asked) == asked:  # but later
            if await cache.get(*ALICE, {"ip": "::1"}, "critical") is None:
                await cache.set(*ALICE, ALLOW, {"ip": "::1"}, 60)
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("refreshed_early")
async def test_a_callback_that_returns_none_is_not_an_error_and_is_not_called_again_at_once(
    cache, caplog
):
    late = Late(cache, None)
    await late.hit(ttl=60)
    began = time.monotonic()
    await late.ended()
    for _ in range(10):
        assert await cache.get(*ALICE, {"ip": "::1"}, "critical") == ALLOW
        await asyncio.sleep(0)
    await late.ended()
    assert len(late.asked) <= 1 + (time.monotonic() - began) / SHORTEST_PAUSE
    assert (cache.metrics.errors, cache.metrics.load_errors) == (0, 0)
    assert not caplog.records
