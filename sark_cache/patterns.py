"""Patterns: the Redis globs that `invalidate_pattern` takes, and the texts that they match.

The text of a decision is `policy:decision:{user}:{action}:{resource}:{context}`, without namespace
and policy. A pattern matches a decision if it matches one of three spellings of that text: the
encoded one, as in a key of Redis; the raw one, with nothing encoded; and that of SARK, the raw one
with `:` and `/` of the resource written as `_`. Matching too much revokes too much, which is safe.

A glob becomes a regular expression without backtracking over its runs: the time to match is at
worst the text's length times that of the pattern.
"""

import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from sark_cache.keys import is_plain, literal, parts_of

KEY_PREFIX = "policy:decision"
"""What the text of every decision begins with."""

_HEAD = f"{KEY_PREFIX}:"
_START = _HEAD.encode()
_OF_SARK = bytes.maketrans(b":/", b"__")


def matcher(prefix: str, pattern: str) -> Callable[[list[str]], list[str]]:
    """Returns a function that picks from keys those under a prefix whose text matches a glob."""
    matches = compiled(pattern).fullmatch

    def matching(keys: list[str]) -> list[str]:
        return [key for key in keys if any(map(matches, _spellings(prefix, key)))]

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


def compiled(pattern: str) -> re.Pattern[bytes]:
    r"""Returns a Redis glob as a regular expression for the whole of a text.

    Bytes are matched, as Redis does it: `*` any run, `?` any one byte, `[a-z]` one of, `[^a-z]`
    none of, `\x` x itself. An unclosed class ends where the pattern ends.
    """
    first, *rest = _segments(pattern.encode())
    if not rest:
        return re.compile(first, re.DOTALL)
    *between, last = rest
    runs = b"".join(b"(?>.*?%b)" % segment for segment in between if segment)
    return re.compile(first + runs + b".*" + last, re.DOTALL)


def _spellings(prefix: str, key: str) -> list[bytes]:
    parts = parts_of(prefix, key)
    if parts is None:
        return []
    encoded = [part.encode() for part in parts[1:]]
    raw = encoded if "%" not in key else [unquote_to_bytes(part) for part in parts[1:]]
    user, action, resource, context = raw
    spellings = [encoded, raw, [user, action, resource.translate(_OF_SARK), context]]
    return [_START + b":".join(spelling) for spelling in spellings]


def _segments(pattern: bytes) -> list[bytes]:
    """Returns the regular expressions for what stands between the runs of a glob."""
    segments = [b""]
    at = 0
    while at < len(pattern):
        one = pattern[at : at + 1]
        at += 1
        if one == b"*":
            segments.append(b"")
        elif one == b"?":
            segments[-1] += b"."
        elif one == b"[":
            expression, at = _class(pattern, at)
            segments[-1] += expression
        else:
            if one == b"\\" and at < len(pattern):
                one = pattern[at : at + 1]
                at += 1
            segments[-1] += re.escape(one)
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
