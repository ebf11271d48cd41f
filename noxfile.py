"""The one door to everything: `nox` runs all checks, `nox -l` lists the sessions.

Every session builds and installs what it needs: it takes a CPython ≥ 3.11 and a Rust toolchain.
The arguments after `--` go to the tool that the session runs.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests", "lint", "typing", "workflows", "docs"]
nox.options.reuse_existing_virtualenvs = True

REPORT = {"PYTHONPATH": "tests/benchmarks"}
"""The environment in which Python finds the module `report`."""

AT_ONCE = ("--numprocesses=2", "--dist=loadfile")
"""Two processes share the tests, file by file: most of them wait for servers and clocks.

Not where `SARK_CACHE_TEST_SERVER` names a server, which the tests of one file would empty under
those of another.
"""


def need_cargo(session: nox.Session) -> None:
    """Ends a session that cannot build the package."""
    if shutil.which("cargo") is None:
        session.error("cargo is not on PATH: install a Rust toolchain (https://rustup.rs)")


def install(
    session: nox.Session, *extras: str, groups: tuple[str, ...] = (), editable: bool = True
) -> None:
    """Builds the package (release profile) and installs it from the tree, with what it needs.

    An installation that is not editable is an unpacked wheel, as a user has it.
    """
    need_cargo(session)
    wanted = f".[{','.join(extras)}]" if extras else "."
    session.log("building the package: some minutes the first time, seconds afterwards")
    install_groups(session, *groups, more=("-e", wanted) if editable else (wanted,))


def install_groups(session: nox.Session, *groups: str, more: tuple[str, ...] = ()) -> None:
    """Installs dependency groups of pyproject.toml, which takes a pip that knows them."""
    pip = ("python", "-m", "pip", "install", "--quiet")
    session.run_install(*pip, "--upgrade", "pip>=25.1")
    session.run_install(*pip, *more, *(f"--group={group}" for group in groups))


def has_profiler(session: nox.Session) -> bool:
    """Returns whether the Rust toolchain has the tool that a build with a profile needs."""
    sysroot = session.run("rustc", "--print", "sysroot", silent=True, external=True)
    return any(Path(str(sysroot).strip()).glob("lib/rustlib/*/bin/llvm-profdata*"))


@nox.session
def demo(session: nox.Session) -> None:
    """Runs the example: a FastAPI gateway with a Rego policy. `-- --serve` leaves it up.

    `-- --workers 4`: four processes and a server, and a revocation that reaches all of them.
    """
    install(session, "demo")
    session.run("python", "examples/gateway/demo.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Runs all tests, Rust and Python. `-- -k name` goes to pytest and skips the Rust tests."""
    install(session, "demo", "cli", "openfeature", groups=("test",))
    if not session.posargs:
        rust(session)
    how = () if "SARK_CACHE_TEST_SERVER" in os.environ else AT_ONCE
    session.run("python", "-m", "pytest", *(session.posargs or how))


@nox.session
def coverage(session: nox.Session) -> None:
    """Runs the Python tests and measures the lines and branches of sark_cache/ they reach."""
    install(session, "demo", "cli", "openfeature", groups=("test",))
    # A million requests would take many minutes if each line was counted.
    without = ("--deselect", "tests/unit/test_storm.py")
    session.run("python", "-m", "pytest", "--cov", "--cov-report=term", *without, *session.posargs)


@nox.session
def consistency(session: nox.Session) -> None:
    """Checks processes for decisions served after a revocation. `-- --help` shows the options.

    Takes 60 s for each of about 20 faults. `-- --seconds 10 --fault ServerPaused`: 10 s for one.
    """
    install(session, groups=("test",))
    session.run(
        "python", "-m", "consistency", *session.posargs, env={"PYTHONPATH": "tests/support"}
    )


@nox.session(venv_backend="none")
def rust(session: nox.Session) -> None:
    """Runs only the Rust tests. `-- name` goes to cargo test."""
    session.run("cargo", "test", "--locked", "--quiet", *session.posargs, external=True)
    if not session.posargs:
        model(session)


