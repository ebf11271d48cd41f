"""The admin routes: only for admins, and not callable from another site."""

import json
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Header, Security

from apps_in_process import NATIVE, running
from documents_app import ADMIN, admin, create_app
from sark_cache._core.limits import MAX_REVOKED_TAGS
from sark_cache.fastapi import FromRequest, policy_cache_lifespan, policy_cache_router
from sark_cache.rollout.manager import INITIAL, MAX_DISCOVERED, MOST_FEATURES
from sark_cache.settings import CacheSettings

ROUTES = "/policy-cache"
CHANGING = [
    ("POST", "/invalidate", {"everything": True}),
    ("PUT", "/rollouts/rust_cache", {"percentage": 7}),
    ("POST", "/rollback", {}),
    ("POST", "/rollback/rust_cache", {}),
]


def behind(dependency):
    """Returns an app whose admins are identified by a dependency."""
    app = FastAPI(lifespan=policy_cache_lifespan(NATIVE))
    app.include_router(policy_cache_router(admin=dependency))
    return app


async def answers(app):
    """Returns the status of every admin route."""
    asked = [*CHANGING, ("GET", "/rollouts", None), ("GET", "/rollouts/rust_cache", None)]
    async with running(app) as client:
        return {
            (await client.request(method, ROUTES + path, json=body)).status_code
            for method, path, body in asked
        }


# The dependency of admins


@pytest.mark.parametrize("brought", [False, 0, "", [], {}, 0.0, ()])
async def test_a_falsy_value_of_the_dependency_refuses(brought):
    assert await answers(behind(lambda: brought)) == {403}


@pytest.mark.parametrize("brought", [None, True, "root", {"name": "root"}])
async def test_none_or_a_user_of_the_dependency_lets_pass(brought):
    assert await answers(behind(lambda: brought)) == {200}


async def test_a_coroutine_that_was_not_awaited_refuses():
    async def is_admin():
        return False

    app = behind(lambda: is_admin())  # noqa: PLW0108 - a mistake that is easily made
    with pytest.warns(RuntimeWarning, match="never awaited"):
        assert await answers(app) == {500}


async def is_signed_in(x_admin: Annotated[bool, Header()] = False) -> bool:  # noqa: FBT002
    return x_admin


@pytest.mark.parametrize(
    "given",
    [
        Depends(is_signed_in),
        Security(is_signed_in, scopes=["admin"]),
        Annotated[bool, Depends(is_signed_in)],
    ],
)
async def test_the_dependency_may_be_given_in_the_forms_of_fastapi(given):
    async with running(behind(given)) as client:
        for says, status in (("true", 200), ("false", 403)):
            answer = await client.get(f"{ROUTES}/rollouts", headers={"x-admin": says})
            assert answer.status_code == status


async def test_tests_may_replace_the_dependency():
    app = behind(is_signed_in)
    app.dependency_overrides[is_signed_in] = lambda: True
    assert await answers(app) == {200}


@pytest.mark.parametrize(
    "given",
    ["root", True, FromRequest(lambda _request: True), Annotated[bool, Header()], Depends()],
)
def test_an_object_that_is_not_a_dependency_is_refused_when_the_router_is_made(given):
    with pytest.raises(TypeError, match=r"^admin must be "):
        policy_cache_router(admin=given)


# Requests that another site can send from an admin's browser


FORMS = {
    "urlencoded": "application/x-www-form-urlencoded",
    "multipart": "multipart/form-data; boundary=x",
    "plain text": "text/plain",
    "plain text that names JSON": "text/plain; application/json",
    "nothing": None,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("method", "path", "body"), CHANGING)
async def test_a_form_of_another_site_changes_nothing(form, method, path, body):
    headers = dict(ADMIN)  # a browser would send cookies with it
    if FORMS[form]:
        headers["content-type"] = FORMS[form]
    async with running(create_app(NATIVE)) as client:
        await client.get("/documents/1", headers={"x-user": "alice"})
        content = json.dumps(body)
        answer = await client.request(method, ROUTES + path, content=content, headers=headers)
        assert answer.status_code in {403, 422}
        rollouts = (await client.get(f"{ROUTES}/rollouts", headers=ADMIN)).json()
        assert rollouts == {"rollouts": {"rust_cache": 100, "rust_opa": 0}}
        assert (await client.get(f"{ROUTES}/metrics")).json()["cache"]["size"] == 1


