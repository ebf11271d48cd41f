"""The general cache: any JSON under any JSON key, and bad input raises."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awaiting import ready
from json_values import JSON, TEXT, typed
from sark_cache import AsyncCache

KEYS = TEXT | st.lists(JSON, max_size=3).map(tuple)


@given(KEYS, KEYS, JSON)
def test_a_value_is_found_under_its_own_key_only(key, other, value):
    cache = AsyncCache()
    assert ready(cache.set(key, value)) is None
    assert typed(ready(cache.get(key))) == typed(value)
    if typed(key) != typed(other):
        assert ready(cache.get(other)) is None


def test_a_str_and_a_tuple_of_it_are_different_keys():
    cache = AsyncCache()
    ready(cache.set("a", 1))
    ready(cache.set(("a",), 2))
    ready(cache.set((("a",),), 3))
    assert [ready(cache.get(key)) for key in ("a", ("a",), (("a",),))] == [1, 2, 3]


async def test_delete_clear_and_size():
    cache = AsyncCache(max_size=5_000)
    for i in range(3_000):
        await cache.set(("n", i), {"n": i})
    assert await cache.size() == 3_000
    assert await cache.delete(("n", 1)) is True
    assert await cache.delete(("n", 1)) is False
    assert await cache.clear() == 2_999
    assert await cache.size() == 0


async def test_values_expire_and_are_cleaned_up():
    cache = AsyncCache(ttl_seconds=0.05)
    await cache.set("short", 1)
    await cache.set("long", 2, 60)
    assert await cache.set("none", 3, 0) is None
    await asyncio.sleep(0.06)
    assert [await cache.get(key) for key in ("short", "long", "none")] == [None, 2, None]
    assert await cache.cleanup_expired() == 1
    assert await cache.size() == 1


async def test_limits_are_kept():
    cache = AsyncCache(2, 60.0, max_bytes=10_000, eviction="lru")
    for i in range(5):
        await cache.set(str(i), i)
    assert await cache.size() == 2
    with pytest.raises(ValueError, match="9480 are allowed"):
        await cache.set("large", "x" * 9_700)


@pytest.mark.parametrize("key", [None, 1, b"a", ["a"], {"a": 1}, object()])
async def test_a_key_that_is_neither_str_nor_tuple_is_a_type_error(key):
    cache = AsyncCache()
    for call in (lambda: cache.get(key), lambda: cache.set(key, 1), lambda: cache.delete(key)):
        with pytest.raises(TypeError, match="key must be a str or a tuple of JSON values, not "):
            await call()


async def test_a_value_that_is_not_json_is_a_value_error():
    cache = AsyncCache()
    with pytest.raises(ValueError, match="type object is not JSON"):
        await cache.get(("a", object()))
    with pytest.raises(ValueError, match="type set is not JSON"):
        await cache.set("a", {1})
    with pytest.raises(ValueError, match="a key of type int"):
        await cache.set("a", {1: 1})
    with pytest.raises(ValueError, match="infinite or not a number"):
        await cache.set("a", float("nan"))
    with pytest.raises(ValueError, match="lone surrogate"):
        await cache.set("\ud800", 1)
    assert await cache.size() == 0
