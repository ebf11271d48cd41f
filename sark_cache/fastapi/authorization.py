"""`authorize`: a dependency that asks the policy cache, else the policy, and denies with 403.

It costs what FastAPI takes for one dependency, and for each one that it is given, some 10 µs to 40
apiece; the hit is the least of it. What `FromRequest` reads costs next to nothing.
"""

from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from inspect import Parameter, Signature
from time import perf_counter
from typing import Annotated, Any, Final, TypeAlias

from fastapi import Depends, HTTPException
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from sark_cache import arguments
from sark_cache.fastapi.installation import policy_cache_of, replaced_policy_cache
from sark_cache.routing import SelectedPolicyCache
from sark_cache.types import Context, JSONObject, Loaded, RevalidateCallback

Dependency: TypeAlias = Callable[..., Any]
"""What `Depends` takes."""

NO_REASON: Final = "denied by policy"


@dataclass(frozen=True, slots=True)
class FromRequest:
    """What a plain function reads from the request: no dependency, so nothing of what one costs.

    >>> resource = FromRequest(lambda request: request.path_params["document"])

    It has no dependencies, adds nothing to the OpenAPI schema, and cannot be overridden by itself.

    Args:
        read: Takes the request, or the WebSocket, and returns what was found. What it raises ends
            the request, as what a dependency raises does.
    """

    read: Callable[[HTTPConnection], Any]


class Denial(BaseModel):
    """Why it is not allowed."""

    detail: str


FORBIDDEN: Final[dict[int | str, dict[str, Any]]] = {
    403: {"model": Denial, "description": "The policy denies it; `detail` is its reason."}
}
"""Documents what `authorize` answers, since FastAPI takes that from routes and routers alone:
`@app.get(..., responses=FORBIDDEN)`, `APIRouter(responses=FORBIDDEN)`."""


def authorize(
    evaluate: RevalidateCallback,
    *,
    user: str | Dependency | FromRequest,
    action: str | Dependency | FromRequest | None = None,
    resource: str | Dependency | FromRequest | None = None,
    context: Dependency | FromRequest | None = None,
    sensitivity: str | Dependency | FromRequest | None = None,
    ttl_seconds: float | None = None,
    tags: Collection[str] | Dependency | FromRequest = (),
) -> Callable[..., Coroutine[object, None, JSONObject]]:
    """A dependency that lets a request pass if the policy allows it, and brings its decision.

    >>> may_read = authorize(ask_policy_engine, user=current_user, action="read", resource=document)
    >>> @app.get("/documents/{document}", responses=FORBIDDEN)
    ... async def read(decision: Annotated[dict, Depends(may_read)]) -> Document: ...

    What the arguments say is either given as it is or as a dependency that finds it out from the
    request: it may have dependencies itself, and what it takes is part of the OpenAPI schema. One
    that raises ends the request, as that of `user` does with a 401 where nobody is signed in. What
    is quickly read, a part of the path or who a middleware says it is, a `FromRequest` reads for a
    small part of that cost.

    Only a decision whose `allow` is `True` passes. No `allow`, `"yes"`, `1`: all of them are denied
    with a 403, whose detail is the decision's `reason` if that is text. When the evaluator raises,
    nobody passes: an `HTTPException` is answered as it says, anything else by an exception handler
    of the app, else with a 500.

    A decision is known by user, action, resource and context, whoever evaluated it: where two
    evaluators are in use, what they are asked has to differ.

    Args:
        evaluate: Asks the policy: `async (user_id, action, resource, context)`, which returns the
            decision, a JSON object, or a `Loaded` with one, its time to live and its tags. Its
            duration goes to `record_opa_latency`.
        user: Who asks: a str. There is no default.
        action: To do what: a str. None: the request's method, `GET`; of a WebSocket `WEBSOCKET`.
        resource: To what: a str. None: the request's path, `/documents/7`, decoded and whole, with
            what a mount took off its beginning. Host and query string are not part of it: where the
            policy is to know them, say so here or in `context`.
        context: What else the decision depends on: a JSON object, or None.
        sensitivity: A name in `RustPolicyCache.OPTIMIZED_TTL`, or None.
        ttl_seconds: How long a decision lives, in seconds; 0 stores none. None: by its sensitivity,
            else as the settings say.
        tags: Names to revoke decisions by.

    The dependency raises:
        HTTPException: 403, the policy denies it.
        RuntimeError: The app has no policy cache.
        TypeError: A dependency brought something else than it has to, or the evaluator no decision.

    Raises:
        TypeError, ValueError: An argument that cannot be used; the message names it.
    """
    if not callable(evaluate):
        takes = "an async function (user_id, action, resource, context)"
        arguments.refuse("evaluate", takes, evaluate)
    arguments.read_ttl(ttl_seconds)
    sources: dict[str, Any] = {
        "user": user,
        "action": FromRequest(_method) if action is None else action,
        "resource": FromRequest(_path) if resource is None else resource,
        "context": context,
        "sensitivity": sensitivity,
        "tags": tags,
    }
    dependencies = {name: source for name, source in sources.items() if callable(source)}
    readers = [(name, each.read) for name, each in sources.items() if isinstance(each, FromRequest)]
    constants = {
        name: source
        for name, source in sources.items()
        if not callable(source) and not isinstance(source, FromRequest)
    }
    _check(constants)

    async def authorized(
        connection: HTTPConnection,
        **found: Any,  # noqa: ANN401 - what dependencies bring is checked where it is used
    ) -> JSONObject:
        # All in one function, and what is constant worked out before: a third less time than calls
        # that hand everything on by name.
        if found.keys() != dependencies.keys():  # awaited by hand: nothing given is overridden
            takes = ", ".join(dependencies) or "nothing"
            message = f"besides the request it takes what its dependencies bring: {takes}"
            raise TypeError(message)
        asked = constants | found
        for name, read in readers:
            asked[name] = read(connection)
        user, action, resource = asked["user"], asked["action"], asked["resource"]
        if not isinstance(user, str):
            takes = "a str: its dependency is to raise HTTPException(401) where nobody is signed in"
            arguments.refuse("user", takes, user)
        context = asked["context"]
        cache = policy_cache_of(connection)
        if cache is None:
            cache = await replaced_policy_cache(connection)
        decision = await cache.get_or_load(
            user,
            action,
            resource,
            lambda: timed(evaluate, cache)(user, action, resource, context),
            context,
            ttl_seconds=ttl_seconds,
            sensitivity=asked["sensitivity"],
            tags=asked["tags"],
        )
        if decision.get("allow") is not True:
            raise HTTPException(403, _reason(decision))
        return decision

    authorized.__signature__ = _signature(dependencies)  # type: ignore[attr-defined]
    return authorized


