"""`authorize`: a dependency that asks the policy cache, else the policy, and denies with 403.

It costs what FastAPI takes for one dependency, and for each one that it is given, some 10 µs to 40
apiece; the hit is the least of it. What `FromRequest` reads costs next to nothing.
"""

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final

from fastapi import HTTPException
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from sark_cache._core import arguments
from sark_cache.fastapi.evaluators import (
    AsyncEvaluator,
    Engine,
    Evaluator,
    callable_evaluator,
    read_evaluator_source,
    timed,
)
from sark_cache.fastapi.installation import policy_cache_of, replaced_policy_cache
from sark_cache.fastapi.policies import policy_of
from sark_cache.fastapi.sources import Dependency, FromRequest, read_sources
from sark_cache.types import JSONObject

NO_REASON: Final = "denied by policy"


class Denial(BaseModel):
    """The body of a 403 response: the reason of the decision."""

    detail: str


FORBIDDEN: Final[dict[int | str, dict[str, Any]]] = {
    403: {"model": Denial, "description": "The policy denies it; `detail` is its reason."}
}
"""Documents what `authorize` answers, since FastAPI takes that from routes and routers alone:
`@app.get(..., responses=FORBIDDEN)`, `APIRouter(responses=FORBIDDEN)`."""


def authorize(
    evaluate: Evaluator | Engine | FromRequest,
    *,
    user: str | Dependency | FromRequest,
    action: str | Dependency | FromRequest | None = None,
    resource: str | Dependency | FromRequest | None = None,
    context: Dependency | FromRequest | None = None,
    sensitivity: str | Dependency | FromRequest | None = None,
    ttl_seconds: float | None = None,
    tags: Iterable[str] | Dependency | FromRequest = (),
    policy: str | None = None,
) -> Callable[..., Coroutine[object, None, JSONObject]]:
    """Returns a dependency that lets a request pass if the policy allows it, with its decision.

    >>> may_read = authorize(ask_policy_engine, user=current_user, action="read", resource=document)
    >>> @app.get("/documents/{document}", responses=FORBIDDEN)
    ... async def read(decision: Annotated[dict, Depends(may_read)]) -> Document: ...

    What the arguments say is either given as it is or as a dependency that finds it out from the
    request: a function, `Depends(function)` or `Annotated[str, Depends(function)]`. A dependency
    may have dependencies itself, and what it takes is part of the OpenAPI schema. One
    that raises ends the request, as that of `user` does with a 401 where nobody is signed in. What
    is quickly read, a part of the path or who a middleware says it is, a `FromRequest` reads for a
    small part of that cost. Functions that are not async run in the threadpool, as FastAPI has it.

    Only a decision whose `allow` is `True` passes. No `allow`, `"yes"`, `1`: all of them are denied
    with a 403, whose detail is the decision's `reason` if that is text. When the evaluator raises,
    nobody passes: an `HTTPException` is answered as it says, anything else by an exception handler
    of the app, else with a 500.

    A decision belongs to its policy. Two evaluators never share one, though they are asked the
    same, unless they are given the same `policy`.

    Args:
        evaluate: Asks the policy: `(user_id, action, resource, context)`, async or not, which
            returns the decision, a JSON object, or a `Loaded` with one, its time to live and its
            tags. Or an object with such a method, `evaluate` or `__call__`. Or a dependency,
            `Depends(...)`, or a `FromRequest`, that brings one of these: so it can use a client of
            the app, and a test can replace it. Its duration goes to `record_opa_latency`.
        user: Who asks: a str. There is no default.
        action: To do what: a str. None: the request's method, `GET`; of a WebSocket `WEBSOCKET`.
        resource: To what: a str. None: the request's path, `/documents/7`, decoded and whole, with
            what a mount took off its beginning. Host and query string are not part of it: where the
            policy is to know them, say so here or in `context`.
        context: What else the decision depends on: a JSON object, or None.
        sensitivity: A name in `RustPolicyCache.OPTIMIZED_TTL`, or None.
        ttl_seconds: How long a decision lives, in seconds; 0 stores none. None: as the
            settings say.
        tags: Names to revoke decisions by.
        policy: The name of the policy, at most 256 bytes, the same in every process. None: the
            evaluator's, `module:qualified name`, if it can be imported by that: a function of a
            module, a static or a class method. Anything else has to be named here.

    The dependency raises:
        HTTPException: 403, the policy denies it.
        RuntimeError: The app has no policy cache.
        TypeError: A dependency brought something else than it has to, or the evaluator no decision.

    Raises:
        TypeError, ValueError: An argument that cannot be used; the message names it.
    """
    evaluator = read_evaluator_source(evaluate)
    arguments.read_ttl(ttl_seconds)
    sources = read_sources(
        {
            "user": user,
            "action": FromRequest(_method) if action is None else action,
            "resource": FromRequest(_path) if resource is None else resource,
            "context": context,
            "sensitivity": sensitivity,
            "tags": tags,
        },
        evaluate=evaluator,
    )
    decided_by = policy_of(evaluate, policy)
    constants, readers, dependencies = sources.constants, sources.readers, sources.dependencies
    prepare = _as_it_is if "evaluate" in constants else callable_evaluator

    async def authorized(
        connection: HTTPConnection,
        **found: Any,  # noqa: ANN401 - what dependencies bring is checked where it is used
    ) -> JSONObject:
        # All in one function, and what is constant worked out before: a third less time than calls
        # that hand everything on by name.
        if found.keys() != dependencies.keys():  # awaited by hand: nothing given is overridden
            takes = ", ".join(dependencies) or "nothing"
            message = (
                "a dependency of authorize() was called without the results of its own "
                f"dependencies: pass the request, and by name {takes}"
            )
            raise TypeError(message)
        asked = constants | found
        for name, read in readers:
            asked[name] = read(connection)
        user, action, resource = asked["user"], asked["action"], asked["resource"]
        if not isinstance(user, str):
            takes = "a str (its dependency must raise HTTPException(401) if nobody is signed in)"
            arguments.refuse("user", takes, user)
        context = asked["context"]
        cache = policy_cache_of(connection)
        if cache is None:
            cache = await replaced_policy_cache(connection)
        decision = await cache.get_or_load(
            user,
            action,
            resource,
            lambda: timed(prepare(asked["evaluate"]), cache)(user, action, resource, context),
            context,
            ttl_seconds=ttl_seconds,
            sensitivity=asked["sensitivity"],
            tags=asked["tags"],
            policy=decided_by,
        )
        if decision.get("allow") is not True:
            raise HTTPException(403, _reason(decision))
        return decision

    authorized.__signature__ = sources.signature()  # type: ignore[attr-defined]
    return authorized


def _as_it_is(evaluate: AsyncEvaluator) -> AsyncEvaluator:
    return evaluate


def _reason(decision: Mapping[str, Any]) -> str:
    reason = decision.get("reason")
    return reason if isinstance(reason, str) and reason else NO_REASON


def _method(connection: HTTPConnection) -> str:
    method: str = connection.scope.get("method", "WEBSOCKET")
    return method


def _path(connection: HTTPConnection) -> str:
    path: str = connection.scope["path"]
    return path
