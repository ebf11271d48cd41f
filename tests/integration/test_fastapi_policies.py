"""Decisions of `authorize` belong to the policy of its evaluator only."""

import asyncio
import subprocess
import sys

import pytest
from fastapi import Depends, FastAPI

import evaluators
from apps_in_process import NATIVE, by, running
from evaluators import Engine
from sark_cache.evaluation.policies import policy_of
from sark_cache.fastapi import (
    FromRequest,
    PolicyCacheDep,
    authorize,
    policy_cache_lifespan,
    policy_cache_router,
)
from sark_cache.settings import CacheSettings


@pytest.mark.parametrize(
    ("evaluator", "name"),
    [
        (evaluators.is_admin, "evaluators:is_admin"),
        (evaluators.in_a_thread, "evaluators:in_a_thread"),
        (evaluators.decorated, "evaluators:decorated"),
        (Engine.everybody, "evaluators:Engine.everybody"),
        (Engine.nobody, "evaluators:Engine.nobody"),
    ],
)
def test_an_evaluator_that_can_be_imported_names_its_policy(evaluator, name):
    assert policy_of(evaluator, None) == name
    assert policy_of(evaluator, "documents") == "documents"
    assert policy_of(evaluator, "") == ""


@pytest.mark.parametrize(
    "evaluator",
    [
        evaluators.anonymous,
        evaluators.closure(),
        evaluators.partially,
        evaluators.engine,
        evaluators.engine.evaluate,
        evaluators.Callable(),
        evaluators.Callable.everybody,  # inherited: its name is that of the base class
        Depends(evaluators.closure),
        FromRequest(lambda request: request.app.state.engine),
    ],
)
def test_every_other_evaluator_needs_a_policy_name(evaluator):
    with pytest.raises(TypeError, match=r"^policy must be given, authorize\(..., policy='docum"):
        authorize(evaluator, user="cron")
    authorize(evaluator, user="cron", policy="documents")


def test_a_name_that_another_function_used_before_is_refused(monkeypatch):
    authorize(evaluators.is_member, user="cron")
    before = evaluators.is_member

    async def is_member(user_id, action, resource, context):
        return {"allow": True}

    is_member.__qualname__, is_member.__module__ = "is_member", "evaluators"
    monkeypatch.setattr(evaluators, "is_member", is_member)
    with pytest.raises(TypeError, match="another function was given as 'evaluators:is_member'"):
        authorize(is_member, user="cron")
    with pytest.raises(TypeError, match="cannot be imported by its name"):
        authorize(before, user="cron")


PROGRAM = """
from sark_cache.evaluation.policies import policy_of

def ask(user_id, action, resource, context):
    return {"allow": True}

if __name__ in {"__main__", "__mp_main__", "program", "package.program"}:
    print(policy_of(ask, None))
"""


@pytest.mark.parametrize(
    ("started", "name"),
    [
        (["program.py"], "program:ask"),
        (["-m", "program"], "program:ask"),
        (["-c", "import program"], "program:ask"),
        (["-m", "package.program"], "package.program:ask"),
        (["-c", "import package.program"], "package.program:ask"),
        (["package/program.py"], "program:ask"),
    ],
)
def test_the_main_module_is_named_by_its_import_name(tmp_path, started, name):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "program.py").write_text(PROGRAM)
    assert printed(started, tmp_path) == name


@pytest.mark.parametrize("started", [["-c", PROGRAM], ["-"]])
def test_code_from_the_command_line_has_no_name(tmp_path, started):
    assert "TypeError: policy must be given" in printed(started, tmp_path)


