"""Decisions of `authorize` belong to the policy of its evaluator, and to no other."""

import subprocess
import sys
from pathlib import Path

import evaluators
import pytest
from evaluators import Engine
from fastapi import Depends

from sark_cache.fastapi import FromRequest, authorize
from sark_cache.fastapi.evaluators import policy_of

HERE = Path(__file__).parent


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
        evaluators.Callable.everybody,  # inherited: its name is that of the class above
        Depends(evaluators.closure),
        FromRequest(lambda request: request.app.state.engine),
    ],
)
def test_any_other_has_to_be_named(evaluator):
    with pytest.raises(TypeError, match=r"^policy must be given, authorize\(..., policy='docum"):
        authorize(evaluator, user="cron")
    authorize(evaluator, user="cron", policy="documents")


def test_a_name_that_another_function_had_before_is_no_name(monkeypatch):
    authorize(evaluators.is_member, user="cron")
    before = evaluators.is_member

    async def is_member(user_id, action, resource, context):
        return {"allow": True}

    is_member.__qualname__, is_member.__module__ = "is_member", "evaluators"
    monkeypatch.setattr(evaluators, "is_member", is_member)
    with pytest.raises(TypeError, match="another function was given as 'evaluators:is_member'"):
        authorize(is_member, user="cron")
    with pytest.raises(TypeError, match="cannot be imported by a name of its own"):
        authorize(before, user="cron")


PROGRAM = """
from sark_cache.fastapi.evaluators import policy_of

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
def test_a_program_s_own_module_is_named_as_it_would_be_imported(tmp_path, started, name):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "program.py").write_text(PROGRAM)
    assert printed(started, tmp_path) == name


@pytest.mark.parametrize("started", [["-c", PROGRAM], ["-"]])
def test_what_is_typed_has_no_name(tmp_path, started):
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
