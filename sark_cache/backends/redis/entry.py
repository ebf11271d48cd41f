"""The format of an entry in Redis: one JSON object that names its own request.

Before the object, the scripts store the history of the server and a space.

| member | |
|---|---|
| `key` | the text of the key |
| `context` | the whole hash of the context, of which the key contains half |
| `ttl` | the time to live, in seconds, with which the entry was stored |
| `tags` | the tags |
| `decision` | the decision |

A reader compares `key` and `context` with its request. So it recognizes an entry of a context with
the same half of the hash, and a reply that belongs to another command.
"""

import json
from typing import NamedTuple

from sark_cache._core.json import JSON, NotJSONError, parse_json
from sark_cache._core.keys import RequestKey
from sark_cache._core.limits import MAX_ENTRY_BYTES, MAX_TTL_SECONDS
from sark_cache.types import JSONObject


class CorruptEntryError(Exception):
    """A value that is not an entry of this request. The message says why, without its contents."""


class Entry(NamedTuple):
    """An entry as it was read."""

    decision: JSONObject
    ttl_seconds: float
    tags: tuple[str, ...]


def json_text(value: JSON) -> str:
    """Returns plain JSON as text.

    Raises:
        NotJSONError: The value contains an integer with more digits than Python converts.
    """
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        message = f"cannot be written as JSON: {error}"
        raise NotJSONError(message) from None


def size_of(text: str) -> int:
    """Returns the size of a text in bytes of UTF-8.

    Raises:
        UnicodeEncodeError: The text has a lone surrogate.
    """
    return len(text) if text.isascii() else len(text.encode())


def encode(
    key: RequestKey, key_size: int, decision: str, ttl_seconds: float, tags: tuple[str, ...]
) -> str:
    """Returns the text of an entry.

    Args:
        key: The key of the request.
        key_size: The size of the request with its context, in bytes. It counts towards the limit.
        decision: The decision, a JSON object as text.
        ttl_seconds: The time to live, in seconds.
        tags: Tags by which the entry can be revoked.

    Raises:
        NotJSONError: The entry is larger than `MAX_ENTRY_BYTES`.
    """
    head: JSON = {"key": key.text, "context": key.context, "ttl": ttl_seconds, "tags": list(tags)}
    size = key_size + size_of(decision) + sum(map(size_of, tags))
    if size > MAX_ENTRY_BYTES:
        message = f"the entry takes {size} bytes and at most {MAX_ENTRY_BYTES} are allowed"
        raise NotJSONError(message)
    return f'{json_text(head)[:-1]},"decision":{decision}}}'


def decode(text: str | bytes, key: RequestKey) -> Entry:
    """Reads the entry of a request.

    Raises:
        CorruptEntryError: The text is not an entry, or is one of another request.
    """
    try:
        entry = parse_json(text)
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
    if not 0 < read.ttl_seconds <= MAX_TTL_SECONDS or not all(
        type(tag) is str for tag in read.tags
    ):
        message = "an entry with an invalid time to live or invalid tags"
        raise CorruptEntryError(message)
    return read
