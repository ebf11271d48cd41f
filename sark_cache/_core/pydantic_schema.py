"""Pydantic support for `Decision`: as a field of a model, and as the result of a FastAPI route.

Pydantic is imported only when it calls one of these hooks. So services without pydantic pay
nothing.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_core import SchemaSerializer
    from pydantic_core.core_schema import CoreSchema


def make_known(decision: type[Mapping[str, Any]]) -> None:
    """Adds hooks to a class of decisions, with which pydantic validates and serializes decisions.

    Pydantic calls `__get_pydantic_core_schema__` if the class is the type of a field or route. It
    reads `__pydantic_serializer__` of a decision in a field of any type, such as a nested one.
    """

    def schema(*_asked: object) -> "CoreSchema":
        return _schema(decision)

    names = {
        "__get_pydantic_core_schema__": staticmethod(schema),
        "__pydantic_serializer__": _Serializer(),
    }
    for name, value in names.items():
        setattr(decision, name, value)


class _Serializer:
    """The serializer of a class, created when pydantic first reads it."""

    def __get__(self, instance: object, owner: type[Mapping[str, Any]]) -> "SchemaSerializer":
        try:
            from pydantic_core import SchemaSerializer  # noqa: PLC0415 - only pydantic asks
        except ImportError as error:  # read by a tool that reads every attribute, without pydantic
            raise AttributeError(str(error)) from error
        serializer = SchemaSerializer(_schema(owner))
        setattr(owner, "__pydantic_serializer__", serializer)  # noqa: B010 - replaces this one
        return serializer


def _schema(decision: type[Mapping[str, Any]]) -> "CoreSchema":
    """Returns the schema of a JSON object that is validated as a decision and dumped as a dict."""
    from pydantic_core import core_schema  # noqa: PLC0415 - only pydantic asks

    fields = core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema())
    read = core_schema.no_info_after_validator_function(decision, fields)
    return core_schema.json_or_python_schema(
        json_schema=read,
        python_schema=core_schema.union_schema(
            [core_schema.is_instance_schema(decision), read], mode="left_to_right"
        ),
        serialization=core_schema.plain_serializer_function_ser_schema(
            _written, return_schema=fields
        ),
        metadata={"pydantic_js_updates": {"title": "Decision"}},
    )


def _written(decision: Any) -> dict[str, Any]:  # noqa: ANN401 - a decision of either class
    fields: dict[str, Any] = decision.to_dict()
    return fields
