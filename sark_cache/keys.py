r"""The text of a decision's key in Redis, the same from every process, compiled module or not.

`policy:decision:{user}:{action}:{resource}:{context}`: each part percent-encoded for
`% : * ? [ ] \` and control characters, so that no user id can act as a pattern or as another
part; the context `none`, or the first 32 hexadecimal digits of the SHA-256 over its canonical
bytes. Those are the compiled module's (`key.rs` says how they are made): `1`, `1.0`, `True` and
`"1"` differ, the order of keys does not matter, and an empty context is none.
"""

import re
import struct
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from sark_cache.plain import JSON

_ENCODED = re.compile(r"[%:*?\[\]\\\x00-\x1f\x7f-\x9f]")
_INT_64 = range(-(2**63), 2**63)
_length = struct.Struct("<I").pack
_integer = struct.Struct("<bq").pack
_float = struct.Struct("<bd").pack

NO_CONTEXT = "none"
CONTEXT_DIGITS = 32


class RequestKey(NamedTuple):
    """Where a decision is kept, and what tells it from any other that might be kept there."""

    text: str
    context: str
    """All 64 digits of the context's hash, of which the text has half; `none` without one."""


def request_key(
    prefix: str, user_id: str, action: str, resource: str, context: dict[str, JSON] | None
) -> RequestKey:
    """The key of a request whose context is plain JSON.

    Raises:
        UnicodeEncodeError: A part with a lone surrogate, which UTF-8 cannot hold.
    """
    digits = sha256(canonical(context)).hexdigest() if context else NO_CONTEXT
    parts = f"{_part(user_id)}:{_part(action)}:{_part(resource)}"
    return RequestKey(f"{prefix}:{parts}:{digits[:CONTEXT_DIGITS]}", digits)


class Scope(NamedTuple):
    """Which keys an invalidation is about: those that have every part that is given."""

    user_id: str | None
    action: str | None
    resource: str | None

    def pattern(self, prefix: str) -> str:
        """A Redis glob that every key of the scope matches, and perhaps some others."""
        parts = [_part(part) if part is not None else "*" for part in self]
        while parts and parts[-1] == "*":
            parts.pop()
        return ":".join((_literal(prefix), *parts, "*"))

    def filter(self, prefix: str, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that are in the scope."""
        start = len(prefix) + 1
        wanted = [(at, _part(part)) for at, part in enumerate(self) if part is not None]
        found: list[str] = []
        for key in keys:
            parts = key[start:].split(":")
            if len(parts) == PARTS and all(parts[at] == part for at, part in wanted):
                found.append(key)
        return found


PARTS = 4
"""User, action, resource and context."""


def canonical(value: JSON) -> bytes:
    """The canonical bytes of plain JSON: equal exactly when the values are."""
    written = bytearray()
    _write(written, value)
    return bytes(written)


def _write(to: bytearray, value: JSON) -> None:
    if isinstance(value, str):
        to += b"\x06"
        _text(to, value)
    elif value is None:
        to += b"\x00"
    elif isinstance(value, bool):
        to += b"\x02" if value else b"\x01"
    elif isinstance(value, int):
        if value in _INT_64:
            to += _integer(3, value)
        else:
            to += b"\x04"
            _text(to, f"{value:x}")
    elif isinstance(value, float):
        to += _float(5, value)
    elif isinstance(value, list):
        to += b"\x07"
        to += _length(len(value))
        for item in value:
            _write(to, item)
    else:
        to += b"\x08"
        to += _length(len(value))
        # By code point is by byte in UTF-8.
        for name in sorted(value):
            _text(to, name)
            _write(to, value[name])


def _text(to: bytearray, text: str) -> None:
    encoded = text.encode()
    to += _length(len(encoded))
    to += encoded


def _part(part: str) -> str:
    return _ENCODED.sub(_percent, part)


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode())


def _literal(text: str) -> str:
    r"""A glob that matches just `text`."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)
