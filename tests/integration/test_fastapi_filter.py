"""FastAPI: `may.filter` gives a route those resources of a list that the user may use."""

import asyncio
import threading
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import PlainTextResponse

from apps_in_process import NATIVE, by, running
from sark_cache import BatchLoadError, NullPolicyCache, RustPolicyCache
from sark_cache.fastapi import FromRequest, PolicyCacheDep, authorize, policy_cache
from sark_cache.fastapi import policy_cache_lifespan as lifespan

OWNERS = {"1": "alice", "2": "bob", "3": "alice", "4": "yes", "5": "alice"}
DOCUMENTS = [{"id": name} for name in OWNERS]


def path_of(document):
    """Returns the resource of a document: the path at which it is read."""
    return f"/documents/{document['id']}"


def decision_for(user, resource):
    """Returns the decision of the policy. One document's `allow` is no boolean."""
    owner = OWNERS[resource.removeprefix("/documents/")]
    return {"allow": "yes" if owner == "yes" else owner == user, "reason": "owner"}


async def current_user(x_user: Annotated[str | None, Header()] = None) -> str:
    """Returns the user that the request claims to be."""
    if x_user is None:
        raise HTTPException(401, "who are you?")
    return x_user


async def all_documents(limit: int = 100) -> list[dict]:
    """Returns the documents."""
    return DOCUMENTS[:limit]


class Engine:
    """A policy engine that writes down what it is asked."""

    def __init__(self):
        self.single = []
        self.running = self.most_running = 0

    async def evaluate(self, user_id, action, resource, context):
        """Evaluates one request."""
        self.single.append((user_id, action, resource, context))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(0.001)
        self.running -= 1
        return decision_for(user_id, resource)


class EngineForMany(Engine):
    """A policy engine that also evaluates many requests at once."""

    def __init__(self):
        super().__init__()
        self.many = []

    async def evaluate_many(self, requests):
        """Evaluates many requests."""
        self.many.append(list(requests))
        return [decision_for(user, resource) for user, _, resource, _ in requests]


def served(filtered, may=None):
    """Returns an app that lists the documents, and lets one be read and revoked."""
    app = FastAPI(lifespan=lifespan(NATIVE))

    @app.get("/documents")
    async def documents(found: Annotated[list, Depends(filtered)]) -> list:
        return found

    @app.post("/revoke/{document}")
    async def revoke(document: str, cache: PolicyCacheDep) -> int:
        return await cache.invalidate(resource=f"/documents/{document}")

    if may is not None:

        @app.get("/documents/{document}", dependencies=[Depends(may)])
        async def read(document: str) -> str:
            return document

    return app


def filtering(evaluate, **more):
    """Returns a guard and its filter of all documents."""
    may = authorize(evaluate, user=current_user, policy="documents")
    return may, may.filter(all_documents, key=path_of, **more)


def ids(answer):
    """Returns the ids of the documents in an answer."""
    assert answer.status_code == 200, answer.text
    return [document["id"] for document in answer.json()]


async def test_a_route_gets_the_allowed_documents_in_their_order():
    engine = EngineForMany()
    async with running(served(filtering(engine)[1])) as client:
        assert ids(await client.get("/documents", headers=by("alice"))) == ["1", "3", "5"]
        assert ids(await client.get("/documents", headers=by("bob"))) == ["2"]
        assert ids(await client.get("/documents", headers=by("alice"))) == ["1", "3", "5"]
    assert [len(requests) for requests in engine.many] == [5, 5]
    assert engine.single == []


async def test_the_filter_and_the_guard_share_their_decisions():
    engine = EngineForMany()
    may, filtered = filtering(engine)
    async with running(served(filtered, may)) as client:
        assert (await client.get("/documents/2", headers=by("alice"))).status_code == 403
        await client.get("/documents", headers=by("alice"))
        assert (await client.get("/documents/1", headers=by("alice"))).status_code == 200
    assert [resource for _, _, resource, _ in engine.single] == ["/documents/2"]
    asked = [resource for _, _, resource, _ in engine.many[0]]
    assert asked == [f"/documents/{name}" for name in "1345"]


