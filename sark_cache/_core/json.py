"""Plain JSON: what a Python object is as JSON, or the reason why it is none.

The same reading as the compiled module's, for the caches that are written in Python: subclasses and
other mappings are asked for their items once, and what comes out holds nothing of the caller's. One
pass, about 0.3 µs a value.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeGuard

JSON: TypeAlias = dict[str, "JSON"] | list["JSON"] | str | int | float | bool | None

Items: TypeAlias = list[Any] | tuple[Any, ...]
Fields: TypeAlias = Mapping[Any, Any]

MAX_DEPTH = 64
"""How deep lists and mappings may be nested."""
MAX_BYTES = 65_536
"""The most bytes of an entry, and so the most values and bytes of text that one can have."""


MAX_TEXT = 4 * MAX_BYTES
"""The longest JSON text that is parsed."""
MAX_PARSED_DEPTH = MAX_DEPTH + 2
"""How deep that may be nested: a value within an entry."""
_NESTING = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{\]}]', re.DOTALL)


class NotJSONError(ValueError):
    """An object is not JSON, or too deep or too large to be stored; says why, and never what."""


def plain(value: object) -> JSON:
    """A copy of `value` made of exact dicts, lists, str, int, float, bool and None.

    Raises:
        NotJSONError: It is not JSON, or an object's own code raised; that is then the cause.
    """
    return _Reading().read(value, 0)


def plain_mapping(value: Fields) -> dict[str, JSON]:
    """The same for a mapping.

    Raises:
        NotJSONError: As `plain`.
    """
    return _Reading().mapping(value, 0)


def parsed(text: str | bytes) -> Any:  # noqa: ANN401 - whatever the text says
    """Returns what JSON text from another process says.

    The depth is looked at first: the parser recurses on the stack, which a thread may have little
    of, and would crash.

    Raises:
        ValueError: It is not JSON, too deep or too long.
    """
    if len(text) > MAX_TEXT:
        message = f"JSON text longer than {MAX_TEXT}"
        raise ValueError(message)
    if _is_too_deep(text if isinstance(text, bytes) else text.encode(errors="surrogatepass")):
        message = f"JSON text nested deeper than {MAX_PARSED_DEPTH} levels"
        raise ValueError(message)
    return json.loads(text)


def _is_too_deep(text: bytes) -> bool:
    if text.count(b"{") + text.count(b"[") <= MAX_PARSED_DEPTH:
        return False
    depth = 0
    for token in _NESTING.findall(text):
        if token in b"{[":
            depth += 1
            if depth > MAX_PARSED_DEPTH:
                return True
        elif token in b"]}":
            depth -= 1
    return False


class _Reading:
    """One reading, which ends when more was read than could be stored."""

    def __init__(self) -> None:
        self._left = MAX_BYTES

    def read(self, value: Any, depth: int) -> JSON:  # noqa: ANN401 - whatever a caller has
        if isinstance(value, str):
            return self.text(value)
        self._take(1)
        if value is None or value is True or value is False:
            return value
        if isinstance(value, int):
            return int.__int__(value)
        if isinstance(value, float):
            if not math.isfinite(value):
                message = "a float that is infinite or not a number"
                raise NotJSONError(message)
            return float.__float__(value)
        if _is_list(value):
            return self.items(value, depth)
        if _is_mapping(value):
            return self.mapping(value, depth)
        message = (
            f"a value of type {type_name(value)} is not JSON (str, int, float, bool, None, list, "
            "tuple, dict with str keys)"
        )
        raise NotJSONError(message)

    def text(self, text: str) -> str:
        try:
            # Long text is refused before it is encoded.
            self._take(1 + len(text))
            if not text.isascii():
                self._take(len(text.encode()) - len(text))
        except UnicodeEncodeError:
            message = "a string with a lone surrogate, which UTF-8 cannot hold"
            raise NotJSONError(message) from None
        return str.__str__(text)

    def items(self, items: Items, depth: int) -> list[JSON]:
        self._enter(depth)
        if type(items) is not list and type(items) is not tuple:
            return [self.read(item, depth + 1) for item in self._told_by(lambda: items)]
        return [self.read(item, depth + 1) for item in tuple(items)]

    def mapping(self, mapping: Fields, depth: int) -> dict[str, JSON]:
        self._enter(depth)
        if type(mapping) is dict:
            fields: list[Any] = [*mapping.items()]
        else:
            fields = self._told_by(mapping.items)
        read: dict[str, JSON] = {}
        for name, value in fields:
            if not isinstance(name, str):
                message = f"a mapping with a key of type {type_name(name)}; JSON keys are str"
                raise NotJSONError(message)
            name = self.text(name)  # noqa: PLW2901 - what a subclass calls itself ends here
            if name in read:
                message = "the same key twice in one mapping"
                raise NotJSONError(message)
            read[name] = self.read(value, depth + 1)
        return read

    def _told_by(self, own_code: Callable[[], Iterable[Any]]) -> list[Any]:
        """What an object's own code hands out, which may raise, or have no end."""
        told: list[Any] = []
        try:
            for item in own_code():
                self._take(1)
                told.append(item)
        except NotJSONError:
            raise
        except Exception as error:
            # Its type alone: its message may hold what the request was about.
            message = f"an object's own code raised {type(error).__name__}"
            raise NotJSONError(message) from error
        return told

    @staticmethod
    def _enter(depth: int) -> None:
        if depth == MAX_DEPTH:
            message = f"nested deeper than {MAX_DEPTH} levels"
            raise NotJSONError(message)

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            message = f"larger than the {MAX_BYTES} bytes that are allowed"
            raise NotJSONError(message)


def _is_list(value: object) -> TypeGuard[Items]:
    return isinstance(value, list | tuple)


def _is_mapping(value: object) -> TypeGuard[Fields]:
    return isinstance(value, Mapping)


def type_name(value: object) -> str:
    """The name of an object's type, for messages."""
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"
