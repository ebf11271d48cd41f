"""`Decision`: an immutable decision that any number of callers can share."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeGuard, final

from sark_cache._core.json import JSON, NotJSONError, to_plain_mapping, type_name
from sark_cache._core.pydantic_schema import make_known

__all__ = ["Decision", "PlainDecision"]


@final
class PlainDecision(Mapping[str, Any]):
    """The Python version of `Decision`, used if the compiled module is not available."""

    __slots__ = ("_fields",)

    _fields: dict[str, Any]

    def __init__(self, fields: Mapping[str, Any], /) -> None:
        if not _is_mapping(fields):
            message = f"fields must be a mapping, not {type_name(fields)}"
            raise TypeError(message)
        object.__setattr__(self, "_fields", _frozen_fields(to_plain_mapping(fields)))

    @property
    def allow(self) -> bool:
        """True if the field "allow" is `True`. Other values, such as 1, do not count."""
        return self._fields.get("allow") is True

    @property
    def reason(self) -> Any:  # noqa: ANN401 - any JSON value
        """The field "reason", or None if there is no such field."""
        return self._fields.get("reason")

    def to_dict(self) -> dict[str, Any]:
        """Returns the decision as a new dict. The caller may change it and its lists and dicts."""
        return {name: _thawed(value) for name, value in self._fields.items()}

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        if not _is_mapping(other):
            return NotImplemented
        try:
            return self.to_dict() == to_plain_mapping(other)
        except NotJSONError:
            return False

    def __hash__(self) -> int:
        return hash(frozenset(self._fields.items()))

    def __repr__(self) -> str:
        return f"Decision({self.to_dict()!r})"

    def __reduce__(self) -> tuple[type["Decision"], tuple[dict[str, Any]]]:
        """Returns the fields for pickling, so that the compiled `Decision` can load them too."""
        return (Decision, (self.to_dict(),))

    def __copy__(self) -> "PlainDecision":
        return self

    def __deepcopy__(self, memo: object) -> "PlainDecision":
        return self

    def __setattr__(self, name: str, value: object) -> NoReturn:
        message = f"a Decision cannot be changed: change a copy, to_dict(), instead of {name}"
        raise AttributeError(message)

    def __delattr__(self, name: str) -> NoReturn:
        self.__setattr__(name, None)


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _is_tuple(value: object) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(value, tuple)


# The functions below call only Python functions. Such a call takes no space on the thread's stack.
# A call of a generator or a constructor would.


def _frozen_fields(fields: dict[str, JSON]) -> dict[str, Any]:
    return {name: _frozen(value) for name, value in fields.items()}


def _frozen(value: JSON) -> Any:  # noqa: ANN401 - any JSON value, lists as tuples
    if isinstance(value, list):
        items = [_frozen(item) for item in value]
        return tuple(items)
    if not isinstance(value, dict):
        return value
    fields = _frozen_fields(value)
    inner = object.__new__(PlainDecision)
    object.__setattr__(inner, "_fields", fields)
    return inner


def _thawed(value: Any) -> Any:  # noqa: ANN401
    if _is_tuple(value):
        return [_thawed(item) for item in value]
    return value.to_dict() if isinstance(value, PlainDecision) else value


if TYPE_CHECKING:
    from sark_cache._native import Decision
else:
    try:
        from sark_cache._native import Decision
    except ImportError:
        Decision: Final = PlainDecision

for _kind in (Decision, PlainDecision):
    make_known(_kind)