async def test_a_revoked_document_is_evaluated_again():
    engine = EngineForMany()
    async with running(served(filtering(engine)[1])) as client:
        await client.get("/documents", headers=by("alice"))
        assert (await client.post("/revoke/3")).json() == 1
        await client.get("/documents", headers=by("alice"))
    assert engine.many[1] == [("alice", "GET", "/documents/3", None)]


async def test_an_engine_that_evaluates_one_request_is_asked_for_some_at_a_time(monkeypatch):
    many = {f"{number}": "alice" for number in range(100)}
    monkeypatch.setattr(f"{__name__}.OWNERS", many)
    monkeypatch.setattr(f"{__name__}.DOCUMENTS", [{"id": name} for name in many])
    engine = Engine()
    async with running(served(filtering(engine)[1])) as client:
        assert ids(await client.get("/documents", headers=by("alice"))) == list(many)
    assert len(engine.single) == 100
    assert engine.most_running == 16


async def test_a_function_for_many_comes_before_the_engine():
    threads = set()

    def evaluate_many(requests):
        threads.add(threading.current_thread())
        return tuple(decision_for(user, resource) for user, _, resource, _ in requests)

    engine = EngineForMany()
    _, filtered = filtering(engine, evaluate_many=evaluate_many)
    async with running(served(filtered)) as client:
        assert ids(await client.get("/documents", headers=by("alice"))) == ["1", "3", "5"]
    assert (engine.many, engine.single) == ([], [])
    assert threading.current_thread() not in threads, "it is not async, so a thread runs it"


async def test_the_engine_may_come_from_a_dependency():
    engine = EngineForMany()

    async def of_the_app():
        return engine

    may = authorize(Depends(of_the_app), user=current_user, policy="documents")
    async with running(served(may.filter(all_documents, key=path_of))) as client:
        assert ids(await client.get("/documents", headers=by("bob"))) == ["2"]
    assert len(engine.many) == 1


async def test_the_resources_may_be_plain_text_and_come_one_by_one():
    async def paths(_request):
        for name in OWNERS:
            yield f"/documents/{name}"

    may = authorize(EngineForMany(), user=current_user, policy="documents")
    async with running(served(may.filter(FromRequest(paths)))) as client:
        answer = await client.get("/documents", headers=by("bob"))
        assert answer.json() == ["/documents/2"]


async def test_context_sensitivity_and_tags_are_those_of_the_guard():
    engine = EngineForMany()

    async def second_factor() -> dict:
        return {"mfa": True}

    may = authorize(
        engine,
        user=current_user,
        action="read",
        resource="unused",
        context=second_factor,
        tags=(tag for tag in ["bundle:1"]),  # read once, for both
        policy="documents",
    )
    app = served(may.filter(all_documents, key=path_of))

    @app.post("/bundle")
    async def bundle(cache: PolicyCacheDep) -> int:
        return await cache.invalidate(tags=["bundle:1"])

    async with running(app) as client:
        await client.get("/documents", headers=by("bob"))
        assert (await client.post("/bundle")).json() == 5
    assert engine.many[0][0] == ("bob", "read", "/documents/1", {"mfa": True})


@pytest.mark.parametrize("together", [True, False])
async def test_an_answer_of_the_evaluator_is_the_answer_to_the_client(together):
    async def unavailable(*_request):
        raise HTTPException(503, "the policy engine is away")

    _, filtered = filtering(unavailable, evaluate_many=unavailable if together else None)
    async with running(served(filtered)) as client:
        answer = await client.get("/documents", headers=by("alice"))
        assert (answer.status_code, answer.json()["detail"]) == (503, "the policy engine is away")


async def test_a_list_in_which_a_decision_is_missing_is_not_returned():
    async def broken(requests):
        return [OSError("no answer"), *({"allow": True} for _ in requests[1:])]

    _, filtered = filtering(Engine(), evaluate_many=broken)
    async with running(served(filtered), raises=True) as client:
        with pytest.raises(BatchLoadError, match="1 of 5 requests have no decision"):
            await client.get("/documents", headers=by("alice"))


