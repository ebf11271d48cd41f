"""`get_or_load_many` evaluates all misses together, and stores each decision alone."""

import asyncio
import pickle

import pytest

from loaders import ALLOW, DENY, ControlledLoader, begun, bringing
from sark_cache import BatchLoadError, Loaded

DOCUMENTS = [("alice", "read", f"doc-{number}", None) for number in range(6)]


class BatchLoader:
    """A loader of many requests, which notes what it was asked."""

    def __init__(self, **decisions):
        self.asked = []
        self.decisions = decisions
        self.begun = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, requests):
        self.asked.append(requests)
        self.begun.set()
        await self.may_answer.wait()
        return [self.decisions.get(request[2].replace("-", "_"), ALLOW) for request in requests]


async def begun_batch(cache, loader):
    """Starts a batch whose loader does not answer yet."""
    loader.may_answer.clear()
    batch = asyncio.create_task(cache.get_or_load_many(DOCUMENTS, loader))
    await loader.begun.wait()
    return batch


async def waiting_request(cache, loader):
    """Starts a request that waits for the first document of a batch."""
    other = asyncio.create_task(cache.get_or_load(*DOCUMENTS[0][:3], loader))
    while cache.metrics.misses < len(DOCUMENTS) + 1:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)  # it begins to wait
    return other


async def test_all_misses_are_one_call_of_the_loader_in_their_order(cache):
    await cache.set(*DOCUMENTS[2][:3], DENY)
    loader = BatchLoader(doc_4=DENY)
    decisions = await cache.get_or_load_many(DOCUMENTS, loader)
    assert decisions == [ALLOW, ALLOW, DENY, ALLOW, DENY, ALLOW]
    assert loader.asked == [[DOCUMENTS[0], DOCUMENTS[1], *DOCUMENTS[3:]]]
    assert await cache.get_batch(DOCUMENTS) == decisions
    metrics = cache.metrics
    assert (metrics.loads, metrics.load_errors, metrics.misses, metrics.hits) == (5, 0, 5, 7)


async def test_hits_do_not_call_the_loader(cache):
    loader = BatchLoader()
    await cache.get_or_load_many(DOCUMENTS, loader)
    assert await cache.get_or_load_many(DOCUMENTS, loader) == [ALLOW] * 6
    assert await cache.get_or_load_many([], loader) == []
    assert len(loader.asked) == 1


async def test_a_decision_that_another_request_loads_is_waited_for(cache):
    single = ControlledLoader()
    [first] = await begun(cache, single)
    loader = BatchLoader()
    requests = [("alice", "read", "doc"), *DOCUMENTS]
    batch = asyncio.create_task(cache.get_or_load_many(requests, loader))
    await loader.begun.wait()
    single.bring(DENY)
    assert (await batch, await first) == ([DENY, *[ALLOW] * 6], DENY)
    assert (loader.asked, single.runs) == ([DOCUMENTS], 1)


async def test_another_request_waits_for_the_batch(cache):
    loader = BatchLoader()
    batch = await begun_batch(cache, loader)
    other = await waiting_request(cache, bringing(DENY))
    loader.may_answer.set()
    assert (await other, (await batch)[0]) == (ALLOW, ALLOW)
    assert cache.metrics.coalesced == 1


async def test_two_batches_share_what_both_request(cache):
    first, second = BatchLoader(), BatchLoader()
    first.may_answer.clear()
    one = asyncio.create_task(cache.get_or_load_many(DOCUMENTS[:4], first))
    await first.begun.wait()
    two = asyncio.create_task(cache.get_or_load_many(DOCUMENTS[2:], second))
    await second.begun.wait()
    first.may_answer.set()
    assert (await one, await two) == ([ALLOW] * 4, [ALLOW] * 4)
    assert (first.asked, second.asked) == ([DOCUMENTS[:4]], [DOCUMENTS[4:]])


async def test_the_same_request_twice_is_evaluated_once(cache):
    loader = BatchLoader()
    assert await cache.get_or_load_many([DOCUMENTS[0]] * 3, loader) == [ALLOW] * 3
    assert loader.asked == [[DOCUMENTS[0]]]


