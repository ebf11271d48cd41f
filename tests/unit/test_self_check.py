"""`sark-cache --check` tests an installation without any extra."""

import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import sark_cache
from sark_cache import RustPolicyCache, is_rust_cache_available
from sark_cache.cli.self_check import PROMISES, broken_promises

PACKAGE = Path(sark_cache.__file__).parent


@pytest.fixture
def alone(tmp_path):
    """A copy of the package for an interpreter that finds no other package."""
    ignore = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(PACKAGE, tmp_path / "sark_cache", ignore=ignore))


def ended(package, argument):
    """Returns the exit code, output and error output of the command."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = subprocess.run(
        [sys.executable, "-S", "-X", "dev", "-m", "sark_cache", argument],
        cwd=package.parent,
        env=ours,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert "Traceback" not in process.stderr, process.stderr
    return process.returncode, process.stdout, process.stderr


def test_it_needs_only_the_package(alone):
    assert is_rust_cache_available()
    code, out, err = ended(alone, "--check")
    assert (code, err) == (0, "")
    assert out.startswith("sark-cache ")
    assert any(f"_native{suffix}" in out for suffix in EXTENSION_SUFFIXES)
    for promise in PROMISES:
        assert promise in out
    assert ended(alone, "doctor")[0] == 5  # needs typer


def test_without_the_compiled_module_it_fails_and_lists_the_files_found(alone):
    compiled = [path for path in alone.iterdir() if path.suffix in {".so", ".pyd"}]
    of_another = f"_native.cpython-399{compiled[0].suffix}"
    shutil.copy(compiled[0], alone / of_another)
    for path in compiled:
        path.unlink()
    code, out, err = ended(alone, "--check")
    assert code == 1
    assert "works" not in out
    assert "sark_cache._native cannot be imported" in err
    assert of_another in err
    assert EXTENSION_SUFFIXES[0] in err


async def test_a_cache_keeps_its_promises():
    assert await broken_promises() == []


class Stubborn(RustPolicyCache):
    """A cache that revokes nothing and reports that it did."""

    async def invalidate(self, **_):
        return 1


class Forgetful(RustPolicyCache):
    """A cache that stores nothing."""

    async def set(self, *_, **__):
        return True


class Wasteful(RustPolicyCache):
    """A cache that runs the loader for every request."""

    async def get_or_load(self, *request):
        decision = await request[-1]()
        await self.set(*request[:-1], decision)
        return decision


class Torn(RustPolicyCache):
    """A cache whose `get` raises."""

    def get(self, *_):
        raise EOFError


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (
            Stubborn,
            [
                "revokes by user and by tag",
                "refuses a decision older than a revocation",
                "stores no load that began before a revocation",
            ],
        ),
        (
            Forgetful,
            [
                "stores and finds",
                "shares one decision",
                "serves threads",
                "revokes by user and by tag",
                "refuses a decision older than a revocation",
            ],
        ),
        (Wasteful, ["loads once for all waiters", "stores no load that began before a revocation"]),
    ],
)
async def test_each_promise_that_a_cache_breaks_is_named(kind, broken):
    assert await broken_promises(kind) == broken


async def test_an_error_of_a_cache_is_shown():
    first, *_ = await broken_promises(Torn)
    assert first == "stores and finds (EOFError())"
