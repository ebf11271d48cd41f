"""Responses to requests that do not pass."""

import json
from http import HTTPStatus
from typing import Final

from sark_cache.asgi.protocol import App, Receive, Scope, Send

POLICY_VIOLATION: Final = 1008
"""The code with which a WebSocket is closed. Before it is accepted, the server answers 403."""
_EXTENSION: Final = "websocket.http.response"


class Problem:
    """An ASGI app that answers with a problem of RFC 9457.

    Args:
        status: The status of the response.
        detail: The explanation, for the client.
    """

    def __init__(self, status: int, detail: str) -> None:
        self._status: Final = status
        self._body: Final = json.dumps(
            {
                "type": "about:blank",
                "title": HTTPStatus(status).phrase,
                "status": status,
                "detail": detail,
            }
        ).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        del receive
        prefix = "websocket." if scope["type"] == "websocket" else ""
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(self._body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send(
            {"type": f"{prefix}http.response.start", "status": self._status, "headers": headers}
        )
        body = b"" if scope.get("method") == "HEAD" else self._body
        await send({"type": f"{prefix}http.response.body", "body": body})


async def refuse(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with an app. Closes a WebSocket if the server cannot answer it with a response."""
    if scope["type"] != "websocket":
        await app(scope, receive, send)
        return
    await receive()  # the request to connect
    if _EXTENSION in (scope.get("extensions") or {}):
        await app(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": "denied"})
