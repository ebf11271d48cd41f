"""The time to filter a list of 1,000 documents by what a user may read."""

import asyncio
from itertools import compress

import pytest

from sark_cache import RustPolicyCache
from turns import hosted

DOCUMENTS = [f"document:{number}" for number in range(1_000)]
LOADER_SECONDS = 0.005


def decision_for(document):
    """Returns a decision that allows four of five documents. No two are alike."""
    return {"allow": not document.endswith(("0", "5")), "reason": f"rule of {document}"}


async def ask_for_many(requests):
    """Takes the place of a policy engine that evaluates many requests in one call."""
    await asyncio.sleep(LOADER_SECONDS)
    return [decision_for(document) for _, _, document, _ in requests]


def allowed(decisions):
    """Returns the documents whose decision allows them."""
    return [*compress(DOCUMENTS, (decision["allow"] is True for decision in decisions))]


async def one_by_one(get):
    """Returns the allowed documents by a request for each."""
    return allowed([await get("alice", "read", document) for document in DOCUMENTS])


async def gathered(cache):
    """Returns the allowed documents by requests that run at the same time."""

    def load(document):
        async def ask():
            await asyncio.sleep(LOADER_SECONDS)
            return decision_for(document)

        return cache.get_or_load("alice", "read", document, ask)

    return allowed(await asyncio.gather(*map(load, DOCUMENTS)))


async def filtered(cache):
    """Returns the allowed documents by `filter_allowed`."""
    return await cache.filter_allowed("alice", "read", DOCUMENTS, ask_for_many)


@pytest.mark.benchmark(group="filter")
def test_filter(compare):
    """Filtering 1,000 documents whose decisions are cached."""
    with hosted({"cache": RustPolicyCache}) as hosts:
        host = hosts["cache"]
        cache = host.subject
        expected = host.run(filtered(cache))
        ways = {
            "await cache.get() for each": lambda: one_by_one(cache.get),
            "await cache.get_decision() for each": lambda: one_by_one(cache.get_decision),
            "await cache.filter_allowed()": lambda: filtered(cache),
        }
        for way in ways.values():
            assert host.run(way()) == expected
        turns = {name: lambda way=way: host.run(way()) for name, way in ways.items()}
        compare(turns, rounds=101)
        assert cache.metrics.misses == len(DOCUMENTS), "only the first call loaded"


@pytest.mark.benchmark(group="filter")
def test_filter_of_misses(compare):
    """Filtering 1,000 documents that all miss, with a policy engine that takes 5 ms."""
    with hosted({"cache": RustPolicyCache}) as hosts:
        host = hosts["cache"]
        cache = host.subject
        ways = {
            "await get_or_load() for each, gathered": lambda: gathered(cache),
            "await cache.filter_allowed()": lambda: filtered(cache),
            "one call of the policy engine, no cache": lambda: ask_for_many(
                [("alice", "read", document, None) for document in DOCUMENTS]
            ),
        }
        compare(
            {name: lambda way=way: host.run(way()) for name, way in ways.items()},
            rounds=21,
            before=dict.fromkeys(ways, lambda: host.run(cache.clear())),
        )