@pytest.mark.parametrize("path", ["/rollback", "/rollback/rust_cache"])
async def test_a_rollback_without_a_body_says_what_it_needs(path):
    async with running(create_app(NATIVE)) as client:
        answer = await client.post(ROUTES + path, headers=ADMIN)
        assert answer.status_code == 403
        assert "Content-Type: application/json or the header X-Requested" in answer.json()["detail"]


@pytest.mark.parametrize(
    "needed",
    [
        {"content-type": "application/json"},
        {"content-type": "Application/JSON; charset=utf-8"},
        {"content-type": "application/problem+json"},
        {"x-requested-with": "curl"},
        {"x-requested-with": ""},
    ],
)
async def test_a_rollback_needs_a_json_body_or_a_header_that_no_form_sends(needed):
    async with running(create_app(NATIVE)) as client:
        answer = await client.post(f"{ROUTES}/rollback", headers={**ADMIN, **needed})
        assert (answer.status_code, answer.json()["rollouts"]["rust_cache"]) == (200, 0)


async def test_a_user_who_is_not_an_admin_is_refused_before_the_form_is_checked():
    async with running(create_app(NATIVE)) as client:
        for headers, status in (({}, 401), ({"authorization": "Bearer guess"}, 403)):
            answer = await client.post(f"{ROUTES}/rollback", headers=headers)
            assert answer.status_code == status
            assert "X-Requested-With" not in answer.text


def test_the_schema_has_the_requirements_of_a_change():
    app = behind(admin)
    for method, path, _ in CHANGING:
        named = path.replace("rust_cache", "{feature}")
        operation = app.openapi()["paths"][ROUTES + named][method.lower()]
        assert "X-Requested-With" in {
            each["name"].title() for each in operation.get("parameters", ())
        }


# The scope of a revocation


@pytest.mark.parametrize("unclear", [{}, {"policy": None}, {"tags": []}, {"everything": False}])
async def test_everything_is_revoked_only_if_requested_explicitly(unclear):
    async with running(create_app(NATIVE)) as client:
        await client.get("/documents/1", headers={"x-user": "alice"})
        answer = await client.post(f"{ROUTES}/invalidate", json=unclear, headers=ADMIN)
        assert answer.status_code == 422
        everything = {"everything": True}
        answer = await client.post(f"{ROUTES}/invalidate", json=everything, headers=ADMIN)
        assert answer.json() == {"invalidated": 1}


@pytest.mark.parametrize(
    "body",
    [
        r'{"pattern": "\ud800"}',
        r'{"everything": "\ud800"}',
        r'{"tags": "\ud800"}',
        r'{"user_id": ["\ud800"]}',
        r'{"\ud800": 1}',
        r'"\ud800"',
        '{"pattern": NaN}',
        '{"everything": Infinity}',
        '{"everything": 1e999}',
        "NaN",
    ],
)
async def test_values_outside_json_are_refused_like_other_bad_input(body):
    headers = {**ADMIN, "content-type": "application/json"}
    async with running(create_app(NATIVE)) as client:
        answer = await client.post(f"{ROUTES}/invalidate", content=body, headers=headers)
        assert answer.status_code == 422
        [error, *_] = answer.json()["detail"]
        assert error["loc"][0] == "body"
        assert error["msg"]
        answer = await client.put(f"{ROUTES}/rollouts/rust_cache", content=body, headers=headers)
        assert answer.status_code == 422


@pytest.mark.parametrize("percentage", ["NaN", "-Infinity", "1e999", r'"\ud800"'])
async def test_percentages_outside_json_are_refused_like_other_bad_input(percentage):
    headers = {**ADMIN, "content-type": "application/json"}
    async with running(create_app(NATIVE)) as client:
        body = f'{{"percentage": {percentage}}}'
        answer = await client.put(f"{ROUTES}/rollouts/rust_cache", content=body, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "percentage"]


async def test_a_pattern_with_a_lone_surrogate_is_described():
    headers = {**ADMIN, "content-type": "application/json"}
    async with running(create_app(NATIVE)) as client:
        body = r'{"pattern": "\ud800"}'
        answer = await client.post(f"{ROUTES}/invalidate", content=body, headers=headers)
        assert "pattern must be UTF-8" in answer.json()["detail"][0]["msg"]


async def test_tags_up_to_the_limit_of_a_revocation_are_accepted():
    async with running(create_app(NATIVE)) as client:
        for tags, status in ((MAX_REVOKED_TAGS, 200), (MAX_REVOKED_TAGS + 1, 422)):
            named = {"tags": [f"tag-{number}" for number in range(tags)]}
            answer = await client.post(f"{ROUTES}/invalidate", json=named, headers=ADMIN)
            assert answer.status_code == status


