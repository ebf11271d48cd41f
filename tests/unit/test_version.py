"""The version is Cargo.toml's; the package and its compiled module are of one build."""

from importlib.metadata import version

from sark_cache import _native


def test_the_compiled_module_is_of_the_version_that_is_installed():
    assert _native.__version__ == version("sark-cache")
