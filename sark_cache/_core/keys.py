r"""The text of a decision's key in Redis, the same from every process, compiled module or not.

`{namespace}sark-cache:1:{policy}:{user}:{action}:{resource}:{context}`: each part percent-encoded
for `% : * ? [ ] \ { }` and control characters, so that no user id can act as a pattern, as another
part, or as a hash tag of a cluster. The context is `none`, or the first 32 hexadecimal digits of
the SHA-256 over its canonical bytes. Those are the compiled module's (`key.rs` says how they are
made): `1`, `1.0`, `True` and `"1"` differ, the order of keys does not matter, and an empty context
is none.

A namespace may end in anything, also in the text of another one's key: the parts of a key hold no
colon, so a key of exactly five parts after its prefix belongs to no other namespace.
"""

import re
import struct
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from sark_cache._core.json import JSON

FORMAT = "sark-cache:1"
"""What every key begins with, after the namespace: a text that no key of another cache has."""

_ENCODED = re.compile(r"[%:*?\[\]\\{}\x00-\x1f\x7f-\x9f]")
_PERCENT = {
    code: "".join(f"%{byte:02X}" for byte in chr(code).encode())
    for code in range(0xA0)
    if _ENCODED.match(chr(code))
}
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


def prefix_of(namespace: str) -> str:
    """Returns the text that the keys of a namespace begin with, but for the colon after it."""
    return f"{namespace}{FORMAT}"


def request_key(
    prefix: str,
    policy: str,
    user_id: str,
    action: str,
    resource: str,
    digits: str = NO_CONTEXT,
) -> RequestKey:
    """Returns the key of a request, whose context has a hash of these digits.

    Raises:
        UnicodeEncodeError: A part with a lone surrogate, which UTF-8 cannot hold.
    """
    parts = f"{_part(policy)}:{_part(user_id)}:{_part(action)}:{_part(resource)}"
    return RequestKey(f"{prefix}:{parts}:{digits[:CONTEXT_DIGITS]}", digits)


def digits_of(context: dict[str, JSON] | None) -> tuple[str, int]:
    """Returns all digits of a context's hash, and how many bytes were hashed."""
    if not context:
        return NO_CONTEXT, 0
    written = canonical(context)
    return sha256(written).hexdigest(), len(written)


class Scope(NamedTuple):
    """The decisions that a revocation names: those that have every part that is given."""

    user_id: str | None = None
    action: str | None = None
    resource: str | None = None
    policy: str | None = None
    context: str | None = None
    """All digits of a context's hash, or `none`."""

    def pattern(self, prefix: str) -> str:
        """Returns a Redis glob that every key of the scope matches, and perhaps some others."""
        parts = ["*" if part is None else part for part in self._parts()]
        while parts and parts[-1] == "*":
            parts.pop()
        rest = () if len(parts) == PARTS else ("*",)
        return ":".join((literal(prefix), *parts, *rest))

    def filter(self, prefix: str, keys: Iterable[str]) -> list[str]:
        """Returns those of `keys` that are in the scope."""
        wanted = [(at, part) for at, part in enumerate(self._parts()) if part is not None]
        found: list[str] = []
        for key in keys:
            parts = parts_of(prefix, key)
            if parts is not None and all(parts[at] == part for at, part in wanted):
                found.append(key)
        return found

    def _parts(self) -> list[str | None]:
        """The parts as they stand in a key, in their order."""
        fields = (self.policy, self.user_id, self.action, self.resource)
        digits = self.context and self.context[:CONTEXT_DIGITS]
        return [*(None if part is None else _part(part) for part in fields), digits]


PARTS = 5
"""Policy, user, action, resource and context."""


def parts_of(prefix: str, key: str) -> list[str] | None:
    """Returns the parts of a key as they are written in it; None if it is not under the prefix."""
    if not key.startswith(prefix) or key[len(prefix) : len(prefix) + 1] != ":":
        return None
    parts = key[len(prefix) + 1 :].split(":")
    return parts if len(parts) == PARTS else None


def is_plain(text: str) -> bool:
    """Whether a text stands in a key as it is."""
    return _ENCODED.search(text) is None


def literal(text: str) -> str:
    r"""Returns a glob that matches just `text`."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


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
    text = str.__str__(part)  # a subclass may write itself in another way
    return text if is_plain(text) else text.translate(_PERCENT)
