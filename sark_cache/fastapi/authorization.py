"""`authorize`: a dependency that gets a decision from the policy cache, and denies with 403.

FastAPI needs 10 to 40 µs for this dependency, and again for each dependency that it was given. A
hit takes much less. A value that `FromRequest` reads takes almost no time.
"""

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final

from fastapi import HTTPException
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from sark_cache._core import arguments
from sark_cache.evaluation.evaluators import AsyncEvaluator, Engine, Evaluator, timed
from sark_cache.evaluation.many import ManyEvaluator
from sark_cache.evaluation.policies import policy_of
from sark_cache.fastapi.evaluators import callable_evaluator, read_evaluator_source
from sark_cache.fastapi.filtering import filter_dependency
from sark_cache.fastapi.installation import cache_for
from sark_cache.fastapi.sources import Dependency, FromRequest, Sources, read_sources
from sark_cache.types import JSONObject

NO_REASON: Final = "denied by policy"


class Denial(BaseModel):
    """The body of a 403 response: the reason of the decision."""

    detail: str


FORBIDDEN: Final[dict[int | str, dict[str, Any]]] = {
    403: {"model": Denial, "description": "The policy denies it; `detail` is its reason."}
}
"""The 403 response of `authorize`, for the OpenAPI schema. FastAPI reads responses only from routes
and routers: `@app.get(..., responses=FORBIDDEN)`, `APIRouter(responses=FORBIDDEN)`."""