@nox.session(venv_backend="none")
def model(session: nox.Session) -> None:
    """Runs log, loads and protocol under a model checker. `-- 100000`: 100,000 schedules."""
    if session.posargs:
        session.env["SARK_CACHE_SCHEDULES"] = session.posargs[0]
    # A backtrace for each variant that is broken on purpose would take longer than the checks.
    session.env["RUST_BACKTRACE"] = "0"
    session.run(
        *("cargo", "test", "--locked", "--quiet", "--package", "sark-cache-core"),
        *("--features", "shuttle", "--profile", "model", "--test", "model", "--test", "protocol"),
        external=True,
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Runs all checks of .pre-commit-config.yaml on all files. `-- ruff-check`: only that one."""
    need_cargo(session)
    install_groups(session, "lint")
    session.run("prek", "run", "--all-files", "--show-diff-on-failure", *session.posargs)


@nox.session
def typing(session: nox.Session) -> None:
    """Checks the types of the installed wheel and of tests/typing: mypy and pyright, strict.

    It also compares the stub `_native.pyi` with the compiled module (stubtest), and checks that
    every public name has a type. All other modules are annotated in their source.
    """
    install(session, groups=("typing",), editable=False)
    with session.chdir("tests/typing"):  # from the root, sark_cache is the tree
        where = ("python", "-c", "import sark_cache; print(sark_cache.__path__[0])")
        installed = str(session.run(*where, silent=True)).strip()
        session.run("stubtest", "sark_cache._native")
        session.run("mypy", "--config-file", "../../pyproject.toml", "--package", "sark_cache")
        session.run("mypy", "--config-file", "../../pyproject.toml", ".")
        session.run("pyright", "--verifytypes", "sark_cache", "--ignoreexternal")
    session.run("pyright", installed, "tests/typing")


@nox.session
def bench(session: nox.Session) -> None:
    """Runs the benchmarks. `-- --report` saves their report, `-- --compare` compares with it.

    Other arguments after `--` go to pytest. Each run is also saved for `--benchmark-compare`. The
    package is built with a profile, as wheels are, if `rustup component add llvm-tools` was run.
    """
    install(session, "redis", "demo", groups=("bench",))
    if has_profiler(session):
        session.run_install("maturin", "develop", "--pgo", "--quiet")
        session.env["SARK_CACHE_BUILD"] = "with a profile"
    else:
        session.warn("built without a profile, unlike wheels: rustup component add llvm-tools")
    session.run(
        "python", "-m", "pytest", "tests/benchmarks", "--benchmark-autosave", *session.posargs
    )
    if "--report" in session.posargs:
        report(session)


@nox.session(venv_backend="none")
def report(session: nox.Session) -> None:
    """Writes the tables of the README and of docs/performance.md from the saved report."""
    session.run(sys.executable, "-m", "report", "--render", env=REPORT, external=True)


@nox.session
def wheels(session: nox.Session) -> None:
    """Builds wheels for each CPython here and an sdist, and tests them from an index on loopback.

    The results are in dist/. `-- 3.12 3.13` builds for these versions only, `-- --no-pgo` without a
    profile, `-- --no-cross` not for the other processor. Some minutes for each version.
    """
    need_cargo(session)
    install_groups(session, "wheels")
    options = list(session.posargs)
    if "--no-pgo" not in options and not has_profiler(session):
        session.warn("building without a profile, unlike CI: rustup component add llvm-tools")
        options.append("--no-pgo")
    session.run("python", "-m", "shipping", *options, env={"PYTHONPATH": "tests"})


@nox.session
def workflows(session: nox.Session) -> None:
    """Checks CI as far as one machine can: its syntax, its commands, its wheels and their tests.

    Builds a wheel of the tree and tests it as the release does. `-- -k zizmor`: that check alone.
    """
    need_cargo(session)
    install_groups(session, "workflows")
    # Not tests/conftest.py, which needs the package.
    here = ("tests/shipping", "--confcutdir=tests/shipping")
    session.run("python", "-m", "pytest", *here, *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """Checks the dependencies: licences, sources, advisories. Needs the network."""
    tools = ("cargo-deny@0.20.2", "cargo-audit@0.22.2")
    session.log("building cargo-deny and cargo-audit: some minutes the first time")
    root = str(Path(session.bin).parent)
    session.run("cargo", "install", "--locked", "--quiet", "--root", root, *tools, external=True)
    session.run("cargo", "deny", "--locked", "check", "bans", "licenses", "sources", external=True)
    for host in ("github.com", "pypi.org"):
        try:
            socket.create_connection((host, 443), timeout=10).close()
        except OSError as error:
            session.error(f"NOT checked: advisories. They are kept on {host}: {error}")
    session.run("cargo", "deny", "--locked", "check", "advisories", external=True)
    session.run("cargo", "audit", "--deny", "warnings", external=True)
    install_groups(session, "audit")
    extras = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]
    wanted = {it for extra in extras.values() for it in extra if not it.startswith("sark-cache")}
    requirements = Path(session.create_tmp()) / "requirements.txt"
    requirements.write_text("\n".join(sorted(wanted)), encoding="utf-8")
    session.run("pip-audit", "--strict", "--requirement", str(requirements))


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Makes `.venv` with the package and all tools, and has each commit run `nox -s lint`."""
    session.run(sys.executable, "-m", "venv", ".venv")
    scripts = Path(".venv", "Scripts" if sys.platform == "win32" else "bin")
    pip = (str(scripts / "python"), "-m", "pip", "install", "--quiet")
    session.run(*pip, "--upgrade", "pip>=25.1")
    session.run(*pip, "--editable", ".[demo,cli,openfeature]", "--group=dev")
    if Path(".git").exists():
        session.run(str(scripts / "prek"), "install")


@nox.session
def docs(session: nox.Session) -> None:
    """Builds the site strictly, checks its links, runs its code. `-- --serve`: serves the site.

    Links to other sites are not fetched. It needs bash and curl, as the pages do. Other arguments
    after `--` go to pytest.
    """
    session.env["NO_MKDOCS_2_WARNING"] = "1"
    install(session, "demo", "cli", "otel", "prometheus", groups=("docs",))
    if "--serve" in session.posargs:
        session.run("mkdocs", "serve")
        return
    session.run("mkdocs", "build", "--clean")  # --quiet would drop warnings, and strictness
    session.run("python", "-m", "pytest", "tests/docs", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzzes keys and stored values, with all memory checked. `-- 600`: 600 seconds for each.

    Needs Rust's nightly toolchain and a Python with a shared library. `-- 600 values`: one target.
    """
    session.run("python", "rust/fuzz/run.py", *session.posargs)