async def test_the_requests_that_failed_are_named_and_the_rest_is_stored(cache):
    loader = BatchLoader(doc_1=ConnectionError("the engine is down"), doc_3="yes")
    with pytest.raises(BatchLoadError, match="2 of 6 requests have no decision") as failed:
        await cache.get_or_load_many(DOCUMENTS, loader)
    assert failed.value.decisions == [ALLOW, None, ALLOW, None, ALLOW, ALLOW]
    kinds = {at: type(error) for at, error in failed.value.errors.items()}
    assert kinds == {1: ConnectionError, 3: TypeError}
    assert await cache.get_batch(DOCUMENTS) == failed.value.decisions
    assert cache.metrics.load_errors == 2


async def test_a_loader_that_raises_fails_all_misses_but_no_hit(cache):
    await cache.set(*DOCUMENTS[0][:3], ALLOW)

    async def fails(requests):
        raise ConnectionError

    with pytest.raises(BatchLoadError) as failed:
        await cache.get_or_load_many(DOCUMENTS[:3], fails)
    assert isinstance(failed.value.__cause__, ConnectionError)
    assert (failed.value.decisions, list(failed.value.errors)) == ([ALLOW, None, None], [1, 2])


@pytest.mark.parametrize("answer", [[ALLOW], [ALLOW] * 3, None, {"allow": True}, "yes"])
async def test_an_answer_of_another_length_or_type_is_no_decision(cache, answer):
    async def load(requests):
        return answer

    with pytest.raises(BatchLoadError) as failed:
        await cache.get_or_load_many(DOCUMENTS[:2], load)
    assert "each of the 2 requests" in str(failed.value.errors[0])
    assert await cache.get_batch(DOCUMENTS) == [None] * 6


async def test_the_loader_is_called_for_at_most_max_batch_requests(cache):
    loader = BatchLoader()
    assert await cache.get_or_load_many(DOCUMENTS, loader, max_batch=4) == [ALLOW] * 6
    assert sorted(map(len, loader.asked)) == [2, 4]
    assert [one for part in sorted(loader.asked) for one in part] == DOCUMENTS


async def test_a_decision_that_is_revoked_during_the_load_is_returned_and_not_stored(cache):
    loader = BatchLoader()
    batch = await begun_batch(cache, loader)
    await cache.invalidate(resource="doc-3")
    loader.may_answer.set()
    assert await batch == [ALLOW] * 6
    found = await cache.get_batch(DOCUMENTS)
    assert found == [ALLOW, ALLOW, ALLOW, None, ALLOW, ALLOW]


async def test_each_decision_has_its_own_tags_and_time_to_live(cache):
    decisions = {
        "doc_0": Loaded(ALLOW, tags=["role:admin"]),
        "doc_1": Loaded(DENY, ttl_seconds=0),
        "doc_2": Loaded(ALLOW, tags=iter(["role:owner"])),
    }
    loader = BatchLoader(**decisions)
    await cache.get_or_load_many(DOCUMENTS[:4], loader, tags=iter(["tenant:1"]))
    assert await cache.get_batch(DOCUMENTS[:4]) == [ALLOW, None, ALLOW, ALLOW]
    assert await cache.invalidate(tags=["role:owner"]) == 1
    assert await cache.invalidate(tags=["tenant:1"]) == 2


async def test_a_cancelled_batch_stores_nothing_and_hands_over(cache):
    loader = BatchLoader()
    batch = await begun_batch(cache, loader)
    other = await waiting_request(cache, bringing(DENY))
    batch.cancel()
    assert await other == DENY
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert await cache.get_batch(DOCUMENTS) == [DENY, *[None] * 5]


async def test_what_cannot_be_stored_is_evaluated_with_the_others(cache):
    long = ("alice", "read", "d" * 10_000, None)
    loader = BatchLoader()
    assert await cache.get_or_load_many([DOCUMENTS[0], long], loader) == [ALLOW, ALLOW]
    assert loader.asked == [[DOCUMENTS[0], long]]
    assert await cache.get_batch([DOCUMENTS[0], long]) == [ALLOW, None]


async def test_a_disabled_cache_evaluates_and_forgets_what_it_had(cache):
    await cache.set(*DOCUMENTS[0][:3], ALLOW)
    cache.enabled = False
    loader = BatchLoader(doc_0=DENY)
    assert await cache.get_or_load_many(DOCUMENTS[:2], loader) == [DENY, ALLOW]
    assert loader.asked == [DOCUMENTS[:2]]
    cache.enabled = True
    for _ in range(100):  # the removal on a server is in the background
        if (found := await cache.get_batch(DOCUMENTS[:2])) == [None, None]:
            break
        await asyncio.sleep(0.01)
    assert found == [None, None]