# Which features there are


async def test_there_can_be_as_many_features_as_a_process_can_have():
    async with running(create_app(NATIVE)) as client:
        percentage = {"percentage": 7}
        for number in range(MOST_FEATURES - len(INITIAL)):
            path = f"{ROUTES}/rollouts/feature-{number}?force=true"
            assert (await client.put(path, json=percentage, headers=ADMIN)).status_code == 200
        for method, path, body in (
            ("PUT", "/rollouts/one-more?force=true", percentage),
            ("POST", "/rollback/one-more?force=true", {}),
        ):
            answer = await client.request(method, ROUTES + path, json=body, headers=ADMIN)
            assert answer.status_code == 409
            assert "at most 256 features" in answer.json()["detail"]
        path = f"{ROUTES}/rollback/feature-0"
        assert (await client.post(path, json={}, headers=ADMIN)).status_code == 200
        rollouts = (await client.get(f"{ROUTES}/rollouts", headers=ADMIN)).json()["rollouts"]
        assert len(rollouts) == MOST_FEATURES


async def test_the_name_of_a_feature_is_short():
    async with running(create_app(NATIVE)) as client:
        for name, status in (("x" * 128, 200), ("x" * 129, 422), ("é" * 65, 422)):
            path = f"{ROUTES}/rollouts/{name}?force=true"
            answer = await client.put(path, json={"percentage": 7}, headers=ADMIN)
            assert answer.status_code == status


MISSPELT = [
    ("PUT", "/rollouts/rust_cahce", {"percentage": 7}),
    ("POST", "/rollback/rust_cahce", {}),
]


@pytest.mark.parametrize(("method", "path", "body"), MISSPELT)
async def test_a_misspelt_feature_is_refused_unless_it_is_forced(method, path, body):
    async with running(create_app(NATIVE)) as client:
        answer = await client.request(method, ROUTES + path, json=body, headers=ADMIN)
        assert answer.status_code == 404
        detail = answer.json()["detail"]
        assert "no feature is called rust_cahce. Did you mean rust_cache? " in detail
        assert "There are: rust_cache, rust_opa." in detail
        assert "?force=true" in detail
        rollouts = (await client.get(f"{ROUTES}/rollouts", headers=ADMIN)).json()
        assert rollouts == {"rollouts": {"rust_cache": 100, "rust_opa": 0}}
        forced = f"{ROUTES}{path}?force=true"
        answer = await client.request(method, forced, json=body, headers=ADMIN)
        assert answer.status_code == 200
        answer = await client.request(method, ROUTES + path, json=body, headers=ADMIN)
        assert answer.status_code == 200, "it is known now"


async def test_a_feature_that_another_process_has_set_is_known(fresh_redis):
    fresh_redis.command("SET", "feature_flag:new_report", 40)
    settings = CacheSettings(redis_url=fresh_redis.url)
    async with running(create_app(settings)) as client:
        path = f"{ROUTES}/rollback/new_report"
        answer = await client.post(path, json={}, headers=ADMIN)
        assert (answer.status_code, answer.json()["percentage"]) == (200, 0)
    assert fresh_redis.command("GET", "feature_flag:new_report") == "0"


async def test_many_misspelt_features_do_not_hide_one_that_exists(fresh_redis):
    async with running(create_app(CacheSettings(redis_url=fresh_redis.url))) as client:
        for number in range(MAX_DISCOVERED + 1):
            path = f"{ROUTES}/rollback/misspelt_{number}"
            answer = await client.post(path, json={}, headers=ADMIN)
            assert answer.status_code == 404
        fresh_redis.command("SET", "feature_flag:new_report", 40)
        answer = await client.post(f"{ROUTES}/rollback/new_report", json={}, headers=ADMIN)
        assert answer.status_code == 200
    assert fresh_redis.command("GET", "feature_flag:new_report") == "0"


async def test_a_feature_is_not_called_unknown_if_redis_does_not_answer(own_redis):
    server = own_redis()
    async with running(create_app(CacheSettings(redis_url=server.url))) as client:
        server.kill()
        path = f"{ROUTES}/rollback/new_report"
        answer = await client.post(path, json={}, headers=ADMIN)
        assert answer.status_code == 503
        assert "Redis does not say whether new_report was ever set" in answer.json()["detail"]
        assert "?force=true" in answer.json()["detail"]
        rollback = await client.post(f"{ROUTES}/rollback/rust_cache", json={}, headers=ADMIN)
        assert "set rust_cache to 0 % in this process" in rollback.json()["detail"]
