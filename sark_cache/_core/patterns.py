"""Redis globs that `invalidate_pattern` takes, and the texts that they are matched with.

The text of a decision is `policy:decision:{user}:{action}:{resource}:{context}`, without namespace
and policy. A pattern matches a decision if it matches one of three spellings of that text: the
encoded spelling of a key in Redis, the raw spelling, and SARK's spelling, which is the raw one with
`_` for each `:` and `/` of the resource. Matching too much revokes too much, which is safe.

No pattern and no key can block an event loop. The segments of a glob between its `*` are searched
one after the other, each at its first position, without backtracking. A segment without `?` and
classes takes time linear in the length of the text. A segment with them takes at worst the length
of the text times its own length, in steps of about a millisecond. The caller can run other tasks
between two steps.
"""

import re
from collections.abc import Callable, Generator, Iterable
from functools import cached_property
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

from sark_cache._core.keys import is_plain, literal, parts_of
from sark_cache._core.limits import KEY_PREFIX

_HEAD = f"{KEY_PREFIX}:"
_START = _HEAD.encode()
_OF_SARK = bytes.maketrans(b":/", b"__")


STEP: Final = 2**18
"""The maximum number of byte comparisons in one step."""

Matching: TypeAlias = Callable[[Iterable[str]], Generator[str | None]]
"""Selects keys. Yields each key that matches, and None after a long step or a key that does not."""


def matcher(prefix: str, pattern: str) -> Matching:
    """Returns a function that selects the keys of a prefix whose text matches a glob."""
    glob = Glob(pattern)

    def matching(keys: Iterable[str]) -> Generator[str | None]:
        for key in keys:
            for spelling in _spellings(prefix, key):
                if (yield from glob.steps(spelling)):
                    yield key
                    break
            else:
                yield None

    return matching


def candidates(prefix: str, pattern: str) -> str:
    """Returns a glob that matches every key whose text matches `pattern`, and other keys.

    The glob contains the beginning of the user id if the pattern has one. Servers then send fewer
    keys.
    """
    beginning = ""
    if pattern.startswith(_HEAD):
        plain = pattern[len(_HEAD) :]
        special = (at for at, character in enumerate(plain) if not is_plain(character))
        length = next(special, len(plain))
        beginning = plain[:length]
    return f"{literal(prefix)}:*:{beginning}*"


class Glob:
    r"""A Redis glob.

    It matches bytes, as Redis does: `*` matches any run of bytes, `?` any byte, `[a-z]` a byte of
    the class, `[^a-z]` a byte outside it, and `\x` the byte `x`. An unclosed class ends at the end
    of the pattern.
    """

    def __init__(self, pattern: str) -> None:
        first, *rest = _segments(pattern.encode())
        self._first: Final = first
        self._between: Final = [segment for segment in rest[:-1] if segment.length]
        self._last: Final = rest[-1] if rest else None

    def matches(self, text: bytes) -> bool:
        """Returns whether the whole text matches."""
        steps = self.steps(text)
        while True:
            try:
                next(steps)
            except StopIteration as ended:
                return bool(ended.value)

    def steps(self, text: bytes) -> Generator[None, None, bool]:
        """Returns whether the whole text matches. Yields after each `STEP` byte comparisons."""
        last = self._last
        at = self._first.length
        # Each segment matches texts of one length, so its first position is the best one.
        end = len(text) - (0 if last is None else last.length)
        if at > end or (last is None and at != end) or not self._first.is_at(text, 0):
            return False
        if last is not None and not last.is_at(text, end):
            return False
        for segment in self._between:
            found = yield from segment.found(text, at, end)
            if found < 0:
                return False
            at = found + segment.length
        return True


def _spellings(prefix: str, key: str) -> list[bytes]:
    parts = parts_of(prefix, key)
    if parts is None:
        return []
    encoded = [part.encode() for part in parts[1:]]
    raw = encoded if "%" not in key else [unquote_to_bytes(part) for part in parts[1:]]
    user, action, resource, context = raw
    spellings = (encoded, raw, [user, action, resource.translate(_OF_SARK), context])
    return list(dict.fromkeys(_START + b":".join(spelling) for spelling in spellings))


class _Segment:
    """A part of a glob between two `*`. All texts that it matches have the same length."""

    def __init__(self, length: int, text: bytes | None, expression: bytes) -> None:
        self.length: Final = length
        self._text: Final = text
        """The only text that matches. None: several texts match."""
        self._expression: Final = expression

    @cached_property
    def _compiled(self) -> re.Pattern[bytes]:
        # Compiled on first use: a glob may have hundreds of segments, and each takes some 50 µs.
        return re.compile(self._expression, re.DOTALL)

    def is_at(self, text: bytes, at: int) -> bool:
        """Returns whether the segment matches at an offset."""
        if self._text is not None:
            return text.startswith(self._text, at)
        return self._compiled.match(text, at) is not None

    def found(self, text: bytes, at: int, end: int) -> Generator[None, None, int]:
        """Returns the first offset from `at` at which the segment matches. -1: there is none."""
        if self._text is not None:
            return text.find(self._text, at, end)
        places = max(1, STEP // self.length)
        while at + self.length <= end:
            found = self._compiled.search(text, at, min(end, at + places + self.length - 1))
            yield
            if found is not None:
                return found.start()
            at += places
        return -1


def _segments(pattern: bytes) -> list[_Segment]:
    """Returns the segments of a glob: before its first `*`, between each two, after the last."""
    segments: list[_Segment] = []
    plain, expression, length, is_plain_text = b"", b"", 0, True

    def end() -> None:
        text = plain if is_plain_text else None
        segments.append(_Segment(length, text, expression))

    at = 0
    while at < len(pattern):
        byte = pattern[at : at + 1]
        at += 1
        if byte == b"*":
            end()
            plain, expression, length, is_plain_text = b"", b"", 0, True
            continue
        length += 1
        if byte == b"?":
            expression += b"."
            is_plain_text = False
        elif byte == b"[":
            members, at = _class(pattern, at)
            expression += members
            is_plain_text = False
        else:
            if byte == b"\\" and at < len(pattern):
                byte = pattern[at : at + 1]
                at += 1
            plain += byte
            expression += re.escape(byte)
    end()
    return segments


def _class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """Returns the regular expression for the class at an offset, and the offset after the class."""
    negated = pattern[at : at + 1] == b"^"
    at += negated
    taken: set[int] = set()
    while at < len(pattern) and pattern[at] != ord("]"):
        if pattern[at] == ord("\\"):
            at = min(at + 1, len(pattern) - 1)
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            low, high = sorted((pattern[at], pattern[at + 2]))
            taken.update(range(low, high + 1))
            at += 3
            continue
        taken.add(pattern[at])
        at += 1
    wanted = set(range(256)) - taken if negated else taken
    members = b"".join(b"\\x%02x" % byte for byte in sorted(wanted))
    return (b"[%b]" % members if members else b"(?!)"), at + 1
