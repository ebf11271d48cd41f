"""`PolicyMiddleware`: only allowed requests reach the app, whatever the app is."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute

from evaluators import in_a_thread, is_member
from sark_cache import RustPolicyCache, get_rust_policy_cache
from sark_cache.asgi import PolicyMiddleware, Rule
from sark_cache.fastapi import policy_cache_lifespan
from sark_cache.settings import CacheSettings

RULES = [
    Rule("/health", public=True),
    Rule("/documents/{document}", ["GET"], "read", "document:{document}"),
    Rule("/mounted/{document}", ["GET"]),
    Rule("/live", ["WEBSOCKET"], "watch", "live"),
]
PROBLEM = "application/problem+json"


def user_of(scope):
    """Returns the header `user`."""
    found = dict(scope["headers"]).get(b"user")
    return None if found is None else found.decode()


async def user_of_later(scope):
    await asyncio.sleep(0)
    return user_of(scope)


class Recorder:
    """An evaluator that allows alice, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    async def evaluate(self, *request):
        self.asked.append(request)
        return {"allow": request[0] == "alice", "reason": "alice only"}


class Rooted:
    """An app that sets its own root path, as `FastAPI(root_path=...)` does."""

    root_path = "/api"

    async def __call__(self, scope, receive, send):
        """Serves nothing."""


def text(answer):
    async def respond(request):
        return PlainTextResponse(answer)

    return respond


async def live(websocket):
    await websocket.accept()
    await websocket.send_text(websocket.scope["sark_cache.decision"]["reason"])
    await websocket.close()


def routes():
    return [
        Route("/health", text("up")),
        Route("/documents/{document}", text("a document")),
        Route("/secret", text("a secret")),
        Mount("/mounted", Starlette(routes=[Route("/{document}", text("mounted"))])),
        WebSocketRoute("/live", live),
    ]


@pytest.fixture
def engine():
    return Recorder()


@pytest.fixture
async def cache():
    async with RustPolicyCache() as cache:
        yield cache


@pytest.fixture
def guard(engine, cache):
    """Returns a function that guards an app."""

    def guarded(app=None, **options):
        given = {"evaluate": engine, "user": user_of, "cache": cache, "policy": "tests"}
        return PolicyMiddleware(app or Starlette(routes=routes()), RULES, **(given | options))

    return guarded


async def answer(app, method, path, user="alice", **options):
    transport = httpx.ASGITransport(app=app, **options)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, headers={} if user is None else {"user": user})


async def connect(app, path, user, extensions=()):
    """Connects a WebSocket, and returns the messages of the app."""
    sent = []
    scope = {
        "type": "websocket",
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [(b"user", user.encode())],
        "subprotocols": [],
        "extensions": {name: {} for name in extensions},
    }

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent


@asynccontextmanager
async def started(app):
    """Runs the lifespan of an app, as a server does."""
    received, sent = asyncio.Queue(), asyncio.Queue()
    running = asyncio.create_task(app({"type": "lifespan"}, received.get, sent.put))
    for step in ("startup", "shutdown"):
        await received.put({"type": f"lifespan.{step}"})
        assert await sent.get() == {"type": f"lifespan.{step}.complete"}
        if step == "startup":
            yield
    await running


async def test_an_allowed_request_reaches_the_app(guard, engine, cache):
    app = guard()
    for _ in range(3):
        found = await answer(app, "GET", "/documents/7")
        assert (found.status_code, found.text) == (200, "a document")
    assert engine.asked == [("alice", "read", "document:7", None)]
    assert cache.metrics.hits == 2


async def test_a_denied_request_gets_the_reason_as_a_problem(guard):
    found = await answer(guard(), "GET", "/documents/7", "bob")
    assert (found.status_code, found.headers["content-type"]) == (403, PROBLEM)
    assert found.headers["cache-control"] == "no-store"
    assert found.json() == {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "detail": "alice only",
    }


async def test_a_request_without_a_user_is_unauthorized(guard, engine):
    found = await answer(guard(), "GET", "/documents/7", None)
    assert (found.status_code, found.json()["detail"]) == (401, "nobody is signed in")
    assert (await answer(guard(), "GET", "/documents/7", "")).status_code == 401
    assert engine.asked == []


