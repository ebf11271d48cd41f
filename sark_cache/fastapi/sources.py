"""The sources of the arguments of `authorize`: constants, FastAPI dependencies, and `FromRequest`.

They are checked once, when `authorize` is called. A source that cannot work raises an error there,
which names the argument. So no request fails because of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, Final, NoReturn, TypeAlias, get_args, get_origin

from fastapi import Depends, params
from starlette.requests import HTTPConnection

from sark_cache._core import arguments, limits
from sark_cache._core.json import type_name
from sark_cache.backends.native import RustPolicyCache
from sark_cache.evaluation.calling import is_async
from sark_cache.evaluation.constants import within

Dependency: TypeAlias = Callable[..., Any]
"""A callable that `Depends` accepts."""

DEPENDENCY: Final = "a dependency (a function or Depends(...))"
VARIADIC: Final = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class FromRequest:
    """A value that a plain function reads from the request, without the cost of a dependency.

    >>> resource = FromRequest(lambda request: request.path_params["document"])

    The function has no dependencies and adds nothing to the OpenAPI schema. `dependency_overrides`
    cannot replace it.

    Args:
        read: Takes the request, or the WebSocket, and returns the value. If it raises, the request
            ends, as with a dependency.

    Raises:
        TypeError: `read` is not a plain function.
    """

    read: Callable[[HTTPConnection], Any]

    def __post_init__(self) -> None:
        if not callable(self.read):
            arguments.refuse("read", "a function of the request", self.read)
        if is_async(self.read):
            message = "read must be a plain function: use a dependency for an async function"
            raise TypeError(message)


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of the arguments of a request, by name."""

    constants: dict[str, Any]
    readers: tuple[tuple[str, Callable[[HTTPConnection], Any]], ...]
    dependencies: Mapping[str, Any]
    """The annotations that FastAPI reads."""

    def without(self, name: str) -> "Sources":
        """Returns the other sources."""
        return Sources(
            {each: value for each, value in self.constants.items() if each != name},
            tuple((each, read) for each, read in self.readers if each != name),
            {each: value for each, value in self.dependencies.items() if each != name},
        )

    def including(self, name: str, source: Any) -> "Sources":  # noqa: ANN401 - see `read_source`
        """Returns these sources and one more: a dependency or a `FromRequest`."""
        if isinstance(source, FromRequest):
            return self.merged(Sources({}, ((name, source.read),), {}))
        return self.merged(Sources({}, (), {name: source}))

    def merged(self, others: "Sources") -> "Sources":
        """Returns these sources and others."""
        return Sources(
            {**self.constants, **others.constants},
            (*self.readers, *others.readers),
            {**self.dependencies, **others.dependencies},
        )

    def of(self, connection: HTTPConnection, found: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the arguments of one request, by name.

        Args:
            connection: The request or the WebSocket.
            found: The results of the dependencies.

        Raises:
            TypeError: The results are not those of the dependencies, or there is no user.
        """
        if found.keys() != self.dependencies.keys():  # a caller other than FastAPI
            takes = ", ".join(self.dependencies) or "nothing"
            message = (
                "a dependency of authorize() was called without the results of its own "
                f"dependencies: pass the request, and by name {takes}"
            )
            raise TypeError(message)
        asked = {**self.constants, **found}
        for name, read in self.readers:
            asked[name] = read(connection)
        if not isinstance(asked["user"], str):
            takes = "a str (its dependency must raise HTTPException(401) if nobody is signed in)"
            arguments.refuse("user", takes, asked["user"])
        return asked

    def signature(self) -> Signature:
        """Returns the signature for FastAPI. Constants are not in it, so they cost nothing."""
        annotations = {"connection": HTTPConnection, **self.dependencies}
        return Signature(
            [
                Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation)
                for name, annotation in annotations.items()
            ]
        )


def read_sources(given: Mapping[str, Any], **read: Any) -> Sources:  # noqa: ANN401
    """Returns the sources of the arguments of `authorize`, checked.

    Args:
        given: The arguments, by name.
        read: Sources that are checked already, by name.

    Raises:
        TypeError, ValueError: An argument cannot be used. The message names it.
    """
    sources = read | {name: read_source(name, source) for name, source in given.items()}
    dependencies = {name: each for name, each in sources.items() if get_origin(each) is Annotated}
    readers = {name: each.read for name, each in sources.items() if isinstance(each, FromRequest)}
    constants = {
        name: _READ[name](each) if name in given else each
        for name, each in sources.items()
        if name not in dependencies and name not in readers
    }
    return Sources(constants, tuple(readers.items()), dependencies)


def read_source(argument: str, given: Any) -> Any:  # noqa: ANN401 - a constant is any value
    """Returns a `FromRequest`, a dependency as `Annotated[..., Depends(...)]`, or a constant.

    Raises:
        TypeError: FastAPI cannot call the dependency. The message names the argument.
    """
    if get_origin(given) is Annotated:
        return _unwrapped(argument, given)
    if isinstance(given, FromRequest):
        return given
    if isinstance(given, params.Depends) or callable(given):
        return read_dependency(argument, given)
    return given


def read_dependency(argument: str, given: Any) -> Any:  # noqa: ANN401 - any argument
    """Returns a function or `Depends(...)` as the annotation that FastAPI reads.

    Raises:
        TypeError: FastAPI cannot call the dependency. The message names the argument.
    """
    depends = given if isinstance(given, params.Depends) else Depends(given)
    _check_dependency(argument, depends.dependency)
    return Annotated[Any, depends]


def _unwrapped(argument: str, annotation: Any) -> Any:  # noqa: ANN401 - `Annotated[...]`
    kind, *metadata = get_args(annotation)
    sources = [each for each in metadata if isinstance(each, params.Depends | FromRequest)]
    if not sources:
        message = (
            f"{argument} must be Annotated with Depends(...) or a FromRequest: to read a header, "
            "the path or the query, use a dependency that has it as a parameter"
        )
        raise TypeError(message)
    source = sources[-1]
    if isinstance(source, FromRequest):
        return source
    if source.dependency is None:
        _check_dependency(argument, kind)
        return annotation
    return read_dependency(argument, source)


def _check_dependency(argument: str, dependency: Any) -> None:  # noqa: ANN401 - any argument
    """Raises a TypeError unless FastAPI can call the dependency for a request."""
    if not callable(dependency) or get_origin(dependency) is not None:
        arguments.refuse(argument, DEPENDENCY, dependency)
    try:
        parameters = signature(dependency).parameters.values()
    except (TypeError, ValueError):
        _refuse_dependency(argument, dependency, "has no signature: wrap it in a function")
    for parameter in parameters:
        if parameter.kind in VARIADIC:
            stars = "*" if parameter.kind is Parameter.VAR_POSITIONAL else "**"
            why = (
                f"takes {stars}{parameter.name}, which FastAPI would look for in the query string: "
                "name its parameters, and give a decorator functools.wraps"
            )
            _refuse_dependency(argument, dependency, why)


def _refuse_dependency(argument: str, dependency: object, why: str) -> NoReturn:
    name = getattr(dependency, "__qualname__", None) or type_name(dependency)
    message = f"{argument} must be a dependency that FastAPI can call, but {name} {why}"
    raise TypeError(message)


def _read_field(argument: str) -> Callable[[Any], str]:
    def read(given: Any) -> str:  # noqa: ANN401 - checked here
        if not isinstance(given, str):
            takes = "a str, a dependency (a function or Depends(...)) or a FromRequest"
            arguments.refuse(argument, takes, given)
        return within(argument, given, limits.MAX_FIELD_BYTES)

    return read


def _read_context(given: object) -> None:
    if given is not None:
        arguments.refuse("context", f"{DEPENDENCY}, a FromRequest or None", given)


def _read_sensitivity(given: object) -> str | None:
    arguments.check_optional("sensitivity", given)
    known = RustPolicyCache.OPTIMIZED_TTL
    if isinstance(given, str) and given not in known:
        message = f"sensitivity must be one of {', '.join(known)}, not {given!r}"
        raise ValueError(message)
    return given if isinstance(given, str) else None


def _read_tags(given: object) -> tuple[str, ...]:
    tags = arguments.read_tags(given)
    if len(tags) > limits.MAX_TAGS:
        message = f"tags must be at most {limits.MAX_TAGS}: a decision with more is never stored"
        raise ValueError(message)
    return tuple(within("a tag", tag, limits.MAX_TAG_BYTES) for tag in tags)


_READ: Final[Mapping[str, Callable[[Any], Any]]] = {
    "user": _read_field("user"),
    "action": _read_field("action"),
    "resource": _read_field("resource"),
    "context": _read_context,
    "sensitivity": _read_sensitivity,
    "tags": _read_tags,
}
"""The reader of each constant."""
