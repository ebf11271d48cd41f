"""Every public name is named in tests/typing, so that its types are checked.

A function of a public module counts as named where it is read. A member of a public class counts as
named where it is read from the class, or from a value that is annotated as that class. A value that
is assigned to a `PolicyCacheProtocol` has the members of that class.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from sark_cache import PolicyCacheProtocol, RustPolicyCache
from sark_cache.backends.base import BasePolicyCache

FILES = [
    path
    for path in (Path(__file__).parent.parent / "typing").glob("*.py")
    if path.name != "mistakes.py"
]
MODULES = (
    "sark_cache",
    "sark_cache.cleanup",
    "sark_cache.fastapi",
    "sark_cache.metrics",
    "sark_cache.types",
    "sark_cache._core.observers",
    "sark_cache.instrumentation.opentelemetry",
    "sark_cache.instrumentation.prometheus",
    "sark_cache.backends.redis",
)
PUBLIC = [(module, name) for module in MODULES for name in importlib.import_module(module).__all__]


class Named(ast.NodeVisitor):
    """The names in a file: plain names, and members as `(class, member)`."""

    def __init__(self):
        self.names, self.members, self.conforming = set(), set(), set()
        self._classes = {}

    def visit_FunctionDef(self, function):
        outside, self._classes = self._classes, dict(self._classes)
        for argument in [*function.args.args, *function.args.kwonlyargs]:
            self._classes[argument.arg] = _last_name(argument.annotation)
        self.generic_visit(function)
        self._classes = outside

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - ast's

    def visit_AnnAssign(self, assignment):
        if _last_name(assignment.annotation) == "PolicyCacheProtocol":
            made = getattr(assignment.value, "func", assignment.value)
            self.conforming.add(self._class_of(made))
        self.generic_visit(assignment)

    def visit_Call(self, call):
        """Reads the class of a value from `assert_type(value, Class)`."""
        if _last_name(call.func) == "assert_type" and isinstance(call.args[0], ast.Name):
            self._classes[call.args[0].id] = _last_name(call.args[1])
        self.generic_visit(call)

    def visit_Attribute(self, attribute):
        self.names.add(attribute.attr)
        self.members.add((self._class_of(attribute.value), attribute.attr))
        self.generic_visit(attribute)

    def visit_Name(self, name):
        self.names.add(name.id)

    def _class_of(self, value):
        name = _last_name(value)
        return self._classes.get(name, name)


def _last_name(expression):
    """Returns `Stamp` for `redis.Stamp`, and `Decision` for `Decision | None`."""
    if isinstance(expression, ast.BinOp):
        return _last_name(expression.left)
    return getattr(expression, "attr", getattr(expression, "id", None))


@pytest.fixture(scope="module")
def named():
    visitor = Named()
    for path in FILES:
        visitor.visit(ast.parse(path.read_text("utf-8")))
    return visitor


def members(klass):
    """Returns the public members that this package defines in a class or its instances."""
    found = set()
    for base in klass.__mro__:
        if base.__module__.startswith("sark_cache"):
            found |= {*vars(base), *inspect.get_annotations(base)}
            if base.__module__ != "sark_cache._native" and base.__name__ != "Decision":
                found |= set(re.findall(r"self\.(\w+)(?:: .+)? = ", inspect.getsource(base)))
    of_pydantic = {"model_config", "settings_customise_sources"}
    return {name for name in found - of_pydantic if not name.startswith("_")}


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_every_public_name_is_checked(named, module, name):
    assert name in named.names


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (module, name)
        for module, name in PUBLIC
        if isinstance(getattr(importlib.import_module(module), name), type)
    ],
)
def test_every_member_of_a_public_class_is_checked(named, module, name):
    klass = getattr(importlib.import_module(module), name)
    wanted = members(klass)
    if name in named.conforming:
        wanted -= members(PolicyCacheProtocol)
        if name != "RustPolicyCache":  # which stands for all that inherit these
            inherited = members(RustPolicyCache) if issubclass(klass, RustPolicyCache) else set()
            wanted -= (members(BasePolicyCache) | inherited) - set(vars(klass))
    assert {member for member in wanted if (name, member) not in named.members} == set()


@pytest.mark.parametrize("name", ["RustPolicyCache", "PolicyCache", "SelectedPolicyCache"])
def test_every_cache_is_checked_against_the_interface(named, name):
    assert name in named.conforming
