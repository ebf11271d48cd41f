"""Rules: which requests are public, and which decision each other request needs."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple

from sark_cache._core import arguments, limits
from sark_cache.evaluation.constants import within

_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_METHOD: Final = re.compile(r"[A-Z]+(?:-[A-Z]+)*")

_CHARACTER: Final = r"[^/\\\x00-\x1f\x7f]"
_SEGMENT: Final = rf"(?!\.{{1,2}}(?:/|\Z)){_CHARACTER}+"
"""One part of a path. It is not empty, not `.` and not `..`, which a later program may resolve."""
_SEGMENTS: Final = rf"{_SEGMENT}(?:/{_SEGMENT})*"


@dataclass(frozen=True, slots=True)
class Rule:
    """The requests with some paths and methods, and the decision that they need.

    A placeholder `{name}` in `path` stands for one part of the path, and `{name:path}`, at the end,
    for one or more parts. The parts are decoded. No part may be empty, `.` or `..`, or have a
    backslash or a control character.

    Args:
        path: The path below `root_path`, such as `/documents/{document}`. It is compared with the
            whole path, letter by letter, so `/documents` and `/documents/` are two paths.
        methods: The methods. `GET` includes `HEAD`. `WEBSOCKET` stands for WebSockets. Empty: all.
        action: The action of the decision. It may have placeholders of `path`. None: the method of
            the request, and `GET` for `HEAD`.
        resource: The resource of the decision. It may have placeholders of `path`:
            `document:{document}`. None: the whole path of the request, decoded, including
            `root_path`.
        public: If True, these requests need no decision and no user.

    Raises:
        TypeError, ValueError: A field cannot be used. The message names it.
    """

    path: str
    methods: Sequence[str] = ()
    action: str | None = None
    resource: str | None = None
    public: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        _check_path(self.path)
        object.__setattr__(self, "methods", _read_methods(self.methods))
        arguments.check_optional("action", self.action)
        arguments.check_optional("resource", self.resource)
        if type(self.public) is not bool:
            arguments.refuse("public", "a bool", self.public)
        if self.public and not (self.action is None and self.resource is None):
            message = f"a public rule needs no decision, so it has no action and resource: {self}"
            raise ValueError(message)
        names = {name for name, _ in _placeholders(self.path)}
        for field in (self.action, self.resource):
            if field is not None:
                Template(field, names)


class Asked(NamedTuple):
    """The rule of a request, and the action and resource of its decision."""

    rule: Rule
    action: str | None
    """None: the method of the request."""
    resource: str | None
    """None: the path of the request."""


class Template:
    """A text with placeholders. Different values never give the same text.

    Args:
        text: The text.
        names: The names of the placeholders that it may have.

    Raises:
        ValueError: A placeholder has no value, or two stand side by side.
    """

    def __init__(self, text: str, names: Iterable[str]) -> None:
        parts = _PLACEHOLDER.split(text)
        self._first: Final = parts[0]
        self._rest: Final = list(zip(parts[1::2], parts[2::2], strict=True))
        """Each placeholder, and the text after it."""
        known = set(names)
        for name, _ in self._rest:
            if name not in known:
                message = (
                    f"{text!r} has the placeholder {{{name}}}, which the path does not have: "
                    f"use {', '.join(sorted(known)) or 'none'}"
                )
                raise ValueError(message)
        if any(not after for _, after in self._rest[:-1]):
            message = f"{text!r} has two placeholders side by side: put a character between them"
            raise ValueError(message)
        if any("{" in one or "}" in one for one in parts[::2]):
            message = f"{text!r} has a brace outside a placeholder"
            raise ValueError(message)
        for literal in parts[::2]:
            within("action or resource", literal, limits.MAX_FIELD_BYTES)

    def render(self, values: Mapping[str, str]) -> str | None:
        """Returns the text with values. None: other values would give the same text."""
        rendered = [self._first]
        last = len(self._rest) - 1
        for number, (name, after) in enumerate(self._rest):
            value = values[name]
            if number != last and (value + after).find(after) != len(value):
                return None
            rendered += (value, after)
        return "".join(rendered)


class _Compiled(NamedTuple):
    """A rule with its templates."""

    rule: Rule
    names: tuple[str, ...]
    action: Template | None
    resource: Template | None
    fixed: Asked | None
    """The result for every request. None: it depends on the path."""


class RuleTable:
    """The rules of an app, in order. The first one that matches decides.

    A path without placeholders is found in a dict, any other one with one regular expression.

    Args:
        rules: The rules.

    Raises:
        TypeError: One of them is not a rule.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        given = tuple(rules)
        for rule in given:
            if not isinstance(rule, Rule):  # pyright: ignore[reportUnnecessaryIsInstance]
                arguments.refuse("rules", "a list of Rule", rule)
        compiled = [_compiled(rule) for rule in given]
        named = {method for rule in given for method in rule.methods}
        named |= {"HEAD"} if "GET" in named else set()
        self._others: Final = _Table([one for one in compiled if not one.rule.methods])
        self._tables: Final = {
            method: _Table([one for one in compiled if _covers(one.rule, method)])
            for method in named
        }

    def find(self, method: str, path: str) -> Asked | None:
        """Returns what the first rule that matches asks for. None: there is no such rule.

        Args:
            method: The method of the request.
            path: Its path below `root_path`.
        """
        return (self._tables.get(method) or self._others).find(path)


