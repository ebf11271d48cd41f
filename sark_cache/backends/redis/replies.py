"""Readers of replies. They check type and length, because a proxy may answer anything.

A reply that cannot be read counts as no answer: `read` raises `UnavailableError` for it. The other
functions raise one of the errors in `MISSHAPEN`, and are called through `read`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeGuard, TypeVar

from sark_cache._core.errors import UNREADABLE, UnavailableError
from sark_cache.backends.redis.scripts import MAYBE, NONE, REMOVED

T = TypeVar("T")

POSITION = re.compile(r"[0-9]{1,20}-[0-9]{1,20}\.[0-9a-f]{16}")
SPAN = re.compile(r"[0-9]{1,5}")
SLOTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
MAX_SLOT: Final = 16_383
MAX_INTEGER: Final = 2**63 - 1
MISSHAPEN: Final = (TypeError, ValueError, LookupError, AttributeError, RecursionError)
"""The errors that readers raise for a reply of another shape: these readers, and the clients'."""
MOST_CURSOR: Final = 2**64 - 1


class At(NamedTuple):
    """The log's position, and the records that are newer than the position that was known."""

    position: str | None = None
    """None: there is no log, and the server cannot start one."""
    news: list[str] | None = None
    """The position and contents of each record, with a space between them, newest first.

    None: too many, or the known position is not in the log.
    """


class AppendReply(NamedTuple):
    """The reply to a record."""

    position: str | None
    """Its position. None: memory ran out, and the log was removed."""
    stored: str = MAYBE
    """The head's note about stored decisions: `MAYBE`, `NONE`, or a position (see `scripts`)."""


class Fleet(NamedTuple):
    """The processes that read the log, and the state of the log, at one moment."""

    replication: str
    """The id of the replication. Empty: the server is no primary, or does not report it."""
    generation: str
    """The generation of the registrations. Empty: there is none."""
    span_ms: int | None
    """The span of the log, in milliseconds. None: there is none."""
    readers: int
    behind: int
    """The number of readers that have not applied the record."""
    record: str | None
    """The position of the record. None: it is not in the log."""
    has_known: bool
    """True if the known position is in the log."""
    marks: list[str]
    """The marks of readers that have not applied the record."""


class Held(NamedTuple):
    """The value of a key and the time it has left."""

    value: str | bytes | None
    left_ms: int


class Page(NamedTuple):
    """The reply to one step of a scan."""

    cursor: int
    """The cursor of the next step. 0: this was the last one."""
    keys: list[str]
    """The keys that are UTF-8. Another key is not one of this package, and is left out."""
    size: int
    """The size of all keys, in bytes or characters."""


class Replication(NamedTuple):
    """The role of a server."""

    is_primary: bool
    replicas: int
    """The number of connected replicas."""


class Node(NamedTuple):
    """A node of a cluster."""

    is_primary: bool
    slots: tuple[str, ...]
    """The ranges of slots that it stores."""
    is_moving: bool
    """True if one of its slots is being moved."""


def read(reader: Callable[[Any], T], reply: object) -> T:
    """Returns the result of a reader of this module for a reply.

    Raises:
        UnavailableError: The reply is such an error, or the reader cannot read it.
    """
    if isinstance(reply, UnavailableError):
        raise reply
    try:
        return reader(reply)
    except MISSHAPEN:
        raise UnavailableError(UNREADABLE) from None


def integer(reply: object) -> int:
    """Reads a 64-bit integer."""
    if type(reply) is not int or not -MAX_INTEGER <= reply <= MAX_INTEGER:
        raise TypeError
    return reply


def count(reply: object) -> int:
    """Reads an integer, 0 or more."""
    number = integer(reply)
    if number < 0:
        raise ValueError
    return number


def text(reply: object) -> str:
    """Reads text. The client may or may not have decoded it."""
    if isinstance(reply, bytes):
        return reply.decode()
    if not isinstance(reply, str):
        raise TypeError
    return reply


def position(reply: object) -> str:
    """Reads a position of the log."""
    at = text(reply)
    if POSITION.fullmatch(at) is None:
        raise ValueError
    return at


def appended(reply: Sequence[object]) -> AppendReply:
    """Reads the position of a new record, and whether decisions may be stored."""
    at, stored = map(text, _items(reply, 2))
    if stored not in {MAYBE, NONE}:
        position(stored)
    return AppendReply(None if at == REMOVED else position(at), stored)


