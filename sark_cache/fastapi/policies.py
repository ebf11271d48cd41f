"""The names of policies, which are part of what decisions are stored under.

A name has to be the same in every process, and no two policies may have the same one: the decisions
of one would be served for the other.
"""

import sys
from inspect import ismethod, unwrap
from pathlib import PurePath
from typing import Any, Final, NoReturn

from sark_cache._core.json import type_name
from sark_cache.fastapi.sources import read_policy

MAIN: Final = ("__main__", "__mp_main__")

_named: dict[str, object] = {}
"""The code of each evaluator whose policy has its own name, so that none gets another's."""


def policy_of(evaluator: Any, policy: str | None) -> str:  # noqa: ANN401 - whatever was given
    """Returns the name of the policy that an evaluator asks.

    Without a name it is `module:qualified name`, where the evaluator can be found under that name:
    a function of a module, a static method or a class method. Nothing else is the same in every
    process and one policy alone. Two objects of a class have methods of the same name, and so do
    two closures of a function; they may ask for different things.

    The module that a program was started with, `__main__`, is named as it would be imported: by
    `python -m`'s name, or by its file's name without the ending. A notebook has no such name.

    Raises:
        TypeError: There is no such name, or it is that of another function.
        ValueError: The name is too long.
    """
    if policy is not None:
        return read_policy(policy)
    name = _importable_name(evaluator)
    if name is None:
        described = getattr(evaluator, "__qualname__", None) or type_name(evaluator)
        _refuse_policy(
            f"{described} cannot be imported by a name of its own, so another evaluator could be "
            "served its decisions"
        )
    code = getattr(unwrap(getattr(evaluator, "__func__", evaluator)), "__code__", None)
    if _named.setdefault(name, code) != code:
        _refuse_policy(
            f"another function was given as {name!r} before, or this function has changed"
        )
    return read_policy(name)


def _importable_name(evaluator: Any) -> str | None:  # noqa: ANN401 - whatever was given
    module, path = (getattr(evaluator, name, None) for name in ("__module__", "__qualname__"))
    if not isinstance(module, str) or not isinstance(path, str) or module not in sys.modules:
        return None
    found: Any = sys.modules[module]
    for name in path.split("."):
        found = getattr(found, name, None)
    # A method is made at each look; it equals another one of the same function and object.
    if found is not evaluator and not (ismethod(evaluator) and found == evaluator):
        return None
    module_name = _module_name(module)
    return module_name and f"{module_name}:{path}"


def _module_name(module: str) -> str | None:
    """Returns the name by which any process would import a module."""
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