class _Table:
    """The rules for one method."""

    def __init__(self, rules: Sequence[_Compiled]) -> None:
        groups: list[str] = []
        self._rules: Final[dict[int, tuple[int, _Compiled]]] = {}
        """Each rule and its first group, by the number of the group around it."""
        number = 1
        for one in rules:
            groups.append(f"({_pattern(one.rule.path)})")
            self._rules[number] = (number + 1, one)
            number += 1 + len(one.names)
        self._pattern: Final = re.compile("|".join(groups)) if groups else None
        fixed = {one.rule.path for one in rules if not one.names}
        self._fixed: Final = {path: self._match(path) for path in fixed}

    def find(self, path: str) -> Asked | None:
        """Returns what the first rule that matches a path asks for."""
        found = self._fixed.get(path)
        return self._match(path) if found is None else found

    def _match(self, path: str) -> Asked | None:
        match = None if self._pattern is None else self._pattern.fullmatch(path)
        if match is None or match.lastindex is None:
            return None
        first, one = self._rules[match.lastindex]
        if one.fixed is not None:
            return one.fixed
        values = {name: match[first + number] for number, name in enumerate(one.names)}
        texts: list[str | None] = []
        for template in (one.action, one.resource):
            text = None if template is None else template.render(values)
            if text is None and template is not None:
                return None
            texts.append(text)
        return Asked(one.rule, *texts)


def _compiled(rule: Rule) -> _Compiled:
    names = tuple(name for name, _ in _placeholders(rule.path))
    action = None if rule.action is None else Template(rule.action, names)
    resource = None if rule.resource is None else Template(rule.resource, names)
    texts = (rule.action, rule.resource)
    is_fixed = not any(text is not None and _PLACEHOLDER.search(text) for text in texts)
    return _Compiled(rule, names, action, resource, Asked(rule, *texts) if is_fixed else None)


def _covers(rule: Rule, method: str) -> bool:
    methods = rule.methods
    return not methods or method in methods or (method == "HEAD" and "GET" in methods)


def _placeholders(path: str) -> list[tuple[str, bool]]:
    """Returns the name of each placeholder, and whether it stands for several parts."""
    found = (each.partition(":") for each in _PLACEHOLDER.findall(path))
    return [(name, kind == "path") for name, _, kind in found]


def _pattern(path: str) -> str:
    parts = _PLACEHOLDER.split(path)
    spelled = [re.escape(parts[0])]
    for (_, is_path), after in zip(_placeholders(path), parts[2::2], strict=True):
        spelled += (f"({_SEGMENTS if is_path else _SEGMENT})", re.escape(after))
    return "".join(spelled)


def _check_path(path: object) -> None:
    if not isinstance(path, str):
        arguments.refuse("path", "a str", path)
    if not path.startswith("/"):
        message = f"path must begin with /, not {path!r}"
        raise ValueError(message)
    literals = _PLACEHOLDER.split(path)[::2]
    if any("{" in one or "}" in one for one in literals):
        message = f"path has a brace outside a placeholder: {path!r}"
        raise ValueError(message)
    seen: set[str] = set()
    for each in _PLACEHOLDER.findall(path):
        name, colon, kind = each.partition(":")
        if _NAME.fullmatch(name) is None or (colon and kind != "path"):
            message = f"path has the placeholder {{{each}}}: write {{name}} or {{name:path}}"
            raise ValueError(message)
        if name in seen:
            message = f"path has the placeholder {{{name}}} twice: {path!r}"
            raise ValueError(message)
        if kind == "path" and not path.endswith(f"{{{each}}}"):
            message = f"path has {{{each}}} before its end: {path!r}"
            raise ValueError(message)
        seen.add(name)
    for before, after in pairwise(literals):
        if not before.endswith("/") or (after and not after.startswith("/")):
            message = f"a placeholder must be a whole part of path, /{{name}}/, not {path!r}"
            raise ValueError(message)


def _read_methods(methods: Any) -> tuple[str, ...]:  # noqa: ANN401 - checked here
    if isinstance(methods, str) or not hasattr(methods, "__iter__"):
        arguments.refuse("methods", "a list of str", methods)
    read: tuple[Any, ...] = tuple(methods)
    for method in read:
        if not isinstance(method, str):
            arguments.refuse("methods", "a list of str", method)
        if _METHOD.fullmatch(method) is None:
            message = f"methods has {method!r}: write methods in capitals, such as 'GET'"
            raise ValueError(message)
    return read
