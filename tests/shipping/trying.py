"""Installing from an index as users do, in fresh environments far from the source tree.

pip is given nothing but the index: no other source, no cache, no settings. `PATH` has nothing but
the environment, so what is installed needs no compiler.
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
"""That installing the package itself may take."""

EXTRAS = "fastapi"
BUILDING = "maturin>=1.16,<2"
FIRST_EXAMPLE = Path(__file__).with_name("first_example.py")

with (ROOT / "pyproject.toml").open("rb") as file:
    TESTED = tomllib.load(file)["tool"]["cibuildwheel"]
"""How cibuildwheel tests wheels: the same is done here."""

DONE_HERE = {"test-command", "test-extras", "test-groups", "test-requires", "test-sources"}
"""Its settings for that which are understood here."""


@dataclass(frozen=True)
class Environment:
    """A fresh virtual environment, with nothing but pip, and an empty folder to be in."""

    scripts: Path
    folder: Path

    def variables(self, *more: str) -> dict[str, str]:
        """This process's, without what would have a say, and `more` on PATH."""
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
        """What its Python said."""
        executable = self.scripts / ("python.exe" if sys.platform == "win32" else "python")
        more = (path,) if path else ()
        return run(executable, *arguments, cwd=self.folder, env=self.variables(*more), fails=fails)

    def install(self, url: str, *what: str, path: str = "", fails: bool = False) -> str:
        """Installs from the index at `url`."""
        pip = ("-m", "pip", "install", "--index-url", url)
        return self.python(*pip, *what, path=path, fails=fails)


@contextmanager
def fresh(python: Python) -> Iterator[Environment]:
    """An environment of this Python, for a while."""
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
    """What a wheel, its extra, its tests and a build take besides, fetched from where pip looks."""
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
    """What is installed to test a wheel: nothing else is there then, the package's extras neither.

    It says how pip is given it, for a file or for the name of a project.
    """
    unknown = {name for name in TESTED if name.startswith("test-")} - DONE_HERE
    assert not unknown, f"what are {unknown} for?"
    extras = ",".join(TESTED.get("test-extras", ()))
    groups = (f"--group={ROOT / 'pyproject.toml'}:{name}" for name in TESTED["test-groups"])
    return (f"{wheel}[{extras}]" if extras else wheel, *TESTED.get("test-requires", ()), *groups)


def from_wheel(url: str, python: Python) -> None:
    """Installs, checks, runs the README's example, and tests it as cibuildwheel does."""
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
    """Builds with the Rust of this machine what the index has as source, and checks it."""
    with fresh(python) as environment:
        say(f"CPython {python}: pip builds the sdist")
        # The crates of others may have been compiled before; ours lie elsewhere and were not.
        os.environ.setdefault("CARGO_TARGET_DIR", str(ROOT / "target"))
        environment.install(url, "--no-binary=sark-cache", "sark-cache", path=os.environ["PATH"])
        _works(environment, python)


def without_rust(url: str, python: Python) -> None:
    """Where there is neither a wheel nor Rust, pip says what would help."""
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
    """It is installed where it should be, and works with nothing else installed."""
    where = Path(environment.python("-c", "import sark_cache; print(sark_cache.__file__)").strip())
    if not where.is_relative_to(environment.scripts.parent):
        fail(f"{where} is not that of the environment")
    for line in environment.python("-m", "sark_cache", "--check").splitlines():
        say(f"CPython {python}: {line}")


def tested(environment: Environment, python: Python) -> None:
    """Runs what cibuildwheel tests wheels with, where it would: beside copies of the tests.

    `to_test` was installed there.
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
