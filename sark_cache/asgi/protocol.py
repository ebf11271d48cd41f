"""The types of ASGI, and the parts of a scope that a rule is compared with."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

WEBSOCKET: Final = "WEBSOCKET"
"""The method that stands for WebSockets in rules and decisions."""


def route_path(scope: Scope) -> str:
    """Returns the decoded path below `root_path`, which the routes of the app are compared with."""
    path: str = scope["path"]
    root: str = scope.get("root_path") or ""
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in {"", "/"}:
        return path[len(root) :]
    return path
