"""A decision as it is kept in Redis: one JSON object that says whose it is.

`{"key", "context", "ttl", "tags", "decision"}`: the key and the whole hash of its context, so that
neither half a hash in common nor a reply that belongs to another command can pass for an answer;
the time to live in seconds it was stored with; the tags; the decision.
"""

import json
from typing import NamedTuple

from sark_cache._core.arguments import LONGEST_TTL
from sark_cache._core.json import JSON, MAX_BYTES, NotJSONError, parsed
from sark_cache._core.keys import RequestKey
from sark_cache.types import JSONObject


class CorruptEntryError(Exception):
    """What a key holds is no decision of this request; says why, and never what."""


class Entry(NamedTuple):
    """What was read."""

    decision: JSONObject
    ttl_seconds: float
    tags: tuple[str, ...]


def json_text(value: JSON) -> str:
    """Plain JSON as text.

    Raises:
        NotJSONError: It holds an integer of more digits than Python writes.
    """
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        message = f"it cannot be written as JSON: {error}"
        raise NotJSONError(message) from None


def size_of(text: str) -> int:
    """Returns the size of a text in bytes of UTF-8.

    Raises:
        UnicodeEncodeError: It has a lone surrogate.
    """
    return len(text) if text.isascii() else len(text.encode())


def encode(
    key: RequestKey, key_size: int, decision: str, ttl_seconds: float, tags: tuple[str, ...]
) -> str:
    """Returns the text of an entry, whose decision is text already.

    Args:
        key: Where it is kept.
        key_size: The bytes of the request, its context included, which count.
        decision: A JSON object.
        ttl_seconds: How long it lives.
        tags: Names to revoke it by.

    Raises:
        NotJSONError: It is too large.
    """
    head: JSON = {"key": key.text, "context": key.context, "ttl": ttl_seconds, "tags": list(tags)}
    size = key_size + size_of(decision) + sum(map(size_of, tags))
    if size > MAX_BYTES:
        message = f"an entry of {size} bytes, of which {MAX_BYTES} are allowed"
        raise NotJSONError(message)
    return f'{json_text(head)[:-1]},"decision":{decision}}}'


def decode(text: str | bytes, key: RequestKey) -> Entry:
    """Reads an entry.

    Raises:
        CorruptEntryError: It is none, or not this request's.
    """
    try:
        entry = parsed(text)
        found = RequestKey(entry["key"], entry["context"])
        read = Entry(entry["decision"], float(entry["ttl"]), tuple(entry["tags"]))
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        message = "an entry that cannot be read"
        raise CorruptEntryError(message) from None
    if found != key:
        message = "an entry of another request"
        raise CorruptEntryError(message)
    if type(read.decision) is not dict:
        message = "an entry without a decision"
        raise CorruptEntryError(message)
    if not 0 < read.ttl_seconds <= LONGEST_TTL or not all(type(tag) is str for tag in read.tags):
        message = "an entry with a time to live or tags that are none"
        raise CorruptEntryError(message)
    return read
