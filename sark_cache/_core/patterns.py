"""Patterns: the Redis globs that `invalidate_pattern` takes, and the texts that they match.

The text of a decision is `policy:decision:{user}:{action}:{resource}:{context}`, without namespace
and policy. A pattern matches a decision if it matches one of three spellings of that text: the
encoded one, as in a key of Redis; the raw one, with nothing encoded; and that of SARK, the raw one
with `:` and `/` of the resource written as `_`. Matching too much revokes too much, which is safe.

Whoever chooses the pattern and the keys must not hold an event loop. The texts between the runs of
a glob are found one after the other, each at its first place, without backtracking. One without
`?` and classes is found in time linear in the text's length. One with them takes the text's length
times its own at worst, in steps of about a millisecond, between which the caller may do other
things.
"""

import re
from collections.abc import Callable, Generator, Iterable
from functools import cached_property
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

from sark_cache._core.keys import is_plain, literal, parts_of

KEY_PREFIX = "policy:decision"
"""What the text of every decision begins with."""

_HEAD = f"{KEY_PREFIX}:"
_START = _HEAD.encode()
_OF_SARK = bytes.maketrans(b":/", b"__")


STEP: Final = 2**18
"""The bytes of a text that one step compares at most, counted as often as they are compared."""

Matching: TypeAlias = Callable[[Iterable[str]], Generator[str | None]]
"""Picks from keys. It yields those that match, and None after each step of one that takes long."""


def matcher(prefix: str, pattern: str) -> Matching:
    """Returns a function that picks from keys those under a prefix whose text matches a glob."""
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
    """Returns a glob over keys that all keys match whose text matches `pattern`, and others too.

    It has the beginning of the user id, where the pattern names one; so servers send fewer keys.
    """
    beginning = ""
    if pattern.startswith(_HEAD):
        plain = pattern[len(_HEAD) :]
        length = next((at for at, one in enumerate(plain) if not is_plain(one)), len(plain))
        beginning = plain[:length]
    return f"{literal(prefix)}:*:{beginning}*"


class Glob:
    r"""A Redis glob.

    Bytes are matched, as Redis does it: `*` any run, `?` any one byte, `[a-z]` one of, `[^a-z]`
    none of, `\x` x itself. An unclosed class ends where the pattern ends.
    """

    def __init__(self, pattern: str) -> None:
        first, *rest = _segments(pattern.encode())
        self._first: Final = first
        self._between: Final = [segment for segment in rest[:-1] if segment.length]
        self._last: Final = rest[-1] if rest else None

    def matches(self, text: bytes) -> bool:
        """Returns whether the whole of a text matches."""
        steps = self.steps(text)
        while True:
            try:
                next(steps)
            except StopIteration as ended:
                return bool(ended.value)

    def steps(self, text: bytes) -> Generator[None, None, bool]:
        """Returns whether the whole of a text matches, in steps that compare `STEP` bytes each."""
        last = self._last
        at = self._first.length
        # Every segment matches texts of one length, so the first place of each is the best one.
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
    """A part of a glob between two runs. All texts that it matches are of one length."""

    def __init__(self, length: int, text: bytes | None, expression: bytes) -> None:
        self.length: Final = length
        self._text: Final = text
        """The only text that matches; None: there are several."""
        self._expression: Final = expression

    @cached_property
    def _compiled(self) -> re.Pattern[bytes]:
        # When it is first needed: a glob may have hundreds, and each takes some 50 µs.
        return re.compile(self._expression, re.DOTALL)

    def is_at(self, text: bytes, at: int) -> bool:
        """Returns whether it matches at an offset."""
        if self._text is not None:
            return text.startswith(self._text, at)
        return self._compiled.match(text, at) is not None

    def found(self, text: bytes, at: int, end: int) -> Generator[None, None, int]:
        """Returns the first offset between two where it matches; -1: there is none."""
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
    """Returns what stands between the runs of a glob: before the first one, ..., after the last."""
    segments: list[_Segment] = []
    plain, expression, length, is_plain_text = b"", b"", 0, True

    def end() -> None:
        text = plain if is_plain_text else None
        segments.append(_Segment(length, text, expression))

    at = 0
    while at < len(pattern):
        one = pattern[at : at + 1]
        at += 1
        if one == b"*":
            end()
            plain, expression, length, is_plain_text = b"", b"", 0, True
            continue
        length += 1
        if one == b"?":
            expression += b"."
            is_plain_text = False
        elif one == b"[":
            members, at = _class(pattern, at)
            expression += members
            is_plain_text = False
        else:
            if one == b"\\" and at < len(pattern):
                one = pattern[at : at + 1]
                at += 1
            plain += one
            expression += re.escape(one)
    end()
    return segments


def _class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """Returns the regular expression for the class that begins at an offset, and where it ends."""
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
