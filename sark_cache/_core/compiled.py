"""The compiled module, or what stands in for it where it is missing.

The package imports either way, so that a service can ask `is_rust_cache_available()` and go on
with another backend; what needs the compiled module says so when it is made.
"""

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sark_cache._native import AsyncCache, PolicyStore, Stamp

    _missing: ImportError | None
else:
    try:
        from sark_cache._native import AsyncCache, PolicyStore, Stamp

        _missing = None
    except ImportError as error:
        _missing = error

        class _Unavailable:
            """Stands in for a compiled class: it can be named and subclassed, but not made."""

            def __new__(cls, *args: object, **kwargs: object) -> NoReturn:
                """Says what is missing and how to get it."""
                del args, kwargs
                message = (
                    "Rust cache extensions not available: the compiled module "
                    f"sark_cache._native cannot be imported ({_missing}). "
                    "Get it with `pip install --force-reinstall sark-cache`: a prebuilt wheel "
                    "where there is one for this platform, else a build, which needs a Rust "
                    "toolchain. From a checkout: `pip install .`."
                )
                raise RuntimeError(message) from _missing

        class AsyncCache(_Unavailable):
            """The general cache; needs the compiled module."""

        class PolicyStore(_Unavailable):
            """What `RustPolicyCache` is built on; needs the compiled module."""

        class Stamp(_Unavailable):
            """A moment in the life of one cache; needs the compiled module."""


__all__ = ["AsyncCache", "PolicyStore", "Stamp", "is_rust_cache_available"]


def is_rust_cache_available() -> bool:
    """Whether the compiled module could be imported, and so `RustPolicyCache` can be made."""
    return _missing is None