def fleet(reply: Sequence[object]) -> Fleet:
    """Reads the state of the log and of its readers."""
    replication, generation, span, readers, behind, record, known, marks = _items(reply, 8)
    return Fleet(
        text(replication),
        text(generation),
        _span(text(span)),
        count(readers),
        count(behind),
        position(record) if text(record) else None,
        count(known) > 0,
        [text(mark) for mark in _list(marks)],
    )


def at_position(reply: Sequence[object]) -> At:
    """Reads the log's position, and the records that are newer than the known one."""
    newest, news = _items(reply, 2)
    return At(
        None if newest is None else position(newest),
        None if news is None else [text(one) for one in _list(news)],
    )


def held(reply: Sequence[object]) -> Held:
    """Reads the value of a key and the milliseconds it has left."""
    value, left = _items(reply, 2)
    if value is not None and not isinstance(value, str | bytes):
        raise TypeError
    return Held(value, integer(left))


def looked_up(reply: Sequence[object]) -> tuple[Held, str | None, At | None]:
    """Reads the value of a key, its marker and the log's position. None: not in the reply."""
    held_items, rest = _list(reply)[:2], _list(reply)[2:]
    if not rest:
        return held(held_items), None, None
    marker = None if rest[0] is None else text(rest[0])
    return held(held_items), marker, at_position(rest[1:]) if rest[1:] else None


def many(reply: Sequence[object], number: int) -> list[Held]:
    """Reads the values of `number` keys."""
    items = _list(reply)
    return [held(items[2 * at : 2 * at + 2]) for at in range(number)]


def numbers(reply: Sequence[object], number: int) -> list[int]:
    """Reads exactly `number` integers."""
    return [integer(one) for one in _items(reply, number)]


def page(reply: Sequence[object]) -> Page:
    """Reads one step of a scan. Some clients return a tuple, others a list.

    Any client of the server can write a key that is not UTF-8. It must not fail the scan.
    """
    if not isinstance(reply, list | tuple):
        raise TypeError
    cursor, keys = reply
    number = cursor if type(cursor) is int else int(text(cursor))
    if not 0 <= number <= MOST_CURSOR:
        raise ValueError
    found = _list(keys)
    decoded = [_key(key) for key in found]
    return Page(number, [key for key in decoded if key is not None], sum(map(len, found)))


def run_id(info: Mapping[str, object]) -> str:
    """Reads the run id from a server's information. Each start of a server has its own."""
    return text(info["run_id"])


def role(reply: Sequence[object]) -> Replication:
    """Reads a reply to ROLE."""
    items = _list(reply)
    kind = text(items[0])
    if kind == "master":
        return Replication(is_primary=True, replicas=len(_list(_items(items, 3)[2])))
    if kind not in {"slave", "sentinel"}:
        raise ValueError
    return Replication(is_primary=False, replicas=0)


def replication(info: Mapping[str, object]) -> Replication:
    """Reads a server's information about its replicas."""
    kind = text(info["role"])
    if kind not in {"master", "slave"}:
        raise ValueError
    return Replication(kind == "master", count(info["connected_slaves"]))


def own_node(reply: object) -> Node:
    """Reads the line about the server itself in a reply to CLUSTER NODES."""
    for line in text(reply).splitlines():
        _, _, flags, _, _, _, _, _, *ranges = line.split()
        if "myself" not in flags.split(","):
            continue
        slots = tuple(one for one in ranges if not one.startswith("["))
        if not all(map(_is_slots, slots)):
            raise ValueError
        return Node("master" in flags.split(","), slots, is_moving=len(slots) < len(ranges))
    raise LookupError


def keys_in_all(info: Mapping[str, Mapping[str, object]]) -> int:
    """Reads the number of keys of all databases from a server's information."""
    return sum(count(database["keys"]) for database in info.values())


def _span(digits: str) -> int | None:
    """Reads a span in milliseconds. None: there is none."""
    if not digits:
        return None
    if SPAN.fullmatch(digits) is None:
        raise ValueError
    return int(digits)


def _key(reply: object) -> str | None:
    try:
        return text(reply)
    except UnicodeDecodeError:
        return None


def _is_slots(slots: str) -> bool:
    found = SLOTS.fullmatch(slots)
    return found is not None and int(found[1]) <= int(found[2] or found[1]) <= MAX_SLOT


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
