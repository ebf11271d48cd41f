"""FastAPI: a missing package is named in the error with the way to install it."""

import importlib
import sys

import pytest

from sark_cache.fastapi import (
    policy_cache_router,
)


@pytest.mark.parametrize("package", ["fastapi", "pydantic_settings"])
def test_without_a_package_the_error_says_how_to_install_it(monkeypatch, package):
    for name in tuple(sys.modules):
        if name.startswith("sark_cache.fastapi") or name == "sark_cache.settings":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package} is missing: .*'sark-cache\[fastapi\]'"):
        importlib.import_module("sark_cache.fastapi")


def test_the_error_of_another_missing_module_is_unchanged(monkeypatch):
    for name in tuple(sys.modules):
        if name.startswith("sark_cache.fastapi"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.requests", None)
    with pytest.raises(ModuleNotFoundError, match="starlette"):
        importlib.import_module("sark_cache.fastapi")


def test_prometheus_metrics_without_its_package_say_how_to_install_it(monkeypatch):
    for name in tuple(sys.modules):
        if name in {"sark_cache.fastapi.exposition", "sark_cache.instrumentation.prometheus"}:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImportError, match=r"sark-cache\[prometheus\]"):
        policy_cache_router(prometheus=True)
    policy_cache_router()
