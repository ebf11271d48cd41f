"""`Decision` as a type that pydantic knows: a field of a model, what a FastAPI route returns.

Pydantic is imported when it asks, never before: nothing here costs anybody something who has none.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_core import SchemaSerializer
    from pydantic_core.core_schema import CoreSchema


def make_known(decision: type[Mapping[str, Any]]) -> None:
    """Lets pydantic validate and serialize a class of decisions, wherever one stands.

    `__get_pydantic_core_schema__` is asked where the class is a type in a model or a route;
    `__pydantic_serializer__` of a decision within a value of any type, such as a nested one.
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
    """The serializer of a class, made when pydantic first asks for it."""

    def __get__(self, instance: object, owner: type[Mapping[str, Any]]) -> "SchemaSerializer":
        try:
            from pydantic_core import SchemaSerializer  # noqa: PLC0415 - only pydantic asks
        except ImportError as error:  # or somebody who looks at every attribute
            raise AttributeError(str(error)) from error
        serializer = SchemaSerializer(_schema(owner))
        setattr(owner, "__pydantic_serializer__", serializer)  # noqa: B010 - in place of this one
        return serializer


def _schema(decision: type[Mapping[str, Any]]) -> "CoreSchema":
    """Returns the schema of a JSON object, read as a decision and written as a dict."""
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
