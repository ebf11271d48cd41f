"""The records of the log as revocations of a native cache.

The cache revokes what the record says, or more, never less. A record of an unknown form, one that
is too long, and one with a hashed key revoke everything. A hashed field covers all values. The
context of a record is ignored, so it covers the decisions for all contexts of its request.

| record | call |
|---|---|
| `{"begun": true}` | none |
| `{"history": ...}` | none: the reader itself notices a server with another history |
| `user_id`, `action`, `resource`, `policy`, `context`, `tags` | `_note_foreign` |
| `{"keys": [...]}` | `_note_foreign_key` for each key |
| `{"pattern": ...}` | `_note_foreign_pattern` |
| any other | `_flush` |
"""

import re
from typing import Any, Final, TypeAlias, TypeGuard, cast

from sark_cache._core.json import parse_json
from sark_cache._core.keys import parts_of

MAX_RECORD_CHARACTERS: Final = 256 * 1024
"""The maximum length of a record that is read. A longer one takes too long to read."""
MAX_TAGS: Final = 1_024
"""The maximum number of tags of a record that are applied one by one."""
_FIELDS: Final = ("user_id", "action", "resource", "policy")
_KNOWN: Final = frozenset({*_FIELDS, "context", "tags"})
_HASHED: Final = re.compile(r"#[0-9a-f]{32}")

Call: TypeAlias = tuple[str, tuple[Any, ...]]
"""The name of a method of `PolicyStore`, and its arguments."""

FLUSH: Final[tuple[Call, ...]] = (("_flush", ()),)
BEGIN: Final[tuple[Call, ...]] = (("_begin_to_follow", ()),)
"""The same as a flush, before a cache knows any position of the log. It is not counted."""


def calls_of(record: str | None, prefix: str) -> tuple[Call, ...]:
    """Returns the calls that apply a record to a native cache.

    Args:
        record: The contents of the record. None: they could not be read.
        prefix: The beginning of all keys of the namespace.
    """
    if record is None or len(record) > MAX_RECORD_CHARACTERS:
        return FLUSH
    try:
        read = parse_json(record)
        if type(read) is not dict:
            return FLUSH
        return _calls(cast("dict[str, Any]", read), prefix)
    except (ValueError, RecursionError):
        return FLUSH


def _calls(record: dict[str, Any], prefix: str) -> tuple[Call, ...]:
    if record.keys() == {"begun"} and record["begun"] is True:
        return ()
    if record.keys() == {"history"} and _is_text(record["history"]):
        return ()
    if record.keys() == {"keys"}:
        return _of_keys(record["keys"], prefix)
    if record.keys() == {"pattern"} and _is_text(record["pattern"]):
        return (("_note_foreign_pattern", (record["pattern"],)),)
    tags = record.get("tags", [])
    fields = [record.get(name) for name in _FIELDS]
    if (
        not record.keys() <= _KNOWN
        or not all(one is None or _is_text(one) for one in fields)
        or not _is_list(tags)
        or len(tags) > MAX_TAGS
        or not all(map(_is_text, tags))
    ):
        return FLUSH
    return (("_note_foreign", (*map(_spelled_out, fields), tags)),)


def _of_keys(keys: object, prefix: str) -> tuple[Call, ...]:
    if not _is_list(keys):
        return FLUSH
    calls: list[Call] = []
    for key in keys:
        if not isinstance(key, str) or parts_of(prefix, key) is None or not _is_text(key):
            return FLUSH  # hashed, or of another form
        calls.append(("_note_foreign_key", (key[len(prefix) + 1 :],)))
    return tuple(calls)


def _spelled_out(field: str | None) -> str | None:
    """Returns a field. None for a hashed one: it covers all values."""
    return None if field is None or _HASHED.fullmatch(field) else field


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return type(value) is list


def _is_text(value: object) -> bool:
    """Returns whether a value is a string that UTF-8 can encode."""
    if type(value) is not str:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
