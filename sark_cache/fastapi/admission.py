"""Admission to the admin routes: for admins, by requests that no page of another site can send.

A browser sends a user's cookies with a form of any site, and asks nobody before. It asks first
where a request has a JSON body or a header of its own, so one of these is needed for what changes
something.
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
    Header(description="Anything; needed by what changes something, if its body is not JSON."),
]


def only_admins(admin: Dependency) -> Callable[..., Coroutine[object, None, None]]:
    """Returns a dependency that refuses everybody whom `admin` does not let pass.

    Raises:
        TypeError: `admin` is no dependency.
    """
    dependency = read_source("admin", admin)
    if get_origin(dependency) is not Annotated:
        arguments.refuse("admin", f"{DEPENDENCY} or None", admin)

    async def admitted(found: Any) -> None:  # noqa: ANN401 - whatever it brings
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
    """Refuses with 403 what a form of another site can send.

    Raises:
        HTTPException: 403, there is neither a JSON body nor the header.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = media_type == "application/json" or media_type.endswith("+json")
    if not is_json and x_requested_with is None:
        raise HTTPException(403, FORGEABLE)
