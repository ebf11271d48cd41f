"""Runs the fuzz targets in sequence: `python rust/fuzz/run.py [SECONDS [TARGET ...]]`.

Each target starts from its `seeds/` and from the inputs that earlier runs added to `corpus/`. A
failing input is kept in `artifacts/`; the fuzzer prints how to run it again.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TARGETS = sorted(path.stem for path in HERE.glob("fuzz_targets/*.rs"))
SHORT = "30"
"""The default number of seconds per target."""

CARGO_FUZZ = "0.13.2"
TOOLS = ROOT / ".nox" / "cargo"
"""The folder that cargo-fuzz is installed into, inside the project."""

FUZZER = (
    # Allows some thousand nested lists, as deep as a stack allows. A stored value has 64 at most.
    "-max_len=4096",
    # The interpreter keeps many objects until it exits; a real leak shows in the memory limit.
    "-detect_leaks=0",
    "-rss_limit_mb=4096",
    "-timeout=60",
    "-print_final_stats=1",
)


def environment() -> dict[str, str]:
    """Returns the environment of all commands: nightly toolchain, cargo-fuzz, this interpreter."""
    # An embedded interpreter finds its library by the first python3 on the path.
    path = (str(TOOLS / "bin"), str(Path(sys.base_prefix, "bin")), os.environ["PATH"])
    return os.environ | {
        "RUSTUP_TOOLCHAIN": "nightly",
        "PYO3_PYTHON": sys.executable,
        "PATH": os.pathsep.join(path),
    }


def missing() -> str | None:
    """Returns what this machine lacks and how to install it, or None."""
    if not shutil.which("cargo"):
        return "cargo is not on PATH: install a Rust toolchain (https://rustup.rs)"
    rustc = subprocess.run(
        ["rustc", "--version"], env=environment(), capture_output=True, text=True, check=False
    )
    if rustc.returncode or "nightly" not in rustc.stdout:
        return (
            "the fuzzer needs Rust's nightly toolchain, which is not installed: "
            "rustup toolchain install nightly --profile minimal"
        )
    library = Path(
        sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("LDLIBRARY") or ""
    )
    if not sysconfig.get_config_var("PYTHONFRAMEWORK") and not (
        sysconfig.get_config_var("Py_ENABLE_SHARED") and library.is_file()
    ):
        return (
            f"{sys.executable} has no shared library to link with: run nox with a Python that has "
            "one (on Debian: apt install libpython3-dev)"
        )
    return None


def cargo(*arguments: str) -> bool:
    """Runs cargo and returns whether it succeeded."""
    run = subprocess.run(["cargo", *arguments], env=environment(), cwd=ROOT, check=False)
    return run.returncode == 0


def prepare() -> bool:
    """Installs cargo-fuzz if it is missing and checks that the lock file is up to date."""
    installed = shutil.which("cargo-fuzz", path=environment()["PATH"])
    if not installed and not cargo(
        "install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked", "--root", str(TOOLS)
    ):
        return False
    # cargo-fuzz itself would update the lock file silently.
    return cargo("fetch", "--quiet", "--locked", "--manifest-path", str(HERE / "Cargo.toml"))


def fuzz(target: str, seconds: str) -> bool:
    """Fuzzes a target and returns whether it found no failure."""
    corpus, seeds = HERE / "corpus" / target, HERE / "seeds" / target
    corpus.mkdir(parents=True, exist_ok=True)
    return cargo(
        *("fuzz", "run", "--fuzz-dir", str(HERE), target, str(corpus), str(seeds)),
        *("--", f"-max_total_time={seconds}", *FUZZER),
    )


def main(seconds: str = SHORT, *targets: str) -> str | None:
    """Runs all targets, even if some fail, and returns an error message or None."""
    if unknown := set(targets) - set(TARGETS):
        return f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}"
    if problem := missing():
        return problem
    if not prepare():
        return "nothing was run"
    failed = [target for target in targets or TARGETS if not fuzz(target, seconds)]
    return f"failed: {', '.join(failed)}" if failed else None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