async def test_a_public_request_needs_no_user(guard, engine):
    assert (await answer(guard(), "GET", "/health", None)).text == "up"
    assert engine.asked == []


@pytest.mark.parametrize("path", ["/secret", "/documents", "/nothing", "/documents/7/8"])
async def test_what_no_rule_covers_is_denied(guard, engine, path):
    found = await answer(guard(), "GET", path)
    assert (found.status_code, found.json()["detail"]) == (403, "no rule covers this request")
    assert engine.asked == []


async def test_an_encoded_slash_is_a_slash(guard):
    assert (await answer(guard(), "GET", "/documents/7%2F8")).status_code == 403


async def test_a_request_that_calls_itself_a_websocket_is_denied(guard):
    assert (await answer(guard(), "WEBSOCKET", "/live")).status_code == 403


@pytest.mark.parametrize("method", ["get", "Get", "gET"])
async def test_a_method_that_a_framework_would_convert_is_denied(guard, engine, method):
    scope = {"type": "http", "method": method, "path": "/health", "headers": []}
    sent = []

    async def send(message):
        sent.append(message)

    await guard()(scope, None, send)
    assert sent[0]["status"] == 403


async def test_a_public_request_has_no_decision_of_a_middleware_around_it(guard):
    seen = []

    async def app(scope, receive, send):
        seen.append(scope.get("sark_cache.decision"))
        await PlainTextResponse("")(scope, receive, send)

    inner = PolicyMiddleware(
        app, [Rule("/documents/{x}", public=True)], evaluate=is_member, user=user_of
    )
    await answer(guard(inner), "GET", "/documents/7")
    assert seen == [None]


async def test_head_needs_the_decision_of_get(guard, engine):
    assert (await answer(guard(), "HEAD", "/mounted/7", "bob")).status_code == 403
    assert (await answer(guard(), "GET", "/mounted/7", "bob")).status_code == 403
    assert engine.asked == [("bob", "GET", "/mounted/7", None)]


async def test_the_answer_to_head_has_no_body(guard):
    found = await answer(guard(), "HEAD", "/documents/7", "bob")
    assert (found.status_code, found.content) == (403, b"")


async def test_a_mounted_app_is_guarded(guard, engine):
    assert (await answer(guard(), "GET", "/mounted/7")).text == "mounted"
    assert (await answer(guard(), "GET", "/mounted/7/8")).status_code == 403
    assert engine.asked == [("alice", "GET", "/mounted/7", None)]


async def test_an_app_below_a_root_path_is_guarded(guard, engine):
    found = await answer(guard(), "GET", "/api/mounted/7", root_path="/api")
    assert found.text == "mounted"
    assert engine.asked == [("alice", "GET", "/api/mounted/7", None)]


async def test_it_works_as_middleware_of_an_app(engine, cache):
    app = Starlette(routes=routes())
    options = {"evaluate": engine, "user": user_of, "cache": cache, "policy": "tests"}
    app.add_middleware(PolicyMiddleware, rules=RULES, **options)
    assert (await answer(app, "GET", "/documents/7")).text == "a document"
    assert (await answer(app, "GET", "/secret")).status_code == 403


@pytest.mark.parametrize("allow", ["yes", 1, None])
async def test_only_true_allows(guard, allow):
    async def evaluate(*request):
        return {"allow": allow}

    found = await answer(guard(evaluate=evaluate), "GET", "/documents/7")
    assert (found.status_code, found.json()["detail"]) == (403, "denied by policy")


async def test_an_error_of_the_evaluator_lets_nothing_pass(guard):
    async def fails(*request):
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await answer(guard(evaluate=fails), "GET", "/documents/7")


async def test_functions_may_be_async_or_not(guard):
    app = guard(evaluate=in_a_thread, user=user_of_later)
    assert (await answer(app, "GET", "/documents/7")).status_code == 200
    assert (await answer(app, "GET", "/documents/7", None)).status_code == 401


async def test_the_context_is_a_part_of_the_request(guard, engine):
    app = guard(context=lambda scope: {"scheme": scope["scheme"]})
    await answer(app, "GET", "/documents/7")
    assert engine.asked == [("alice", "read", "document:7", {"scheme": "http"})]


