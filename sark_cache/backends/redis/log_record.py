"""The contents of the records in the invalidation log, and the form of fields and keys in it."""

from hashlib import sha256
from typing import Any, TypeAlias

from sark_cache._core.keys import RequestKey, Scope

LogRecord: TypeAlias = dict[str, Any]
"""The contents of a record of the log: fields and tags, or `keys`, or a `pattern`."""

LONGEST_LOGGED = 256
"""The maximum length of a field or key in the log, in characters. A longer one is hashed."""


def subject(key: RequestKey, scope: Scope) -> dict[str, Any]:
    """Returns the key and fields that records of the log are matched against."""
    return {"key": logged(key.text), **fields_of(scope)}


def logged(text: str) -> str:
    """Returns the form of a field or key in the log: the text itself, or a hash of a long one."""
    if len(text) <= LONGEST_LOGGED:
        return text
    return f"#{sha256(text.encode()).hexdigest()[:32]}"


def fields_of(scope: Scope) -> dict[str, str]:
    """Returns the given fields of a scope, in the form of the log."""
    return {name: logged(part) for name, part in scope._asdict().items() if part is not None}
