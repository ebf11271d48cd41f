r"""The keys of decisions in Redis, the same in every process, with the compiled module or without.

A key is `{namespace}sark-cache:1:{policy}:{user}:{action}:{resource}:{context}`. In each part, the
characters `% : * ? [ ] \ { }` and control characters are percent-encoded, so no user id can act as
a pattern, as another part, or as a hash tag of a cluster. The context is `none`, or the first 32
hexadecimal digits of the SHA-256 of its canonical bytes. Those bytes are the compiled module's; its
`key/mod.rs` defines them. `1`, `1.0`, `True` and `"1"` differ, the order of names does not matter,
and an empty context equals no context.

A namespace may have any ending, even the text of another namespace's key. The parts of a key hold
no colon, so a key with exactly five parts after its prefix belongs to no other namespace.
"""

import re
import struct
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from sark_cache._core.json import JSON

FORMAT = "sark-cache:1"
"""The beginning of every key, after the namespace. No other cache's keys have this text.

A scan looks for keys of this format alone. So another format needs a log of its own: the note in
the head that no decision is stored would not be true of it.
"""

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
    """The key of a decision in Redis, and the full hash of its context."""

    text: str
    context: str
    """All 64 digits of the context's hash; the text has half of them. `none`: no context."""


def prefix_of(namespace: str) -> str:
    """Returns the beginning of a namespace's keys, without the colon that follows it."""
    return f"{namespace}{FORMAT}"


def request_key(
    prefix: str,
    policy: str,
    user_id: str,
    action: str,
    resource: str,
    digits: str = NO_CONTEXT,
) -> RequestKey:
    """Returns the key of a request whose context has the hash `digits`.

    Raises:
        UnicodeEncodeError: A part has a lone surrogate, which UTF-8 cannot hold.
    """
    parts = f"{_part(policy)}:{_part(user_id)}:{_part(action)}:{_part(resource)}"
    return RequestKey(f"{prefix}:{parts}:{digits[:CONTEXT_DIGITS]}", digits)


def digits_of(context: dict[str, JSON] | None) -> tuple[str, int]:
    """Returns all digits of a context's hash, and the number of hashed bytes."""
    if not context:
        return NO_CONTEXT, 0
    written = canonical(context)
    return sha256(written).hexdigest(), len(written)


class Scope(NamedTuple):
    """The scope of a revocation: all decisions that have every given part."""

    user_id: str | None = None
    action: str | None = None
    resource: str | None = None
    policy: str | None = None
    context: str | None = None
    """All digits of a context's hash, or `none`."""

    def pattern(self, prefix: str) -> str:
        """Returns a Redis glob that matches every key of the scope, and possibly other keys."""
        parts = ["*" if part is None else part for part in self._parts()]
        while parts and parts[-1] == "*":
            parts.pop()
        rest = () if len(parts) == PARTS else ("*",)
        return ":".join((literal(prefix), *parts, *rest))

    def filter(self, prefix: str, keys: Iterable[str]) -> list[str]:
        """Returns the `keys` that are in the scope."""
        wanted = [(at, part) for at, part in enumerate(self._parts()) if part is not None]
        found: list[str] = []
        for key in keys:
            parts = parts_of(prefix, key)
            if parts is not None and all(parts[at] == part for at, part in wanted):
                found.append(key)
        return found

    def _parts(self) -> list[str | None]:
        """Returns the parts as a key spells them, in the order of the key."""
        fields = (self.policy, self.user_id, self.action, self.resource)
        digits = self.context and self.context[:CONTEXT_DIGITS]
        return [*(None if part is None else _part(part) for part in fields), digits]


PARTS = 5
"""The number of parts of a key: policy, user, action, resource and context."""


def parts_of(prefix: str, key: str) -> list[str] | None:
    """Returns the encoded parts of a key. None: the key does not belong to the prefix."""
    if not key.startswith(prefix) or key[len(prefix) : len(prefix) + 1] != ":":
        return None
    parts = key[len(prefix) + 1 :].split(":")
    return parts if len(parts) == PARTS else None


def is_plain(text: str) -> bool:
    """Returns True if a key holds the text unchanged, without encoding."""
    return _ENCODED.search(text) is None


def literal(text: str) -> str:
    r"""Returns a glob that matches only `text`."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


def canonical(value: JSON) -> bytes:
    """Returns the canonical bytes of plain JSON. Different values have different bytes."""
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
        # The order of code points is the order of UTF-8 bytes.
        for name in sorted(value):
            _text(to, name)
            _write(to, value[name])


def _text(to: bytearray, text: str) -> None:
    encoded = text.encode()
    to += _length(len(encoded))
    to += encoded


def _part(part: str) -> str:
    text = str.__str__(part)  # ignores the `__str__` of a subclass
    return text if is_plain(text) else text.translate(_PERCENT)