def printed(arguments, directory):
    ended = subprocess.run(
        [sys.executable, *arguments],
        input=PROGRAM,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    return (ended.stdout or ended.stderr).strip()


# Sharing


HIGH = "critical"
by_header = FromRequest(lambda request: request.headers["x-user"])


@pytest.fixture(params=["native", "redis"])
def settings(request):
    """Settings that keep every decision in one backend."""
    if request.param == "native":
        return NATIVE
    server = request.getfixturevalue("own_redis")()
    patient = {"redis_connect_timeout": 2, "redis_command_timeout": 2}
    return CacheSettings(redis_url=server.url, rust_cache_rollout_pct=0, **patient)


def counted(evaluate):
    """Returns an evaluator that counts its calls."""

    async def counting(*asked):
        counting.calls += 1
        return await evaluate(*asked)

    counting.calls = 0
    return counting


async def test_a_member_does_not_pass_as_an_admin(settings):
    member = authorize(evaluators.is_member, user=by_header)
    admin = authorize(evaluators.is_admin, user=by_header)
    app = FastAPI(lifespan=policy_cache_lifespan(settings), dependencies=[Depends(member)])
    app.delete("/everything", dependencies=[Depends(admin)])(lambda: "deleted")
    async with running(app) as client:
        for _ in range(2):  # by the policies, and by the cache
            for user, status, body in (
                ("alice", 403, {"detail": "admins only"}),
                ("mallory", 403, {"detail": "members only"}),
                ("root", 200, "deleted"),
            ):
                answer = await client.delete("/everything", headers=by(user))
                assert (answer.status_code, answer.json()) == (status, body)


async def test_two_instances_of_a_class_have_separate_decisions(settings):
    app = FastAPI(lifespan=policy_cache_lifespan(settings))
    for name in ("alice", "bob"):
        may = authorize(Engine(name).evaluate, user=by_header, resource="all", policy=name)
        app.get(f"/{name}", dependencies=[Depends(may)])(lambda: "passed")
    async with running(app) as client:
        for user in ("alice", "bob"):
            for name in ("alice", "bob"):
                answer = await client.get(f"/{name}", headers=by(user))
                assert answer.status_code == (200 if user == name else 403)


async def test_two_apps_of_a_process_do_not_share_decisions_of_their_policies(settings):
    apps = []
    for evaluator in (evaluators.is_member, evaluators.is_admin):
        app = FastAPI(lifespan=policy_cache_lifespan(settings))
        may = authorize(evaluator, user=by_header)
        app.get("/document", dependencies=[Depends(may)])(lambda: "read")
        apps.append(app)
    async with running(apps[0]) as first, running(apps[1]) as second:
        assert (await first.get("/document", headers=by("alice"))).status_code == 200
        assert (await second.get("/document", headers=by("alice"))).status_code == 403


async def test_the_same_policy_is_evaluated_once_for_all_routes(settings):
    evaluate = counted(evaluators.is_member)
    app = FastAPI(lifespan=policy_cache_lifespan(settings))
    for path in ("/one", "/other"):
        may = authorize(evaluate, user=by_header, resource="document", policy="members")
        app.get(path, dependencies=[Depends(may)])(lambda: "read")
    async with running(app) as client:
        for path in ("/one", "/other", "/one"):
            assert (await client.get(path, headers=by("alice"))).status_code == 200
    assert evaluate.calls == 1


async def test_a_handler_finds_a_decision_by_its_policy(settings):
    app = FastAPI(lifespan=policy_cache_lifespan(settings))

    @app.get("/document", dependencies=[Depends(authorize(evaluators.is_member, user=by_header))])
    async def read(cache: PolicyCacheDep) -> list:
        asked = ("alice", "GET", "/document")
        return [
            await cache.get(*asked, policy="evaluators:is_member"),
            await cache.get(*asked, policy="evaluators:is_admin"),
            await cache.get(*asked),
        ]

    async with running(app) as client:
        found, *others = (await client.get("/document", headers=by("alice"))).json()
        assert found["allow"] is True
        assert others == [None, None]


async def test_decisions_of_a_policy_are_revoked_by_its_name(settings):
    app = FastAPI(lifespan=policy_cache_lifespan(settings))
    app.include_router(policy_cache_router(admin=lambda: True))
    evaluate = {name: counted(evaluators.is_member) for name in ("reading", "writing")}
    for name, counting in evaluate.items():
        may = authorize(counting, user=by_header, resource="document", policy=name)
        app.get(f"/{name}", dependencies=[Depends(may)])(lambda: "done")

    async with running(app) as client:

        async def ask_all():
            for name in evaluate:
                assert (await client.get(f"/{name}", headers=by("alice"))).status_code == 200

        async def revoke(**what):
            answer = await client.post("/policy-cache/invalidate", json=what)
            return answer.json()["invalidated"]

        await ask_all()
        assert await revoke(policy="reading") == 1
        await ask_all()
        assert [counting.calls for counting in evaluate.values()] == [2, 1]
        assert await revoke(policy="reading", user_id="bob") == 0
        assert await revoke(policy="writing", user_id="alice") == 1
        assert await revoke(user_id="alice") == 1
        await ask_all()
        assert [counting.calls for counting in evaluate.values()] == [3, 2]


async def test_a_request_above_a_limit_is_evaluated_and_not_stored(settings):
    evaluate = counted(evaluators.is_member)
    may = authorize(evaluate, user=by_header, policy="members")
    app = FastAPI(lifespan=policy_cache_lifespan(settings))
    app.get("/{path:path}", dependencies=[Depends(may)])(lambda: "read")
    async with running(app) as client:
        for _ in range(2):
            assert (await client.get("/" + "a" * 9000, headers=by("alice"))).status_code == 200
            assert (await client.get("/" + "a" * 9000, headers=by("bob"))).status_code == 403
    assert evaluate.calls == 4


# Refreshes


async def test_a_decision_is_refreshed_by_its_own_policy_only():
    settings = CacheSettings(rust_cache_rollout_pct=100, use_optimized_ttl=False, cache_ttl=0.5)
    refreshed = asyncio.Event()

    async def members(*asked):
        refreshed.set()
        return await evaluators.is_member(*asked)

    def another(*_asked):
        pytest.fail("another policy was asked")

    lifespan = policy_cache_lifespan(settings, revalidate={"members": members, "admins": another})
    app = FastAPI(lifespan=lifespan)
    given = {"user": by_header, "resource": "all", "sensitivity": "critical"}
    for name, evaluate in (("members", evaluators.is_member), ("admins", evaluators.is_admin)):
        may = authorize(evaluate, policy=name, **given)
        app.get(f"/{name}", dependencies=[Depends(may)])(lambda: "passed")
    async with running(app) as client:
        while not refreshed.is_set():
            assert (await client.get("/members", headers=by("alice"))).status_code == 200


async def test_a_refresh_by_the_evaluator_of_members_makes_no_admin():
    settings = CacheSettings(rust_cache_rollout_pct=100, use_optimized_ttl=False, cache_ttl=0.3)
    lifespan = policy_cache_lifespan(settings, revalidate=evaluators.is_member)
    app = FastAPI(lifespan=lifespan)
    evaluate = counted(evaluators.is_admin)
    may = authorize(evaluate, user=by_header, sensitivity="critical", policy="admins")
    app.get("/", dependencies=[Depends(may)])(lambda: "passed")
    async with running(app) as client:
        while evaluate.calls < 3:  # through the last part of the TTL, and its end
            assert (await client.get("/", headers=by("alice"))).status_code == 403


async def test_a_decision_without_a_policy_is_not_refreshed_by_a_named_one():
    settings = CacheSettings(rust_cache_rollout_pct=100, use_optimized_ttl=False, cache_ttl=0.3)
    app = FastAPI(lifespan=policy_cache_lifespan(settings, revalidate=evaluators.is_member))
    evaluate = counted(evaluators.is_admin)

    @app.get("/")
    async def answer(cache: PolicyCacheDep) -> bool:
        asked = ("alice", "GET", "/")
        decision = await cache.get_or_load(*asked, lambda: evaluate(*asked, None), sensitivity=HIGH)
        return decision["allow"]

    async with running(app) as client:
        while evaluate.calls < 3:  # through the last part of the TTL, and its end
            assert (await client.get("/")).json() is False


@pytest.mark.parametrize(
    ("revalidate", "message"),
    [
        (evaluators.engine.evaluate, "policy must be given"),
        (evaluators.anonymous, "policy must be given"),
        ({"documents": 7}, "evaluate must be"),
        ({7: evaluators.is_admin}, "policy must be a str"),
        (Engine, "evaluate must be"),
    ],
)
def test_a_refresh_callback_needs_a_policy(revalidate, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        policy_cache_lifespan(revalidate=revalidate)