async def test_policies_do_not_share_decisions(cache):
    await cache.get_or_load_many(DOCUMENTS[:1], BatchLoader(), policy="documents")
    other = BatchLoader(doc_0=DENY)
    assert await cache.get_or_load_many(DOCUMENTS[:1], other, policy="folders") == [DENY]
    assert await cache.get(*DOCUMENTS[0][:3], policy="documents") == ALLOW


async def test_the_requests_may_be_an_iterator(cache):
    loader = BatchLoader()
    assert await cache.get_or_load_many(iter(DOCUMENTS), loader) == [ALLOW] * 6
    assert loader.asked == [DOCUMENTS]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"requests": "alice"}, "requests must be"),
        ({"requests": [("alice", "read")]}, r"requests\[0\] must be"),
        ({"requests": [("alice", "read", 7)]}, "resource"),
        ({"loader": 7}, "loader must be"),
        ({"max_batch": "7"}, "max_batch must be an int"),
        ({"tags": "admin"}, "tags must be"),
        ({"policy": 7}, "policy must be"),
        ({"ttl_seconds": "7"}, "ttl_seconds must be"),
    ],
)
async def test_a_wrong_argument_is_named(cache, arguments, words):
    given = {"requests": DOCUMENTS, "loader": BatchLoader()} | arguments
    with pytest.raises(TypeError, match=words):
        await cache.get_or_load_many(**given)


async def test_a_batch_of_less_than_one_is_refused(cache):
    with pytest.raises(ValueError, match="max_batch must be at least 1, not 0"):
        await cache.get_or_load_many(DOCUMENTS, BatchLoader(), max_batch=0)


async def test_a_context_that_is_changed_during_the_load_changes_no_key(cache):
    context = {"mfa": False, "roles": ["guest"]}
    requests = [["alice", "read", f"doc-{number}", context] for number in range(6)]
    seen = []

    async def load(asked):
        await asyncio.sleep(0.01)
        context["mfa"] = True  # as a careless caller does
        context["roles"].append("admin")
        requests[0][0] = "admin"
        seen.extend((row[0], row[3]["mfa"], [*row[3]["roles"]]) for row in asked)
        for row in asked:
            row[3]["mfa"] = True  # as a careless loader does
        return [{"allow": row[3]["mfa"]} for row in asked]

    await cache.get_or_load_many(requests, load, max_batch=1)
    assert seen == [("alice", False, ["guest"])] * 6
    assert await cache.get(*DOCUMENTS[0][:3], {"mfa": True, "roles": ["guest", "admin"]}) is None
    before = {"mfa": False, "roles": ["guest"]}
    found = await cache.get_batch([(*row[:3], before) for row in DOCUMENTS])
    assert found == [{"allow": True}] * 6, "as the loader decided"


async def test_a_loader_that_requests_its_own_batch_is_an_error(cache):
    async def load(requests):
        return await cache.get_or_load_many(requests, load)

    with pytest.raises(BatchLoadError) as failed:
        async with asyncio.timeout(4):
            await cache.get_or_load_many(DOCUMENTS[:2], load)
    errors = set()
    causes = [*failed.value.errors.values()]
    while causes:
        one = causes.pop()
        causes += one.errors.values() if isinstance(one, BatchLoadError) else []
        errors.add(type(one))
    assert RuntimeError in errors


@pytest.mark.parametrize("max_batch", [1, 10])
async def test_a_loader_that_is_cancelled_inside_cancels_the_batch(cache, max_batch):
    async def load(requests):
        raise asyncio.CancelledError

    async with asyncio.timeout(4):
        with pytest.raises(asyncio.CancelledError):
            await cache.get_or_load_many(DOCUMENTS, load, max_batch=max_batch)
        loader = BatchLoader()
        assert await cache.get_or_load_many(DOCUMENTS, loader) == [ALLOW] * 6


