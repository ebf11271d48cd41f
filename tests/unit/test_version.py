"""The package and its compiled module have the version of Cargo.toml."""

from importlib.metadata import version

from sark_cache import _native


def test_the_compiled_module_has_the_installed_version():
    assert _native.__version__ == version("sark-cache")
