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

_PART: Final = r"[^/\\\x00-\x1f\x7f]+"
_PARTS: Final = r"[^\\\x00-\x1f\x7f]+"
_RESOLVED: Final = frozenset({"", ".", ".."})
"""Parts of a path that a later program may resolve. No placeholder stands for one."""
_UNUSUAL: Final = re.compile(r"[\\%?#\x00-\x1f\x7f]|//|/\.\.?(?:/|\Z)")
"""Text that no decoded path has, or that a later program may resolve."""
MAX_PATH: Final = limits.MAX_FIELD_BYTES
"""The maximum length of a path, in characters. No rule covers a longer one."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A set of requests, by path and method, and the decision that they need.

    A placeholder `{name}` in `path` stands for one part of the path, and `{name:path}`, at the end,
    for one or more parts. The parts are decoded. No part that a placeholder stands for may be
    empty, `.` or `..`, or have a backslash or a control character.

    Args:
        path: The path without `root_path`, such as `/documents/{document}`. It must match the whole
            path exactly, with upper and lower case. So `/documents` and `/documents/` are two
            paths. No rule covers a path of more than 8,192 characters.
        methods: The methods. `GET` includes `HEAD`. `WEBSOCKET` stands for WebSockets. Empty: all
            methods, and WebSockets.
        action: The action of the decision. It may have placeholders of `path`. None: the method of
            the request (`GET` for `HEAD`, `WEBSOCKET` for a WebSocket).
        resource: The resource of the decision. It may have placeholders of `path`:
            `document:{document}`. None: the decoded path of the request, including `root_path`.
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
            message = f"a public rule must not have action or resource: remove them from {self}"
            raise ValueError(message)
        names = {name for name, _ in _placeholders(self.path)}
        for argument, text in (("action", self.action), ("resource", self.resource)):
            if text is not None:
                Template(text, names, argument)


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
        argument: The name of the text, for errors.

    Raises:
        ValueError: The text is empty or too long, a placeholder is unknown, or two stand side by
            side.
    """

    def __init__(self, text: str, names: Iterable[str], argument: str = "text") -> None:
        if not text:
            message = f"{argument} is empty: leave it out, or give a text"
            raise ValueError(message)
        parts = _PLACEHOLDER.split(text)
        self._first: Final = parts[0]
        self._rest: Final = list(zip(parts[1::2], parts[2::2], strict=True))
        """Each placeholder, and the text after it."""
        known = set(names)
        for name, _ in self._rest:
            if name not in known:
                known_names = ", ".join(f"{{{each}}}" for each in sorted(known))
                message = (
                    f"{argument} has the placeholder {{{name}}}, which path does not have: "
                    + (f"use {known_names}" if known else "path has no placeholders")
                )
                raise ValueError(message)
        if any(not after for _, after in self._rest[:-1]):
            message = f"{argument} has two placeholders side by side: separate them in {text!r}"
            raise ValueError(message)
        if any("{" in one or "}" in one for one in parts[::2]):
            message = f"{argument} has a brace outside a placeholder: {text!r}"
            raise ValueError(message)
        for literal in parts[::2]:
            within(argument, literal, limits.MAX_FIELD_BYTES)

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
        if isinstance(rules, Rule):
            arguments.refuse("rules", "a list of Rule", rules)
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
        if len(path) > MAX_PATH:
            return None
        found = self._fixed.get(path)
        return self._match(path) if found is None else found

    def _match(self, path: str) -> Asked | None:
        match = None if self._pattern is None else self._pattern.fullmatch(path)
        if match is None or match.lastindex is None:
            return None
        first, one = self._rules[match.lastindex]
        values = {name: match[first + number] for number, name in enumerate(one.names)}
        if any(not _RESOLVED.isdisjoint(value.split("/")) for value in values.values()):
            return None
        if one.fixed is not None:
            return one.fixed
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
        spelled += (f"({_PARTS if is_path else _PART})", re.escape(after))
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
    if any(_UNUSUAL.search(one) for one in literals):
        message = (
            f"path has a part that is empty, . or .., or one of the characters \\ % ? #: {path!r}. "
            "Write the decoded path"
        )
        raise ValueError(message)
    _check_placeholders(path)
    for before, after in pairwise(literals):
        if not before.endswith("/") or (after and not after.startswith("/")):
            message = f"a placeholder must be a whole part of path, /{{name}}/, not {path!r}"
            raise ValueError(message)


def _check_placeholders(path: str) -> None:
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


def _read_methods(methods: Any) -> tuple[str, ...]:  # noqa: ANN401 - checked here
    if isinstance(methods, str) or not hasattr(methods, "__iter__"):
        arguments.refuse("methods", "a list of str", methods)
    read: tuple[Any, ...] = tuple(methods)
    for method in read:
        if not isinstance(method, str):
            arguments.refuse("methods", "a list of str", method)
        if _METHOD.fullmatch(method) is None:
            message = f"methods must be capital letters and hyphens, such as 'GET', not {method!r}"
            raise ValueError(message)
    return read
