"""Installs from an index as users do, in fresh environments far from the source tree.

pip gets only the index: no other source, no cache, no settings. `PATH` has only the environment, so
that an installation that needs a compiler fails.
"""

import os
import shlex
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shipping.building import ROOT
from shipping.pythons import Python
from shipping.steps import fail, run, say

MOST_SECONDS = 10
"""The maximum number of seconds for installing the package."""

EXTRAS = "fastapi"
BUILDING = "maturin>=1.16,<2"
FIRST_EXAMPLE = Path(__file__).with_name("first_example.py")

with (ROOT / "pyproject.toml").open("rb") as file:
    TESTED = tomllib.load(file)["tool"]["cibuildwheel"]
"""The settings with which cibuildwheel tests wheels, which are used here, too."""

DONE_HERE = {"test-command", "test-extras", "test-groups", "test-requires", "test-sources"}
"""The names of the settings that are supported here."""


@dataclass(frozen=True)
class Environment:
    """A fresh virtual environment with only pip, and an empty working directory."""

    scripts: Path
    folder: Path

    def variables(self, *more: str) -> dict[str, str]:
        """Returns this process's variables without those that affect pip, and `more` on PATH."""
        ours = ("PIP_", "PYTHON", "VIRTUAL_ENV", "MATURIN_", "SARK_CACHE_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {
            **kept,
            "PATH": os.pathsep.join([str(self.scripts), *more]),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_CACHE_DIR": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "PYTHONSAFEPATH": "1",
        }

    def python(self, *arguments: str | Path, path: str = "", fails: bool = False) -> str:
        """Runs its Python and returns the output."""
        executable = self.scripts / ("python.exe" if sys.platform == "win32" else "python")
        more = (path,) if path else ()
        return run(executable, *arguments, cwd=self.folder, env=self.variables(*more), fails=fails)

    def install(self, url: str, *what: str, path: str = "", fails: bool = False) -> str:
        """Installs from the index at `url`."""
        pip = ("-m", "pip", "install", "--index-url", url)
        return self.python(*pip, *what, path=path, fails=fails)


@contextmanager
def fresh(python: Python) -> Iterator[Environment]:
    """Creates an environment of this Python for the duration of a block."""
    with tempfile.TemporaryDirectory(prefix="wheels-") as folder:
        place = Path(folder, "environment")
        run(sys.executable, "-m", "virtualenv", "--quiet", "--python", python.executable, place)
        away = Path(folder, "away")
        away.mkdir()
        scripts = place / ("Scripts" if sys.platform == "win32" else "bin")
        environment = Environment(scripts, away)
        missing = environment.python("-c", "import sark_cache", fails=True)
        assert "No module named 'sark_cache'" in missing, missing
        yield environment


def needed(wheel: Path, python: Python, to: Path) -> list[Path]:
    """Fetches dependencies of a wheel, its extra, its tests and a build from pip's own index."""
    with fresh(python) as environment, tempfile.TemporaryDirectory() as folder:
        executable = environment.scripts / "python"
        what = (f"{wheel}[{EXTRAS}]", BUILDING, *to_test(str(wheel)))
        run(executable, "-m", "pip", "download", "--only-binary=:all:", "--dest", folder, *what)
        return [
            Path(shutil.copy(path, to))
            for path in Path(folder).iterdir()
            if path.name != wheel.name
        ]


def to_test(wheel: str) -> tuple[str, ...]:
    """Returns the requirements for testing a wheel; nothing else is installed, not even extras.

    `wheel` is a file or the name of a project.
    """
    unknown = {name for name in TESTED if name.startswith("test-")} - DONE_HERE
    assert not unknown, f"what are {unknown} for?"
    extras = ",".join(TESTED.get("test-extras", ()))
    groups = (f"--group={ROOT / 'pyproject.toml'}:{name}" for name in TESTED["test-groups"])
    return (f"{wheel}[{extras}]" if extras else wheel, *TESTED.get("test-requires", ()), *groups)


def from_wheel(url: str, python: Python) -> None:
    """Installs and checks a wheel, runs the README's example, and runs cibuildwheel's tests."""
    with fresh(python) as environment:
        began = time.monotonic()
        environment.install(url, "sark-cache")
        took = time.monotonic() - began
        say(f"CPython {python}: pip install sark-cache took {took:.1f} s, without a compiler")
        if took > MOST_SECONDS:
            fail(f"it took more than {MOST_SECONDS} s")
        _works(environment, python)
        environment.python(FIRST_EXAMPLE, ROOT / "README.md")
        say(f"CPython {python}: the README's first example runs")
        environment.install(url, f"sark-cache[{EXTRAS}]")
        environment.python("-c", "import sark_cache.fastapi")
    with fresh(python) as environment:
        environment.install(url, *to_test("sark-cache"))
        tested(environment, python)


def from_sdist(url: str, python: Python) -> None:
    """Builds the index's sdist with the Rust of this machine, and checks the result."""
    with fresh(python) as environment:
        say(f"CPython {python}: pip builds the sdist")
        # The crates of others may have been compiled before. Ours are elsewhere and were not.
        os.environ.setdefault("CARGO_TARGET_DIR", str(ROOT / "target"))
        environment.install(url, "--no-binary=sark-cache", "sark-cache", path=os.environ["PATH"])
        _works(environment, python)


def without_rust(url: str, python: Python) -> None:
    """Checks that pip names the cure where there is neither a wheel nor Rust."""
    with fresh(python) as environment:
        said = environment.install(url, "--no-binary=sark-cache", "sark-cache", fails=True)
        for cure in ("there is no Rust", "https://rustup.rs", "pip install --upgrade pip"):
            if cure not in said:
                fail(f"pip does not say {cure!r}:\n{said}")
        if "Traceback" in said:
            fail(said)
        shown = [line for line in said.splitlines() if line.startswith("      ")]
        say("\n".join(["without Rust, pip says:", *shown]))


def _works(environment: Environment, python: Python) -> None:
    """Checks that the package is installed in the right place and works without other packages."""
    where = Path(environment.python("-c", "import sark_cache; print(sark_cache.__file__)").strip())
    if not where.is_relative_to(environment.scripts.parent):
        fail(f"{where} is not that of the environment")
    for line in environment.python("-m", "sark_cache", "--check").splitlines():
        say(f"CPython {python}: {line}")


def tested(environment: Environment, python: Python) -> None:
    """Runs the tests of cibuildwheel next to copies of the test files, as cibuildwheel does.

    `to_test` must be installed in the environment.
    """
    for name in TESTED["test-sources"]:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, environment.folder / name)
    for command in TESTED["test-command"]:
        executable, *arguments = shlex.split(command)
        assert executable == "python", command
        said = environment.python(*arguments)
        say(f"CPython {python}: {said.strip().splitlines()[-1].strip(' =')}")
