"""Replies of a server, read with suspicion: a proxy may answer anything, of any kind and length.

A reply that cannot be read is no answer. Everything here raises `UnavailableError` for one, and
nothing else.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeGuard, TypeVar

from sark_cache.backends.redis.connection import UnavailableError

T = TypeVar("T")

POSITION = re.compile(r"[0-9a-f]{24}")
MAX_INTEGER: Final = 2**63 - 1
UNREADABLE = "a reply that cannot be read"
MISSHAPEN: Final = (TypeError, ValueError, LookupError, AttributeError, RecursionError)
"""What readers raise for a reply of another shape: those here, and those of the clients."""
MOST_CURSOR: Final = 2**64 - 1


class At(NamedTuple):
    """The log's newest record, and what was recorded before it and after what was known."""

    position: str | None = None
    news: list[str] | None = None
    """Records, newest first; None: too many, or what was known is not in the log."""


class Held(NamedTuple):
    """What a key holds."""

    value: str | bytes | None
    left_ms: int


class Page(NamedTuple):
    """A step of a walk over all keys."""

    cursor: int
    """Where the next step begins; 0: this was the last one."""
    keys: list[str]


def read(reader: Callable[[Any], T], reply: object) -> T:
    """Returns what a reader of this module makes of a reply.

    Raises:
        UnavailableError: The reply is none, but an error; or it cannot be read.
    """
    if isinstance(reply, UnavailableError):
        raise reply
    try:
        return reader(reply)
    except MISSHAPEN:
        raise UnavailableError(UNREADABLE) from None


def integer(reply: object) -> int:
    """Reads an integer of 64 bits."""
    if type(reply) is not int or not -MAX_INTEGER <= reply <= MAX_INTEGER:
        raise TypeError
    return reply


def count(reply: object) -> int:
    """Reads an integer, 0 or more."""
    number = integer(reply)
    if number < 0:
        raise ValueError
    return number


def done(reply: object) -> None:
    """Reads the 1 of a script that did what it does."""
    if integer(reply) != 1:
        raise ValueError


def text(reply: object) -> str:
    """Reads text, from a client that decodes or one that does not."""
    if isinstance(reply, bytes):
        return reply.decode()
    if not isinstance(reply, str):
        raise TypeError
    return reply


def position(reply: object) -> str | None:
    """Reads a position of the log; None if there is no log and none can be begun."""
    if reply is None:
        return None
    at = text(reply)
    if POSITION.fullmatch(at) is None:
        raise ValueError
    return at


def at_position(reply: Sequence[object]) -> At:
    """Reads a position and what is new since the one that was known."""
    newest, news = _items(reply, 2)
    return At(position(newest), None if news is None else [text(one) for one in _list(news)])


def held(reply: Sequence[object]) -> Held:
    """Reads the value of a key and the milliseconds it has left."""
    value, left = _items(reply, 2)
    if value is not None and not isinstance(value, str | bytes):
        raise TypeError
    return Held(value, integer(left))


def looked_up(reply: Sequence[object]) -> tuple[Held, str | None, At | None]:
    """Reads what a key holds, its marker and the log's position; None: it was not told."""
    held_items, rest = _list(reply)[:2], _list(reply)[2:]
    if not rest:
        return held(held_items), None, None
    marker = None if rest[0] is None else text(rest[0])
    return held(held_items), marker, at_position(rest[1:]) if rest[1:] else None


def many(reply: Sequence[object], number: int) -> list[Held]:
    """Reads what many keys hold."""
    items = _list(reply)
    return [held(items[2 * at : 2 * at + 2]) for at in range(number)]


def numbers(reply: Sequence[object], number: int) -> list[int]:
    """Reads so many integers."""
    return [integer(one) for one in _items(reply, number)]


def page(reply: Sequence[object]) -> Page:
    """Reads a step of a walk, from a client that makes a tuple of it or one that does not."""
    if not isinstance(reply, list | tuple):
        raise TypeError
    cursor, keys = reply
    number = cursor if type(cursor) is int else int(text(cursor))
    if not 0 <= number <= MOST_CURSOR:
        raise ValueError
    return Page(number, [text(key) for key in _list(keys)])


def run_id(info: Mapping[str, object]) -> str:
    """Reads from the server's information which run of which server it is."""
    return text(info["run_id"])


def keys_in_all(info: Mapping[str, Mapping[str, object]]) -> int:
    """Reads from the server's information how many keys its databases have together."""
    return sum(count(database["keys"]) for database in info.values())


def _list(reply: object) -> list[Any]:
    if not _is_list(reply):
        raise TypeError
    return reply


def _is_list(reply: object) -> TypeGuard[list[Any]]:
    return isinstance(reply, list)


def _items(reply: object, number: int) -> list[Any]:
    items = _list(reply)
    if len(items) != number:
        raise ValueError
    return items
