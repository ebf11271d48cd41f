"""Strategies for JSON values, and a comparison that distinguishes `1`, `1.0` and `True`."""

from typing import Any

from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
AWKWARD = st.text(st.sampled_from(":/_*?[]%\\ a1\0é"), max_size=4)
NUMBERS = (
    st.integers(-3, 3)
    | st.integers()
    | st.integers(-(10**30), 10**30)
    | st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**30, 10**400])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, -0.0, 1.0])
)
ATOMS = st.none() | st.booleans() | NUMBERS | TEXT | AWKWARD | st.sampled_from(["1", "1.0", "true"])
JSON = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | AWKWARD, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(TEXT | AWKWARD, JSON, max_size=5)


def typed(value: Any) -> Any:
    """Returns a value for comparisons: equal only if both are the same JSON, types included."""
    match value:
        case dict():
            return ("dict", sorted((key, typed(item)) for key, item in value.items()))
        case list() | tuple():
            return ("list", [typed(item) for item in value])
        case float():
            return ("float", value.hex())
        case _:
            return (type(value).__name__, repr(value))
