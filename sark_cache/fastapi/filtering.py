"""`may.filter`: a dependency that returns those resources of a list that a user may use."""

from collections.abc import Callable, Coroutine, Mapping
from copy import copy
from typing import Annotated, Any, get_args, get_origin

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from sark_cache._core import arguments
from sark_cache.errors import BatchLoadError
from sark_cache.evaluation.calling import is_async
from sark_cache.evaluation.evaluators import Timed, timed
from sark_cache.evaluation.many import TOGETHER, each_alone, own_evaluate_many, read_many
from sark_cache.fastapi.evaluators import callable_evaluator
from sark_cache.fastapi.installation import cache_for
from sark_cache.fastapi.sources import (
    DEPENDENCY,
    FromRequest,
    Sources,
    read_source,
    read_sources,
)
from sark_cache.types import BatchLoader


def filter_dependency(
    sources: Sources,
    engine: object,
    resources: Any,  # noqa: ANN401 - checked here
    key: Callable[[Any], str] | None,
    evaluate_many: Callable[..., Any] | None,
    max_batch: int,
    given: Mapping[str, Any],
    **storage: Any,  # noqa: ANN401 - the arguments of `filter_allowed` that are constants
) -> Callable[..., Coroutine[object, None, list[Any]]]:
    """Returns the dependency. `sources` are those of `authorize`, for one resource.

    Args:
        sources: The sources of `authorize`.
        engine: The evaluator of `authorize`. None: each request has one, from a dependency.
        resources: The source of the list, as in `Authorization.filter`.
        key: As in `Authorization.filter`.
        evaluate_many: As in `Authorization.filter`.
        max_batch: As in `Authorization.filter`.
        given: The arguments that replace those of `authorize`, by name. None: it is not replaced.
        storage: The arguments of `filter_allowed` that do not depend on the request.

    Raises:
        TypeError, ValueError: An argument cannot be used. The message names it.
    """
    listed = _read_list(resources, sources.without("resource"))
    _check_key(key)
    arguments.read_max_batch(max_batch)
    for name, source in given.items():
        listed = _replaced(listed, name, source)
    if evaluate_many is not None and engine is None:
        message = (
            "evaluate_many can be given only if evaluate is not a dependency: the engine that the "
            "dependency returns needs a method evaluate_many"
        )
        raise TypeError(message)

    def read(evaluator: object) -> BatchLoader | None:
        many = own_evaluate_many(evaluator) if evaluate_many is None else evaluate_many
        return None if many is None else read_many(many, run_in_threadpool)

    together = read(engine)

    def loader(evaluator: Any, cache: Timed) -> tuple[BatchLoader, int]:  # noqa: ANN401
        many = read(evaluator) if engine is None else together
        if many is not None:
            return timed(many, cache), max_batch
        alone = callable_evaluator(evaluator) if engine is None else evaluator
        return each_alone(timed(alone, cache)), min(max_batch, TOGETHER)

    async def allowed(
        connection: HTTPConnection,
        **found: Any,  # noqa: ANN401 - the results of dependencies, checked where they are used
    ) -> list[Any]:
        asked = listed.of(connection, found)
        cache = await cache_for(connection)
        load, size = loader(asked["evaluate"], cache)
        try:
            return await cache.filter_allowed(
                asked["user"],
                asked["action"],
                asked["resources"],
                load,
                asked["context"],
                key=key,
                sensitivity=asked["sensitivity"],
                tags=asked["tags"],
                max_batch=size,
                **storage,
            )
        except BatchLoadError as error:
            answers = [each for each in error.errors.values() if isinstance(each, HTTPException)]
            if not answers:
                raise
        raise answers[0]  # the evaluator's own answer to the client

    allowed.__signature__ = listed.signature()  # type: ignore[attr-defined]
    return allowed


def _read_list(given: object, sources: Sources) -> Sources:
    source = read_source("resources", given)
    if isinstance(source, FromRequest):
        return sources.including("resources", source)
    if get_origin(source) is not Annotated:
        arguments.refuse("resources", f"{DEPENDENCY} or a FromRequest", given)
    kind, *metadata = get_args(source)
    depends = metadata[-1]
    # Each filter calls it: two filters of a route would share an iterator, which ends only once.
    if depends.use_cache:
        depends = copy(depends)
        object.__setattr__(depends, "use_cache", False)
    return sources.including("resources", Annotated[kind, depends])


def _replaced(sources: Sources, name: str, given: Any) -> Sources:  # noqa: ANN401 - any argument
    if given is not None:
        return sources.without(name).merged(read_sources({name: given}))
    if name in sources.constants:
        return sources
    message = (
        f"filter needs {name}: authorize reads it from the request for one resource. Pass {name} "
        "for the whole list, or let the evaluator return a Loaded for each decision"
    )
    raise TypeError(message)


def _check_key(key: object) -> None:
    takes = "a function, not async, that returns the resource of an object, or None"
    if key is not None and (not callable(key) or is_async(key)):
        arguments.refuse("key", takes, key)