async def test_an_app_may_answer_denied_requests_itself(guard):
    def deny(scope, status, reason):
        return PlainTextResponse(f"{scope['path']}: {reason}", status)

    found = await answer(guard(deny=deny), "GET", "/documents/7", "bob")
    assert (found.status_code, found.text) == (403, "/documents/7: alice only")


async def test_a_user_of_another_type_is_an_error(guard):
    with pytest.raises(TypeError, match="user must return a str or None, not int"):
        await answer(guard(user=lambda _: 7), "GET", "/documents/7")


async def test_a_websocket_is_guarded(guard):
    accepted = await connect(guard(), "/live", "alice")
    assert [message["type"] for message in accepted] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    assert accepted[1]["text"] == "alice only"


@pytest.mark.parametrize(("path", "user"), [("/live", "bob"), ("/nothing", "alice")])
async def test_a_denied_websocket_is_closed(guard, path, user):
    closed = [{"type": "websocket.close", "code": 1008, "reason": "denied"}]
    assert await connect(guard(), path, user) == closed


async def test_a_denied_websocket_gets_a_response_from_a_server_that_can_send_it(guard):
    start, body = await connect(guard(), "/live", "bob", ["websocket.http.response"])
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)
    assert b"alice only" in body["body"]


async def test_an_unknown_type_of_connection_is_refused(guard):
    with pytest.raises(RuntimeError, match="guards HTTP and WebSockets, not 'mail'"):
        await guard()({"type": "mail"}, None, None)


# The cache of the process


@pytest.fixture
def of_process(engine):
    """Returns a function that guards an app with the cache of the process."""

    def guarded(app=None):
        given = {"evaluate": engine, "user": user_of, "policy": "tests"}
        return PolicyMiddleware(app or Starlette(routes=routes()), RULES, **given)

    return guarded


async def test_without_a_cache_it_uses_that_of_the_process(of_process, engine):
    app = of_process()
    async with started(app):
        for _ in range(2):
            assert (await answer(app, "GET", "/documents/7")).status_code == 200
    assert engine.asked == [("alice", "read", "document:7", None)]
    assert app._cache is None, "it was given back"


async def test_without_a_lifespan_the_first_request_creates_it(of_process, engine):
    app = of_process()
    try:
        for _ in range(2):
            assert (await answer(app, "GET", "/documents/7")).status_code == 200
    finally:
        await app._close()
    assert engine.asked == [("alice", "read", "document:7", None)]


async def test_it_shares_the_cache_of_the_lifespan_of_the_app(of_process, engine):
    settings = CacheSettings(cache_ttl=7)
    app = of_process(Starlette(routes=routes(), lifespan=policy_cache_lifespan(settings)))
    async with started(app):
        for _ in range(2):
            assert (await answer(app, "GET", "/documents/7")).status_code == 200
        await get_rust_policy_cache().invalidate("alice")
        assert (await answer(app, "GET", "/documents/7")).status_code == 200
    assert len(engine.asked) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"app": 7}, "app must be a function, not int"),
        ({"user": None}, "user must be a function, not NoneType"),
        ({"evaluate": 7}, "evaluate must be a function"),
        ({"cache": 7}, "cache must be a policy cache or None, not int"),
        ({"context": 7}, "context must be a function or None, not int"),
        ({"deny": 7}, "deny must be a function or None, not int"),
        ({"rules": [7]}, "rules must be a list of Rule, not int"),
        ({"policy": "x" * 300}, "policy must be at most 256 bytes"),
        ({"deny": user_of_later}, "deny must not be async"),
        ({"context": user_of_later}, "context must not be async"),
        ({"app": Rooted()}, "app sets root_path='/api'"),
        ({"app": ServerErrorMiddleware(Rooted())}, "app sets root_path='/api'"),
        ({"rules": RULES[0]}, "rules must be a list of Rule, not sark_cache.asgi.rules.Rule"),
    ],
)
def test_a_wrong_argument_is_refused(options, message):
    given = {
        "app": Starlette(),
        "rules": RULES,
        "evaluate": is_member,
        "user": user_of,
    } | options
    with pytest.raises((TypeError, ValueError)) as refused:
        PolicyMiddleware(**given)
    assert message in str(refused.value)
