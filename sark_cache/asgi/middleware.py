"""`PolicyMiddleware`: gets a decision for each request before the app sees it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from http import HTTPStatus
from inspect import isawaitable
from typing import Any, Final, TypeAlias

from sark_cache._core import arguments
from sark_cache._core.json import type_name
from sark_cache.asgi.denial import Problem, refuse
from sark_cache.asgi.protocol import WEBSOCKET, App, Message, Receive, Scope, Send, route_path
from sark_cache.asgi.rules import Rule, RuleTable
from sark_cache.evaluation.calling import is_async
from sark_cache.evaluation.evaluators import Engine, Evaluator, callable_evaluator, timed
from sark_cache.evaluation.policies import policy_of
from sark_cache.protocol import PolicyCacheProtocol
from sark_cache.types import Context, JSONObject

NO_REASON: Final = "denied by policy"
NO_RULE: Final = "no rule covers this request"
NO_USER: Final = "nobody is signed in"

MAX_WRAPPED: Final = 64
"""The maximum number of middlewares that are searched for an app that sets its own `root_path`."""
DECISION: Final = "sark_cache.decision"
"""The key of the scope under which the app finds the decision."""

FindUser: TypeAlias = Callable[[Scope], str | Awaitable[str | None] | None]
Deny: TypeAlias = Callable[[Scope, int, str], App]


class PolicyMiddleware:
    """Lets only allowed requests reach an ASGI app.

    >>> app = PolicyMiddleware(
    ...     app,
    ...     [
    ...         Rule("/health", public=True),
    ...         Rule("/documents/{document}", ["GET"], "read", "document:{document}"),
    ...     ],
    ...     evaluate=ask_policy_engine,
    ...     user=lambda scope: scope["session"].get("user"),
    ... )

    The first rule that covers a request decides. A request that no rule covers is denied. A public
    request passes. Any other request needs a user and a decision whose `allow` is `True`. The app
    finds the decision in `scope["sark_cache.decision"]`.

    All HTTP requests and WebSockets are checked, including those for mounted apps, static files and
    error pages. Put CORS and session middleware outside this one. A request whose method is not in
    capitals is denied, because some frameworks convert it.

    Args:
        app: The app.
        rules: The rules, in order.
        evaluate: The evaluator, which asks the policy engine: a function `(user_id, action,
            resource, context)`, async or not. It returns the decision, a JSON object, or a
            `Loaded`. It can also be an object with such a method, `evaluate` or `__call__`. An
            evaluator that is not async runs in a thread. If it raises, the request does not pass,
            and the error goes to the server.
        user: A function that takes the scope and returns the id of the user. None or an empty id:
            nobody is signed in, and the answer is 401. It may be async. If it is not, it runs on
            the event loop, so it must not block.
        cache: The cache. None: that of the process, with the settings of the environment. It is
            created at the start of the app or at the first request, and closed when no app of the
            process uses it any more. A cache that you pass is not closed.
        policy: The name of the policy, at most 256 bytes, the same in every process. None: the name
            of the evaluator, `module:qualified name`. A lambda, a closure and an object have no
            such name.
        context: A function, not async, that takes the scope and returns other facts that the
            decision depends on: a JSON object, or None.
        deny: A function, not async, that takes the scope, the status (401 or 403) and the reason,
            and returns the ASGI app that answers, such as a response of Starlette. None: the answer
            is `application/problem+json`. A WebSocket gets the answer if the server has the
            extension `websocket.http.response`, and is closed with the code 1008 otherwise.

    Raises:
        TypeError, ValueError: An argument cannot be used. The message names it.
    """

    def __init__(
        self,
        app: App,
        rules: Iterable[Rule],
        *,
        evaluate: Evaluator | Engine,
        user: FindUser,
        cache: PolicyCacheProtocol | None = None,
        policy: str | None = None,
        context: Callable[[Scope], Context | None] | None = None,
        deny: Deny | None = None,
    ) -> None:
        for name, given in (("app", app), ("user", user)):
            if not callable(given):
                arguments.refuse(name, "a function", given)
        for name, optional in (("context", context), ("deny", deny)):
            if optional is not None and not callable(optional):
                arguments.refuse(name, "a function or None", optional)
            if optional is not None and is_async(optional):
                message = f"{name} must not be async"
                raise TypeError(message)
        if cache is not None and not hasattr(cache, "get_or_load"):
            arguments.refuse("cache", "a policy cache or None", cache)
        _refuse_root_path(app)
        self.app: Final = app
        self._rules: Final = RuleTable(rules)
        self._evaluate: Final = callable_evaluator(evaluate, asyncio.to_thread)
        self._user: Final = user
        self._cache: PolicyCacheProtocol | None = cache
        self._policy: Final = policy_of(evaluate, policy)
        self._context: Final = context
        self._deny: Final[Deny] = deny or (lambda _, status, reason: Problem(status, reason))
        self._is_of_process: Final = cache is None
        self._closing: Final = AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection.

        Raises:
            TypeError: `user` returned neither a str nor None, or the evaluator no decision.
            RuntimeError: The scope has an unknown type.
        """
        if scope["type"] == "lifespan":
            serve = self._lifespan if self._is_of_process else self.app
            await serve(scope, receive, send)
            return
        denied = await self._denial(scope)
        if denied is None:
            await self.app(scope, receive, send)
        else:
            await refuse(self._deny(scope, *denied), scope, receive, send)

    async def _denial(self, scope: Scope) -> tuple[int, str] | None:
        """Returns the status and the reason of a denial. None: the request may pass."""
        scope.pop(DECISION, None)  # that of a middleware around this one
        method = _method(scope)
        asked = None if method is None else self._rules.find(method, route_path(scope))
        if method is None or asked is None:
            return HTTPStatus.FORBIDDEN, NO_RULE
        if asked.rule.public:
            return None
        user: Any = self._user(scope)
        if not isinstance(user, str) and isawaitable(user):
            user = await user
        if user is None or user == "":
            return HTTPStatus.UNAUTHORIZED, NO_USER
        if not isinstance(user, str):
            message = f"user must return a str or None, not {type_name(user)}"
            raise TypeError(message)
        action, resource = asked.action, asked.resource
        if action is None:
            action = "GET" if method == "HEAD" else method
        if resource is None:
            resource = str(scope["path"])
        decision = await self._decide(user, action, resource, scope)
        if decision.get("allow") is not True:
            reason = decision.get("reason")
            return HTTPStatus.FORBIDDEN, reason if isinstance(reason, str) and reason else NO_REASON
        scope[DECISION] = decision
        return None

    async def _decide(self, user: str, action: str, resource: str, scope: Scope) -> JSONObject:
        context = None if self._context is None else self._context(scope)
        cache = self._cache
        if cache is None:
            cache = await self._open()
        evaluate = self._evaluate
        return await cache.get_or_load(
            user,
            action,
            resource,
            lambda: timed(evaluate, cache)(user, action, resource, context),
            context,
            policy=self._policy,
        )

    # The cache of the process

    async def _open(self) -> PolicyCacheProtocol:
        """Takes the policy cache of the process. Each call counts as one user of it.

        Raises:
            SettingsError: A variable of the environment is wrong.
            ImportError: A package that it needs is not installed. The message names it.
        """
        from sark_cache.selection.shared import (  # noqa: PLC0415 - it needs pydantic
            policy_cache_of_process,
        )

        shared = await self._closing.enter_async_context(policy_cache_of_process())
        self._cache = shared.cache
        return shared.cache

    async def _close(self) -> None:
        """Gives the policy cache of the process back."""
        self._cache = None
        await self._closing.aclose()

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete" and self._cache is None:
                await self._open()
            elif message["type"].startswith("lifespan.shutdown."):
                await self._close()
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            await self._close()


def _method(scope: Scope) -> str | None:
    """Returns the method of a connection. None: no rule can cover it.

    Raises:
        RuntimeError: The scope has an unknown type.
    """
    kind = scope["type"]
    if kind == "websocket":
        return WEBSOCKET
    if kind != "http":
        message = f"PolicyMiddleware guards HTTP and WebSockets, not {kind!r}"
        raise RuntimeError(message)
    method: str = scope["method"]
    return None if method == WEBSOCKET or method != method.upper() else method


def _refuse_root_path(app: Any) -> None:  # noqa: ANN401 - any app
    """Refuses an app that sets its own `root_path`, which rules would not be compared with.

    Raises:
        ValueError: The app does, or one that it wraps.
    """
    for _ in range(MAX_WRAPPED):
        if app is None:
            return
        root = getattr(app, "root_path", None)
        if isinstance(root, str) and root:
            message = (
                f"app sets root_path={root!r} after its rules were compared with the path: give it "
                "to the server (uvicorn --root-path), or use app.add_middleware(PolicyMiddleware)"
            )
            raise ValueError(message)
        app = getattr(app, "app", None)