async def test_nobody_gets_a_list_without_signing_in():
    engine = EngineForMany()
    async with running(served(filtering(engine)[1])) as client:
        assert (await client.get("/documents")).status_code == 401
    assert engine.many == []


async def test_a_user_that_is_not_text_gets_no_list():
    may = authorize(EngineForMany(), user=FromRequest(lambda _request: None), policy="documents")
    async with running(served(may.filter(all_documents, key=path_of)), raises=True) as client:
        with pytest.raises(TypeError, match="user must be a str"):
            await client.get("/documents")


async def test_the_parameters_of_the_list_are_in_the_schema_and_work():
    app = served(filtering(EngineForMany())[1])
    parameters = app.openapi()["paths"]["/documents"]["get"]["parameters"]
    assert {each["name"] for each in parameters} == {"limit", "x-user"}
    async with running(app) as client:
        assert ids(await client.get("/documents?limit=2", headers=by("alice"))) == ["1"]


@pytest.mark.parametrize("replacement", [RustPolicyCache, NullPolicyCache])
async def test_a_test_can_replace_the_cache_and_the_list(replacement):
    engine = EngineForMany()
    app = served(filtering(engine)[1])
    cache = replacement()
    app.dependency_overrides = {
        policy_cache: lambda: cache,
        all_documents: lambda: DOCUMENTS[2:],
    }
    async with running(app) as client:
        assert ids(await client.get("/documents", headers=by("alice"))) == ["3", "5"]
    assert await cache.size() == (3 if replacement is RustPolicyCache else 0)


async def test_an_engine_that_is_away_is_not_asked_about_the_rest(monkeypatch):
    many = {f"{number}": "alice" for number in range(200)}
    monkeypatch.setattr(f"{__name__}.DOCUMENTS", [{"id": name} for name in many])
    asked = []

    async def unavailable(*request):
        asked.append(request)
        raise HTTPException(503, "the policy engine is away")

    async with running(served(filtering(unavailable)[1])) as client:
        assert (await client.get("/documents", headers=by("alice"))).status_code == 503
    assert len(asked) <= 16


async def test_the_answer_of_the_evaluator_keeps_its_cause():
    reason = OSError("refused")

    async def unavailable(*_request):
        raise StarletteHTTPException(503, "away") from reason

    app = served(filtering(unavailable)[1])
    seen = []

    @app.exception_handler(503)
    async def handle(_request, error):
        seen.append(error)
        return PlainTextResponse("away", 503)

    async with running(app) as client:
        assert (await client.get("/documents", headers=by("alice"))).status_code == 503
    assert seen[0].__cause__ is reason


async def test_a_cancelled_evaluation_is_no_missing_decision():
    async def cancelled(*_request):
        raise asyncio.CancelledError

    async with running(served(filtering(cancelled)[1]), raises=True) as client:
        with pytest.raises(asyncio.CancelledError):
            await client.get("/documents", headers=by("alice"))


async def allows_all(requests):
    """Allows every request."""
    return [{"allow": True} for _ in requests]


class Strict(EngineForMany):
    """Denies all, by the evaluation of one request alone."""

    async def evaluate(self, *_request):
        """Denies a request."""
        return {"allow": False}


class Delegating(Engine):
    """Passes on what it does not have."""

    def __getattr__(self, name):
        return getattr(EngineForMany(), name)

    async def evaluate(self, *_request):
        """Denies a request."""
        return {"allow": False}


@pytest.mark.parametrize("make", [Strict, Delegating])
async def test_an_inherited_method_for_many_does_not_override_a_stricter_one(make):
    may, filtered = filtering(make())
    async with running(served(filtered, may)) as client:
        assert ids(await client.get("/documents", headers=by("alice"))) == []
        assert (await client.get("/documents/1", headers=by("alice"))).status_code == 403


async def test_an_evaluation_that_an_object_replaced_is_the_one_that_counts():
    async def denies(*_request):
        return {"allow": False}

    engine = EngineForMany()
    engine.evaluate = denies
    async with running(served(filtering(engine)[1])) as client:
        assert ids(await client.get("/documents", headers=by("alice"))) == []


