"""Conversion of Python objects to plain JSON, for the caches that are written in Python.

The result and the reasons for refusal are those of the compiled module. The items of subclasses and
other mappings are read once, and the result shares no object with the caller. The conversion makes
one pass and costs about 0.3 µs per value.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeGuard

from sark_cache._core.limits import MAX_DEPTH, MAX_ENTRY_BYTES

JSON: TypeAlias = dict[str, "JSON"] | list["JSON"] | str | int | float | bool | None

Items: TypeAlias = list[Any] | tuple[Any, ...]
Fields: TypeAlias = Mapping[Any, Any]

MAX_TEXT = 4 * MAX_ENTRY_BYTES
"""The maximum length of JSON text that is parsed."""
MAX_PARSED_DEPTH = MAX_DEPTH + 2
"""The maximum nesting depth of that text: two levels more than a value, for the entry around it."""
_NESTING = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{\]}]', re.DOTALL)


class NotJSONError(ValueError):
    """An object is not JSON, or too deep or too large to store.

    The message gives the reason and never shows the object.
    """


def to_plain_json(value: object) -> JSON:
    """Returns a copy of `value` that consists of exact dict, list, str, int, float, bool and None.

    Raises:
        NotJSONError: `value` is not JSON, or an object's own code raised an exception, which is
            then the cause.
    """
    return _Converter().convert(value, 0)


def to_plain_mapping(value: Fields) -> dict[str, JSON]:
    """Returns the same copy of a mapping, as a dict.

    Raises:
        NotJSONError: As `to_plain_json`.
    """
    return _Converter().mapping(value, 0)


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Parses JSON text that came from another process.

    The depth is checked first: the parser recurses, and would crash a thread with a small stack.

    Raises:
        ValueError: The text is not JSON, is too deep, or is too long.
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


class _Converter:
    """One conversion, which fails as soon as it has read more than an entry can hold."""

    def __init__(self) -> None:
        self._left = MAX_ENTRY_BYTES

    def convert(self, value: Any, depth: int) -> JSON:  # noqa: ANN401 - any object of a caller
        if isinstance(value, str):
            return self.text(value)
        self._charge(1)
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
            self._charge(1 + len(text))
            if not text.isascii():
                self._charge(len(text.encode()) - len(text))
        except UnicodeEncodeError:
            message = "a string with a lone surrogate, which UTF-8 cannot encode"
            raise NotJSONError(message) from None
        return str.__str__(text)

    def items(self, items: Items, depth: int) -> list[JSON]:
        self._enter(depth)
        if type(items) is not list and type(items) is not tuple:
            return [self.convert(item, depth + 1) for item in self._iterate_foreign(lambda: items)]
        return [self.convert(item, depth + 1) for item in tuple(items)]

    def mapping(self, mapping: Fields, depth: int) -> dict[str, JSON]:
        self._enter(depth)
        if type(mapping) is dict:
            fields: list[Any] = [*mapping.items()]
        else:
            fields = self._iterate_foreign(mapping.items)
        converted: dict[str, JSON] = {}
        for name, value in fields:
            if not isinstance(name, str):
                message = f"a mapping with a key of type {type_name(name)}; JSON keys are str"
                raise NotJSONError(message)
            name = self.text(name)  # noqa: PLW2901 - an exact str replaces a subclass of str
            if name in converted:
                message = "the same key twice in one mapping"
                raise NotJSONError(message)
            converted[name] = self.convert(value, depth + 1)
        return converted

    def _iterate_foreign(self, own_code: Callable[[], Iterable[Any]]) -> list[Any]:
        """Returns the items that an object's own code yields. That code may raise or never end."""
        items: list[Any] = []
        try:
            for item in own_code():
                self._charge(1)
                items.append(item)
        except NotJSONError:
            raise
        except Exception as error:
            # The message shows only the type: the error's text may hold data of the request.
            message = f"an object's own code raised {type(error).__name__}"
            raise NotJSONError(message) from error
        return items

    @staticmethod
    def _enter(depth: int) -> None:
        if depth == MAX_DEPTH:
            message = f"nested deeper than {MAX_DEPTH} levels"
            raise NotJSONError(message)

    def _charge(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            message = f"larger than the {MAX_ENTRY_BYTES} bytes that are allowed"
            raise NotJSONError(message)


def _is_list(value: object) -> TypeGuard[Items]:
    return isinstance(value, list | tuple)


def _is_mapping(value: object) -> TypeGuard[Fields]:
    return isinstance(value, Mapping)


def type_name(value: object) -> str:
    """Returns the qualified name of an object's type, for messages."""
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"
