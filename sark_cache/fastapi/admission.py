"""Access to the admin routes: only for admins, and only by requests that other sites cannot forge.

A browser sends a user's cookies with a form of any site, without asking the server first. If a
request has a JSON body or a custom header, the browser asks first. So every request that changes
something must have a JSON body or the header `X-Requested-With`.
"""

from collections.abc import Callable, Coroutine
from inspect import isawaitable
from typing import Annotated, Any, Final, get_origin

from fastapi import Header, HTTPException, Request

from sark_cache._core import arguments
from sark_cache._core.json import type_name
from sark_cache.fastapi.sources import DEPENDENCY, Dependency, read_source

FORGEABLE: Final = (
    "this request could come from a page of another site: send Content-Type: application/json or "
    "the header X-Requested-With"
)
RequestedWith = Annotated[
    str | None,
    Header(
        description="Any value. Required if the request changes something and has no JSON body."
    ),
]


def only_admins(admin: Dependency) -> Callable[..., Coroutine[object, None, None]]:
    """Returns a dependency that refuses every caller that `admin` refuses.

    Raises:
        TypeError: `admin` is not a dependency.
    """
    dependency = read_source("admin", admin)
    if get_origin(dependency) is not Annotated:
        arguments.refuse("admin", f"{DEPENDENCY} or None", admin)

    async def admitted(found: Any) -> None:  # noqa: ANN401 - any result
        if isawaitable(found):
            message = (
                f"admin must be an async function: it returned {type_name(found)}, which was not "
                "awaited"
            )
            raise TypeError(message)
        if found is not None and not found:
            raise HTTPException(403, "not an admin")

    admitted.__annotations__["found"] = dependency
    return admitted


async def not_forged(request: Request, x_requested_with: RequestedWith = None) -> None:
    """Refuses requests that a form of another site could send.

    Raises:
        HTTPException: 403, the request has neither a JSON body nor the header.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = media_type == "application/json" or media_type.endswith("+json")
    if not is_json and x_requested_with is None:
        raise HTTPException(403, FORGEABLE)
