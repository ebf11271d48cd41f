"""`may.filter`: a dependency that returns those resources of a list that a user may use."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, get_origin

from fastapi import HTTPException
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from sark_cache._core import arguments
from sark_cache.errors import BatchLoadError
from sark_cache.evaluation.evaluators import Timed, timed
from sark_cache.evaluation.many import each_alone, read_many, timed_many
from sark_cache.fastapi.evaluators import callable_evaluator
from sark_cache.fastapi.installation import policy_cache_of, replaced_policy_cache
from sark_cache.fastapi.sources import DEPENDENCY, FromRequest, Sources, read_source
from sark_cache.types import BatchLoader


def filter_dependency(
    sources: Sources,
    resources: Any,  # noqa: ANN401 - checked here
    key: Callable[[Any], str] | None,
    evaluate_many: Callable[..., Any] | None,
    max_batch: int,
    **storage: Any,  # noqa: ANN401 - the arguments of `filter_allowed` that are constants
) -> Callable[..., Coroutine[object, None, list[Any]]]:
    """Returns the dependency. `sources` are those of `authorize`, for one resource.

    Raises:
        TypeError, ValueError: An argument cannot be used. The message names it.
    """
    source = _read_list(resources)
    _check_key(key)
    arguments.read_max_batch(max_batch)
    together = None if evaluate_many is None else read_many(evaluate_many, run_in_threadpool)
    listed = sources.without("resource").including("resources", source)

    def loader(evaluator: Any, cache: Timed) -> BatchLoader:  # noqa: ANN401 - any evaluator
        if together is not None:
            return timed_many(together, cache)
        own = getattr(evaluator, "evaluate_many", None)
        if own is not None:
            return timed_many(read_many(own, run_in_threadpool), cache)
        return each_alone(timed(callable_evaluator(evaluator), cache))

    async def allowed(
        connection: HTTPConnection,
        **found: Any,  # noqa: ANN401 - the results of dependencies, checked where they are used
    ) -> list[Any]:
        asked = listed.of(connection, found)
        cache = policy_cache_of(connection)
        if cache is None:
            cache = await replaced_policy_cache(connection)
        try:
            return await cache.filter_allowed(
                asked["user"],
                asked["action"],
                asked["resources"],
                loader(asked["evaluate"], cache),
                asked["context"],
                key=key,
                sensitivity=asked["sensitivity"],
                tags=asked["tags"],
                max_batch=max_batch,
                **storage,
            )
        except BatchLoadError as error:
            for reason in error.errors.values():
                if isinstance(reason, HTTPException):  # the evaluator's own answer to the client
                    raise reason from error
            raise

    allowed.__signature__ = listed.signature()  # type: ignore[attr-defined]
    return allowed


def _read_list(given: object) -> Any:  # noqa: ANN401 - see `read_source`
    source = read_source("resources", given)
    if get_origin(source) is not Annotated and not isinstance(source, FromRequest):
        arguments.refuse("resources", f"{DEPENDENCY} or a FromRequest", given)
    return source


def _check_key(key: object) -> None:
    if key is not None and not callable(key):
        arguments.refuse("key", "a function that returns the resource of an object, or None", key)
