"""The classes of the compiled module, or substitutes if it cannot be imported.

The package can be imported in both cases, so a service can call `is_rust_cache_available()` and use
another backend. Creating an instance of a substitute raises an error.
"""

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sark_cache._native import AsyncCache, Lease, PolicyStore, Stamp

    _missing: ImportError | None
else:
    try:
        from sark_cache._native import AsyncCache, Lease, PolicyStore, Stamp

        _missing = None
    except ImportError as error:
        _missing = error

        class _Unavailable:
            """A substitute for a compiled class: it can be subclassed, but not instantiated."""

            def __new__(cls, *args: object, **kwargs: object) -> NoReturn:
                """Raises a RuntimeError that says how to get the compiled module."""
                del args, kwargs
                message = (
                    "Rust cache extensions not available: the compiled module "
                    f"sark_cache._native cannot be imported ({_missing}). "
                    "Get it with `pip install --force-reinstall sark-cache`: it installs a "
                    "prebuilt wheel if there is one for this platform, and otherwise builds the "
                    "module, which needs a Rust toolchain. From a checkout: `pip install .`."
                )
                raise RuntimeError(message) from _missing

        class AsyncCache(_Unavailable):
            """A substitute for the general cache."""

        class Lease(_Unavailable):
            """A substitute for the lease of native caches."""

        class PolicyStore(_Unavailable):
            """A substitute for the base class of `RustPolicyCache`."""

        class Stamp(_Unavailable):
            """A substitute for the stamp of a cache."""


__all__ = ["AsyncCache", "Lease", "PolicyStore", "Stamp", "is_rust_cache_available"]


def is_rust_cache_available() -> bool:
    """Returns True if the compiled module was imported, so `RustPolicyCache` can be created."""
    return _missing is None
