"""`Decision` in pydantic: as the type of a field, and as a value anywhere inside one."""

import json

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from interpreters import run
from sark_cache import Decision
from sark_cache.decision import PlainDecision

FIELDS = {
    "allow": True,
    "reason": "größer",
    "obligations": ["log", {"mask": ["ssn", {"deep": [None, 1.5]}]}],
    "subject": {"roles": ["analyst"], "teams": {"a": {}, "b": []}},
    "expires": 1 << 70,
}


@pytest.fixture(params=[Decision, PlainDecision], ids=["compiled", "plain"])
def kind(request):
    return request.param


def test_it_is_serialized_as_the_json_it_was_made_from(kind):
    written = TypeAdapter(kind).dump_json(kind(FIELDS))
    assert json.loads(written) == FIELDS


@pytest.mark.parametrize("value", ["obligations", "subject"])
def test_its_values_are_serialized_wherever_they_are(kind, value):
    decision = kind(FIELDS)
    for anything in (TypeAdapter(object), TypeAdapter(dict), TypeAdapter(dict[str, object])):
        assert json.loads(anything.dump_json({"value": decision[value]})) == {
            "value": FIELDS[value]
        }
        assert json.loads(anything.dump_json(anything.validate_python({"of": decision}))) == {
            "of": FIELDS
        }


def test_it_may_be_a_field_of_a_model(kind):
    class Answer(BaseModel):
        decision: kind
        earlier: list[kind] = []
        other: kind | None = None

    given = kind(FIELDS)
    answer = Answer(decision=given, earlier=[given])
    assert answer.decision is given, "it is not copied"
    assert answer.model_dump() == {"decision": FIELDS, "earlier": [FIELDS], "other": None}
    assert Answer.model_validate_json(answer.model_dump_json()) == answer
    read = Answer(decision=FIELDS)
    assert isinstance(read.decision, kind)
    assert read.decision == FIELDS


@pytest.mark.parametrize("wrong", ["allow", 7, None, ["allow"], {1: True}, {"allow": object()}])
def test_a_value_that_is_not_a_decision_is_invalid(kind, wrong):
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(wrong)


def test_its_schema_is_that_of_a_json_object(kind):
    for mode in ("validation", "serialization"):
        schema = TypeAdapter(kind).json_schema(mode=mode)
        assert (schema["type"], schema["title"]) == ("object", "Decision")
        assert schema.get("additionalProperties", True) is True


def test_pydantic_is_not_imported_by_the_package():
    assert run(
        """
        import sys
        import sark_cache
        print(sorted(name for name in sys.modules if name.startswith("pydantic")))
        """
    ) == ["[]"]


def test_without_pydantic_a_decision_has_no_pydantic_attributes():
    assert run(
        """
        import inspect, sys
        sys.modules["pydantic_core"] = None
        from sark_cache import Decision
        decision = Decision({"allow": True})
        print(hasattr(decision, "__pydantic_serializer__"), len(inspect.getmembers(decision)) > 10)
        """
    ) == ["False True"]
