"""A record of the log revokes what it says in a native cache, or more, and never less."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark_cache._core.keys import prefix_of, request_key
from sark_cache.backends.tiered.own_records import MAX_NONCES, OwnRecords
from sark_cache.backends.tiered.records import (
    FLUSH,
    MAX_RECORD_CHARACTERS,
    MAX_TAGS,
    calls_of,
)

PREFIX = prefix_of("shop:")
HASH = "#" + "0" * 32


def read(record):
    return calls_of(json.dumps(record), PREFIX)


def test_a_record_that_begins_the_log_revokes_nothing():
    assert read({"begun": True}) == ()
    assert read({"history": "0123456789abcdef"}) == (), "the reader itself compares histories"


@pytest.mark.parametrize(
    ("record", "arguments"),
    [
        ({}, (None, None, None, None, [])),
        ({"user_id": "alice"}, ("alice", None, None, None, [])),
        ({"action": "read", "resource": "doc"}, (None, "read", "doc", None, [])),
        ({"policy": "", "context": "none"}, (None, None, None, "", [])),
        ({"tags": ["a", "b"]}, (None, None, None, None, ["a", "b"])),
        ({"user_id": HASH, "action": "read"}, (None, "read", None, None, [])),
    ],
)
def test_fields_and_tags_are_revoked_together_and_a_hash_covers_all_values(record, arguments):
    assert read(record) == (("_note_foreign", arguments),)


def test_a_pattern_is_revoked():
    assert read({"pattern": "policy:*"}) == (("_note_foreign_pattern", ("policy:*",)),)


def test_keys_of_this_namespace_are_revoked_one_by_one():
    key = request_key(PREFIX, "p", "alice", "read", "doc:1").text
    assert read({"keys": [key]}) == (("_note_foreign_key", ("p:alice:read:doc%3A1:none",)),)


@pytest.mark.parametrize(
    "record",
    [
        {"keys": [HASH]},
        {"keys": ["other:sark-cache:1:p:u:a:r:none"]},
        {"keys": "none"},
        {"keys": [1]},
        {"pattern": 1},
        {"pattern": "\ud800"},
        {"begun": 1},
        {"history": 1},
        {"history": "0123456789abcdef", "user_id": "alice"},
        {"begun": True, "user_id": "alice"},
        {"user_id": 1},
        {"user_id": "\ud800"},
        {"tags": "a"},
        {"tags": [1]},
        {"tags": ["a"] * (MAX_TAGS + 1)},
        {"from": "a newer version"},
        {"user_id": "alice", "pattern": "*"},
        [],
        None,
        1,
        "alice",
    ],
)
def test_any_other_record_revokes_everything(record):
    assert read(record) == FLUSH


@pytest.mark.parametrize("text", [None, "", "{", "[" * 100_000, " " * (MAX_RECORD_CHARACTERS + 1)])
def test_a_record_that_cannot_be_read_revokes_everything(text):
    assert calls_of(text, PREFIX) == FLUSH


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON | st.text())
def test_no_record_raises(record):
    for name, arguments in calls_of(
        record if isinstance(record, str) else json.dumps(record), PREFIX
    ):
        assert name.startswith("_")
        assert isinstance(arguments, tuple)


# The records of a cache itself


def test_an_own_record_is_taken_once():
    own = OwnRecords()
    own.note("a")
    assert own.take("a")
    assert not own.take("a")
    assert not own.take("b")


def test_the_oldest_own_records_are_forgotten_beyond_a_number():
    own = OwnRecords()
    for number in range(MAX_NONCES + 10):
        own.note(str(number))
    assert not own.take("9")
    assert own.take("10")