class Authorization:
    """The dependency that `authorize` returns."""

    def __init__(
        self,
        evaluate: object,
        sources: Sources,
        ttl_seconds: float | None,
        policy: str,
    ) -> None:
        self.__signature__: Final = sources.signature()
        self._engine = evaluate if "evaluate" in sources.constants else None
        self._sources = sources
        self._ttl_seconds = ttl_seconds
        self._policy = policy
        self._prepare = callable_evaluator if self._engine is None else _as_it_is

    async def __call__(
        self,
        connection: HTTPConnection,
        **found: Any,  # noqa: ANN401 - the results of dependencies, checked where they are used
    ) -> JSONObject:
        """Returns the decision for a request, if it may pass."""
        asked = self._sources.of(connection, found)
        user, action, resource = asked["user"], asked["action"], asked["resource"]
        context = asked["context"]
        cache = await cache_for(connection)
        decision = await cache.get_or_load(
            user,
            action,
            resource,
            lambda: timed(self._prepare(asked["evaluate"]), cache)(user, action, resource, context),
            context,
            ttl_seconds=self._ttl_seconds,
            sensitivity=asked["sensitivity"],
            tags=asked["tags"],
            policy=self._policy,
        )
        if decision.get("allow") is not True:
            raise HTTPException(403, _reason(decision))
        return decision

    def filter(
        self,
        resources: Dependency | FromRequest,
        *,
        key: Callable[[Any], str] | None = None,
        evaluate_many: ManyEvaluator | None = None,
        sensitivity: str | Dependency | FromRequest | None = None,
        tags: Iterable[str] | Dependency | FromRequest | None = None,
        max_batch: int = arguments.DEFAULT_MAX_BATCH,
    ) -> Callable[..., Coroutine[object, None, list[Any]]]:
        """Returns a dependency that returns those resources that the user may use, in their order.

        >>> mine = may_read.filter(all_documents, key=lambda document: f"document:{document.id}")
        >>> @app.get("/documents")
        ... async def documents(found: Annotated[list, Depends(mine)]) -> list[Document]: ...

        The arguments of `authorize` apply, except for `resource`. A resource is allowed if
        `authorize` would let a request for it pass, and both share the decisions. So the resource
        and the action must be the same text: if `authorize` has no `resource`, the resource is a
        path such as `/documents/7`.

        If a decision is missing, `filter` does not return the others: an `HTTPException` that the
        evaluator raises is the answer, and any other exception becomes a `BatchLoadError`.

        Args:
            resources: The source of the resources, or of objects that have one: a dependency or a
                `FromRequest` that returns an iterable or an async iterable. A dependency that
                yields gives only its first value. Limit the length of a list if a client can
                choose it. The dependency is called for each filter of a route.
            key: Returns the resource of an object. None: the objects are the resources.
            evaluate_many: Evaluates many requests at once, by the same policy as the evaluator: a
                function, async or not, that takes a list of requests `(user_id, action, resource,
                context)` and returns a list with a decision, a `Loaded` or an exception for each
                of them. None: the method `evaluate_many` of the evaluator, unless a subclass
                redefines only the evaluation of one request. If there is none, the evaluator is
                called for each request, at most 16 times at once. If the evaluator comes from a
                dependency, only its own method is used.
            sensitivity: As in `authorize`, for the whole list. None: that of `authorize`, which
                must not be read from the request then.
            tags: Tags for all decisions of the list. None: those of `authorize`, which must not be
                read from the request then. The evaluator can return a `Loaded` with tags of its
                own for each decision.
            max_batch: The maximum number of requests in one call of `evaluate_many`.

        Raises:
            TypeError, ValueError: An argument cannot be used. The message names it.
        """
        return filter_dependency(
            self._sources,
            self._engine,
            resources,
            key,
            evaluate_many,
            max_batch,
            {"sensitivity": sensitivity, "tags": tags},
            ttl_seconds=self._ttl_seconds,
            policy=self._policy,
        )


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
) -> Authorization:
    """Returns a dependency that lets only allowed requests pass, and returns the decision.

    >>> may_read = authorize(ask_policy_engine, user=current_user, action="read", resource=document)
    >>> @app.get("/documents/{document}", responses=FORBIDDEN)
    ... async def read(decision: Annotated[dict, Depends(may_read)]) -> Document: ...

    An argument is a constant, a dependency or a `FromRequest`. A dependency is a function,
    `Depends(function)` or `Annotated[str, Depends(function)]`. It may have its own dependencies,
    and its parameters are part of the OpenAPI schema. If it raises, the request ends. For example,
    the dependency of `user` can raise a 401 if no user is signed in. A `FromRequest` reads a value
    such as a part of the path, and costs much less than a dependency. A dependency or an evaluator
    that is not async runs in FastAPI's threadpool.

    A request passes only if the `allow` of its decision is `True`. Every other value, such as
    `"yes"` or `1`, and a missing `allow` are denied with a 403. Its detail is the `reason` of the
    decision, if that is text. If the evaluator raises, the request does not pass: an
    `HTTPException` is the answer, and any other exception goes to an exception handler of the app
    or is answered with a 500.

    The method `filter` of the dependency returns another one, for a list of resources.

    Each policy has its own decisions. Two evaluators share decisions only if they have the same
    `policy`.

    Args:
        evaluate: The evaluator, which asks the policy engine: a function `(user_id, action,
            resource, context)`, async or not. It returns the decision, a JSON object, or a `Loaded`
            with the decision, its time to live and its tags. Or an object with such a method,
            `evaluate` or `__call__`. Or a `FromRequest` or a dependency, `Depends(...)`, that
            returns such a function or object: it can use a client of the app, and a test can
            replace a dependency. The duration of each evaluation is recorded with
            `record_opa_latency`.
        user: The id of the user, a str.
        action: The action, a str. None: the method of the request, such as `GET`, or `WEBSOCKET`.
        resource: The resource, a str. None: the whole path of the request, decoded, such as
            `/documents/7`, including the prefix of a mount. The path has no host and no query
            string. If the policy needs these, put them here or into `context`.
        context: All other facts that the decision depends on: a JSON object, or None.
        sensitivity: A name in `RustPolicyCache.OPTIMIZED_TTL`, or None.
        ttl_seconds: The time to live of a decision, in seconds. 0 stores no decision. None: that of
            the settings.
        tags: Tags by which the decisions can be revoked.
        policy: The name of the policy, at most 256 bytes, the same in every process. None: the name
            of the evaluator, `module:qualified name`. The evaluator must be importable by it: a
            function of a module, a static method or a class method. Any other evaluator needs a
            name here.

    The dependency raises:
        HTTPException: 403, the policy denies the request.
        RuntimeError: The app has no policy cache.
        TypeError: A dependency returned a wrong type, or the evaluator returned no decision.

    Raises:
        TypeError, ValueError: An argument cannot be used. The message names it.
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
    return Authorization(evaluate, sources, ttl_seconds, policy_of(evaluate, policy))


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
