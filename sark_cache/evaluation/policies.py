"""The names of policies, which are a part of the keys of decisions.

A policy needs the same name in every process. Two policies must not have the same name, because the
decisions of one would be served for the other.
"""

import sys
from inspect import ismethod, unwrap
from pathlib import PurePath
from typing import Any, Final, NoReturn

from sark_cache._core.json import type_name
from sark_cache.evaluation.constants import read_policy

MAIN: Final = ("__main__", "__mp_main__")

_named: dict[str, object] = {}
"""The code of each evaluator that names its policy, to refuse another one of the same name."""


def policy_of(evaluator: Any, policy: str | None) -> str:  # noqa: ANN401 - any evaluator
    """Returns the name of an evaluator's policy.

    If no name is given, the name is `module:qualified name`. The evaluator must be importable by
    that name: a function of a module, a static method or a class method. Any other name could
    differ between processes, or belong to several policies. For example, the methods of two objects
    of a class have the same name, and so have two closures of a function, but they may return
    different decisions.

    The main module of a program, `__main__`, gets the name by which it can be imported: the name
    after `python -m`, or the name of its file without the suffix. A notebook has no such name.

    Raises:
        TypeError: There is no such name, or another function has it.
        ValueError: The name is too long.
    """
    if policy is not None:
        return read_policy(policy)
    name = _importable_name(evaluator)
    if name is None:
        described = getattr(evaluator, "__qualname__", None) or type_name(evaluator)
        _refuse_policy(
            f"{described} cannot be imported by its name, so another evaluator could be served "
            "its decisions"
        )
    code = getattr(unwrap(getattr(evaluator, "__func__", evaluator)), "__code__", None)
    if _named.setdefault(name, code) != code:
        _refuse_policy(
            f"another function was given as {name!r} before, or this function has changed"
        )
    return read_policy(name)


def _importable_name(evaluator: Any) -> str | None:  # noqa: ANN401 - any evaluator
    module, path = (getattr(evaluator, name, None) for name in ("__module__", "__qualname__"))
    if not isinstance(module, str) or not isinstance(path, str) or module not in sys.modules:
        return None
    found: Any = sys.modules[module]
    for name in path.split("."):
        found = getattr(found, name, None)
    # Each access creates a new method object. It equals one with the same function and object.
    if found is not evaluator and not (ismethod(evaluator) and found == evaluator):
        return None
    module_name = _module_name(module)
    return module_name and f"{module_name}:{path}"


def _module_name(module: str) -> str | None:
    """Returns the name by which every process can import a module. None: there is no such name."""
    if module not in MAIN:
        return module
    started = sys.modules[module]
    spec, file = getattr(started, "__spec__", None), getattr(started, "__file__", None)
    if spec is not None:
        name: str = spec.name
        return name
    return PurePath(file).stem if file and not file.startswith("<") else None  # "<stdin>"


def _refuse_policy(why: str) -> NoReturn:
    message = f"policy must be given, authorize(..., policy='documents'): {why}"
    raise TypeError(message)