def timed(evaluate: RevalidateCallback, cache: SelectedPolicyCache) -> RevalidateCallback:
    """The evaluator, with the time of each decision that it brings recorded in the cache."""

    async def evaluated(
        user_id: str, action: str, resource: str, context: Context | None
    ) -> Mapping[str, Any] | Loaded:
        begun = perf_counter()
        loaded = await evaluate(user_id, action, resource, context)
        cache.record_opa_latency((perf_counter() - begun) * 1e3)
        return loaded

    return evaluated


def _reason(decision: Mapping[str, Any]) -> str:
    reason = decision.get("reason")
    return reason if isinstance(reason, str) and reason else NO_REASON


def _method(connection: HTTPConnection) -> str:
    method: str = connection.scope.get("method", "WEBSOCKET")
    return method


def _path(connection: HTTPConnection) -> str:
    path: str = connection.scope["path"]
    return path


def _check(constants: Mapping[str, object]) -> None:
    for name in ("user", "action", "resource"):
        if not isinstance(constants.get(name, ""), str):
            takes = "a str, a dependency (a function, not Depends(...)) or a FromRequest"
            arguments.refuse(name, takes, constants[name])
    if constants.get("context") is not None:
        takes = "a dependency (a function, not Depends(...)), a FromRequest or None"
        arguments.refuse("context", takes, constants["context"])
    arguments.check_optional("sensitivity", constants.get("sensitivity"))
    arguments.read_tags(constants.get("tags"))


def _signature(dependencies: Mapping[str, Dependency]) -> Signature:
    """What FastAPI reads from a function: a constant takes no parameter, and so no time."""
    annotations: dict[str, Any] = {"connection": HTTPConnection}
    for name, dependency in dependencies.items():
        annotations[name] = Annotated[Any, Depends(dependency)]
    return Signature(
        [
            Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation)
            for name, annotation in annotations.items()
        ]
    )