async def test_an_exception_that_no_future_takes_is_returned_like_any_other(cache):
    loader = BatchLoader(doc_1=StopIteration())
    with pytest.raises(BatchLoadError) as failed:
        await cache.get_or_load_many(DOCUMENTS[:3], loader)
    assert failed.value.decisions == [ALLOW, None, ALLOW]


async def test_the_error_can_be_pickled():
    error = BatchLoadError([ALLOW, None], {1: ConnectionError("down")})
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - of this test
    assert (str(copy), copy.decisions) == (str(error), error.decisions)
    assert str(copy.errors[1]) == "down"


async def test_more_misses_than_some_calls_are_loaded_in_turn(cache):
    requests = [("alice", "read", f"doc-{number}", None) for number in range(25)]
    loader = BatchLoader()
    assert await cache.get_or_load_many(requests, loader, max_batch=2) == [ALLOW] * 25
    assert sorted(one for part in loader.asked for one in part) == sorted(requests)
    assert max(map(len, loader.asked)) == 2


@pytest.mark.parametrize("answer", [7, None])
async def test_a_loader_that_is_not_async_is_named(cache, answer):
    with pytest.raises(BatchLoadError) as failed:
        await cache.get_or_load_many(DOCUMENTS[:1], lambda _: answer)
    assert "async function that takes a list of requests" in str(failed.value.errors[0])


# filter_allowed


async def test_the_allowed_resources_are_returned_in_their_order(cache):
    loader = BatchLoader(doc_1=DENY, doc_4={"allow": 1}, doc_5={})
    names = [request[2] for request in DOCUMENTS]
    allowed = ["doc-0", "doc-2", "doc-3"]
    assert await cache.filter_allowed("alice", "read", names, loader) == allowed
    assert await cache.filter_allowed("alice", "read", names, loader) == allowed
    assert loader.asked == [DOCUMENTS]
    assert await cache.filter_allowed("alice", "read", [], loader) == []


async def test_objects_are_filtered_by_their_resource(cache):
    loader = BatchLoader(doc_1=DENY)
    documents = [{"id": request[2]} for request in DOCUMENTS[:3]]
    found = await cache.filter_allowed(
        "alice", "read", iter(documents), loader, {"ip": "::1"}, key=lambda one: one["id"]
    )
    assert found == [documents[0], documents[2]]
    assert loader.asked == [[(*request[:3], {"ip": "::1"}) for request in DOCUMENTS[:3]]]


async def test_a_revoked_decision_is_evaluated_again(cache):
    names = [request[2] for request in DOCUMENTS]
    assert await cache.filter_allowed("alice", "read", names, BatchLoader()) == names
    await cache.invalidate(resource="doc-2")
    loader = BatchLoader(doc_2=DENY)
    assert "doc-2" not in await cache.filter_allowed("alice", "read", names, loader)
    assert loader.asked == [[DOCUMENTS[2]]]


async def test_a_stream_reads_no_further_than_its_part(cache):
    read = []

    async def documents():
        for number in range(100):
            read.append(number)
            yield f"doc-{number}"

    stream = cache.filter_allowed_stream("alice", "read", documents(), BatchLoader(), max_batch=2)
    found = [await anext(stream) for _ in range(3)]
    await stream.aclose()
    assert (found, len(read)) == (["doc-0", "doc-1", "doc-2"], 8)


async def test_a_resource_without_a_decision_fails_the_filter(cache):
    loader = BatchLoader(doc_1=ConnectionError())
    with pytest.raises(BatchLoadError):
        await cache.filter_allowed("alice", "read", ["doc-0", "doc-1"], loader)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("alice", "read", "doc"), "resources must be"),
        (("alice", "read", 7), "resources must be"),
        (("alice", "read", [7]), "resource"),
        ((7, "read", []), "user_id"),
        (("alice", 7, ["doc"]), "action"),
    ],
)
async def test_a_wrong_argument_of_the_filter_is_named(cache, arguments, words):
    with pytest.raises(TypeError, match=words):
        await cache.filter_allowed(*arguments, BatchLoader())


async def test_a_subclass_of_a_cache_has_both(new_cache):
    class Ours(new_cache.kind):
        pass

    ours = await new_cache(Ours)
    assert await ours.filter_allowed("alice", "read", ["doc-0"], BatchLoader()) == ["doc-0"]
    assert isinstance(ours, new_cache.kind)
