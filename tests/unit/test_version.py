"""The package and its compiled module have the installed version, which is that of Cargo.toml."""

import sys
from importlib.metadata import version

import pytest

import sark_cache
from interpreters import run
from sark_cache import _native


def test_the_compiled_module_has_the_installed_version():
    assert _native.__version__ == version("sark-cache")


def test_the_package_has_the_installed_version():
    assert sark_cache.__version__ == version("sark-cache")


def test_a_source_tree_that_is_not_installed_has_an_unknown_version(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    assert sark_cache.__version__ == "unknown"


def test_importing_the_package_does_not_read_the_version():
    assert run(
        """
        import sys
        import sark_cache
        print("importlib.metadata" in sys.modules)
        print(sark_cache.__version__ != "unknown", "importlib.metadata" in sys.modules)
        """
    ) == ["False", "True True"]


def test_a_name_that_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'sark_cache' has no attribute 'Loader'"):
        _ = sark_cache.Loader
