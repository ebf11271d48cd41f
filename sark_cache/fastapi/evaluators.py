"""Evaluators, which ask a policy: how they are called, and how their policy is named.

A policy's name is part of what its decisions are stored under. It has to be the same in every
process, and no two policies may share one: the decisions of one would be served for the other.
"""

import sys
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable, isclass, ismethod, signature, unwrap
from pathlib import PurePath
from time import perf_counter
from typing import Annotated, Any, Final, NoReturn, Protocol, TypeAlias, get_origin

from starlette.concurrency import run_in_threadpool

from sark_cache import arguments
from sark_cache.fastapi.calling import is_async
from sark_cache.fastapi.sources import FromRequest, read_policy, read_source
from sark_cache.plain import type_name
from sark_cache.routing import SelectedPolicyCache
from sark_cache.types import Context, Loaded, RevalidateCallback

Evaluation: TypeAlias = Mapping[str, Any] | Loaded
Evaluator: TypeAlias = Callable[[str, str, str, Context | None], Awaitable[Evaluation] | Evaluation]
"""Asks the policy: `(user_id, action, resource, context) -> decision`, async or not."""


class Engine(Protocol):
    """An object whose method `evaluate` asks the policy."""

    def evaluate(
        self, user_id: str, action: str, resource: str, context: Context | None, /
    ) -> Awaitable[Evaluation] | Evaluation:
        """Returns the decision for a request."""
        ...


TAKES: Final = "a function (user_id, action, resource, context), or an object with such a method"
HINT: Final = (
    "a function (user_id, action, resource, context), an object with such a method `evaluate` or "
    "`__call__`, or a dependency, Depends(...), or a FromRequest that brings one"
)
MAIN: Final = ("__main__", "__mp_main__")

_named: dict[str, object] = {}
"""The code of each evaluator whose policy has its own name, so that none gets another's."""


def read_evaluator_source(given: Any) -> Any:  # noqa: ANN401 - whatever was given
    """Returns a dependency or `FromRequest` that brings an evaluator, or an evaluator to be called.

    Raises:
        TypeError: It cannot be used as an evaluator; the message says what can.
    """
    if get_origin(given) is Annotated or not callable(given):
        source = read_source("evaluate", given)
        if get_origin(source) is Annotated or isinstance(source, FromRequest):
            return source
    return callable_evaluator(given)


def callable_evaluator(evaluator: Any) -> RevalidateCallback:  # noqa: ANN401 - checked here
    """Returns an async function that asks an evaluator, in the threadpool if it is not async.

    Raises:
        TypeError: It is no evaluator; the message says what is.
    """
    ask = _method(evaluator)
    if is_async(ask):
        asynchronous: RevalidateCallback = ask
        return asynchronous

    async def evaluate(
        user_id: str, action: str, resource: str, context: Context | None
    ) -> Evaluation:
        found = await run_in_threadpool(ask, user_id, action, resource, context)
        evaluation: Evaluation = await found if isawaitable(found) else found
        return evaluation

    return evaluate


def timed(evaluate: RevalidateCallback, cache: SelectedPolicyCache) -> RevalidateCallback:
    """Returns the evaluator, which then records in the cache how long each decision took."""

    async def evaluated(
        user_id: str, action: str, resource: str, context: Context | None
    ) -> Evaluation:
        begun = perf_counter()
        loaded = await evaluate(user_id, action, resource, context)
        cache.record_opa_latency((perf_counter() - begun) * 1e3)
        return loaded

    return evaluated


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
            f"{described} cannot be imported by a name of its own, and its decisions could be "
            "served for those of another"
        )
    code = getattr(unwrap(getattr(evaluator, "__func__", evaluator)), "__code__", None)
    if _named.setdefault(name, code) != code:
        _refuse_policy(f"another function was given as {name!r} before")
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


def _method(evaluator: Any) -> Any:  # noqa: ANN401
    ask = evaluator if callable(evaluator) else getattr(evaluator, "evaluate", None)
    if not callable(ask) or get_origin(ask) is not None:
        arguments.refuse("evaluate", HINT, evaluator)
    if isclass(ask):
        message = (
            f"evaluate must be {TAKES}, not the class {ask.__qualname__}: make an object of it"
        )
        raise TypeError(message)
    try:
        taken = signature(ask)
    except (TypeError, ValueError):  # of a function in C: its call tells
        return ask
    try:
        taken.bind("user_id", "action", "resource", None)
    except TypeError:
        name = getattr(ask, "__qualname__", None) or type_name(ask)
        message = f"evaluate must be {TAKES}, and {name} takes {taken}"
        raise TypeError(message) from None
    return ask