class Static(EngineForMany):
    """Has a method for many that needs no object."""

    @staticmethod
    async def evaluate_many(requests):
        """Allows every request."""
        return await allows_all(requests)


def strict_engine():
    """Returns an engine that denies all."""
    return Strict()


@pytest.mark.parametrize("evaluate", [Depends(Static), Annotated[Static, Depends(Static)]])
async def test_an_engine_that_a_test_replaced_decides_about_lists(evaluate):
    may = authorize(evaluate, user=current_user, policy="documents")
    app = served(may.filter(all_documents, key=path_of), may)
    app.dependency_overrides[Static] = strict_engine
    async with running(app) as client:
        assert ids(await client.get("/documents", headers=by("alice"))) == []
        assert (await client.get("/documents/1", headers=by("alice"))).status_code == 403


def test_a_function_for_many_cannot_bypass_an_engine_of_a_dependency():
    may = authorize(Depends(EngineForMany), user=current_user, policy="documents")
    with pytest.raises(TypeError, match="only if evaluate is not a dependency"):
        may.filter(all_documents, evaluate_many=allows_all)


async def test_two_filters_of_a_route_each_get_the_whole_list():
    async def one_by_one():
        return iter(DOCUMENTS)

    engine = EngineForMany()
    reads = authorize(engine, user=current_user, action="read", policy="documents")
    edits = authorize(engine, user=current_user, action="edit", policy="documents")
    app = FastAPI(lifespan=lifespan(NATIVE))
    readable = reads.filter(one_by_one, key=path_of)
    editable = edits.filter(one_by_one, key=path_of)

    @app.get("/documents")
    async def documents(
        read: Annotated[list, Depends(readable)], edit: Annotated[list, Depends(editable)]
    ) -> list:
        return [len(read), len(edit)]

    async with running(app) as client:
        assert (await client.get("/documents", headers=by("alice"))).json() == [3, 3]


@pytest.mark.parametrize("name", ["tags", "sensitivity"])
def test_what_depends_on_one_resource_is_not_used_for_a_list(name):
    one = {name: FromRequest(lambda request: request.path_params["document"])}
    may = authorize(Engine(), user=current_user, policy="documents", **one)
    with pytest.raises(TypeError, match=f"filter needs {name}"):
        may.filter(all_documents)


async def test_a_filter_takes_tags_of_its_own():
    tenant = FromRequest(lambda request: [f"tenant:{request.headers['x-user']}"])
    may = authorize(EngineForMany(), user=current_user, policy="documents", tags=tenant)
    app = served(may.filter(all_documents, key=path_of, tags=tenant))

    @app.post("/tenant")
    async def revoke_tenant(cache: PolicyCacheDep) -> int:
        return await cache.invalidate(tags=["tenant:alice"])

    async with running(app) as client:
        await client.get("/documents", headers=by("alice"))
        assert (await client.post("/tenant")).json() == 5


async def async_path_of(document):
    """Returns the resource of a document, and must be awaited."""
    return path_of(document)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"resources": ["1"]}, "resources must be a dependency"),
        ({"resources": all_documents, "key": "id"}, "key must be a function"),
        ({"resources": all_documents, "key": async_path_of}, "key must be a function, not async"),
        ({"resources": all_documents, "evaluate_many": [1]}, "evaluate_many must be a function"),
        ({"resources": all_documents, "evaluate_many": Engine}, "not the class Engine"),
        ({"resources": all_documents, "evaluate_many": lambda: 1}, "takes \\(\\)"),
        ({"resources": all_documents, "evaluate_many": decision_for}, "takes \\(user, resource"),
        ({"resources": all_documents, "max_batch": 0}, "max_batch must be at least 1"),
        ({"resources": all_documents, "max_batch": "1"}, "max_batch must be an int"),
    ],
)
def test_a_wrong_argument_is_refused_before_a_request(wrong, says):
    may = authorize(Engine(), user=current_user, policy="documents")
    with pytest.raises((TypeError, ValueError), match=says):
        may.filter(**wrong)
