"""Runs the fuzz targets one after the other: `python rust/fuzz/run.py [SECONDS [TARGET ...]]`.

Each starts from its `seeds/` and from what earlier runs added to `corpus/`. An input that fails is
kept in `artifacts/`; the fuzzer says how to run it again.
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
"""Seconds for each target, if no others are given."""

CARGO_FUZZ = "0.13.2"
TOOLS = ROOT / ".nox" / "cargo"
"""Where cargo-fuzz is installed: nothing is left behind outside of the project."""

FUZZER = (
    # Room for some thousand nested lists, and no more than a stack can take. Stored are 64 at most.
    "-max_len=4096",
    # The interpreter keeps many objects until it ends; what is lost for good shows in the size.
    "-detect_leaks=0",
    "-rss_limit_mb=4096",
    "-timeout=60",
    "-print_final_stats=1",
)


def environment() -> dict[str, str]:
    """That of all that is run: the nightly toolchain, cargo-fuzz, and this interpreter."""
    # An interpreter that is embedded finds its library by the python3 that is first on the path.
    path = (str(TOOLS / "bin"), str(Path(sys.base_prefix, "bin")), os.environ["PATH"])
    return os.environ | {
        "RUSTUP_TOOLCHAIN": "nightly",
        "PYO3_PYTHON": sys.executable,
        "PATH": os.pathsep.join(path),
    }


def missing() -> str | None:
    """What this machine lacks, and how to get it; None if nothing."""
    if not shutil.which("cargo"):
        return "cargo is not on PATH: install a Rust toolchain (https://rustup.rs)"
    rustc = subprocess.run(
        ["rustc", "--version"], env=environment(), capture_output=True, text=True, check=False
    )
    if rustc.returncode or "nightly" not in rustc.stdout:
        return (
            "only Rust's nightly toolchain can check memory, and it is not installed: "
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
            "(on Debian: apt install libpython3-dev)"
        )
    return None


def cargo(*arguments: str) -> bool:
    """Whether cargo succeeded."""
    run = subprocess.run(["cargo", *arguments], env=environment(), cwd=ROOT, check=False)
    return run.returncode == 0


def prepare() -> bool:
    """Installs cargo-fuzz, unless it is there, and sees that the lock file is up to date."""
    there = shutil.which("cargo-fuzz", path=environment()["PATH"])
    if not there and not cargo(
        "install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked", "--root", str(TOOLS)
    ):
        return False
    # cargo-fuzz itself would change the lock file without a word.
    return cargo("fetch", "--quiet", "--locked", "--manifest-path", str(HERE / "Cargo.toml"))


def fuzz(target: str, seconds: str) -> bool:
    """Whether a target held for so long."""
    corpus, seeds = HERE / "corpus" / target, HERE / "seeds" / target
    corpus.mkdir(parents=True, exist_ok=True)
    return cargo(
        *("fuzz", "run", "--fuzz-dir", str(HERE), target, str(corpus), str(seeds)),
        *("--", f"-max_total_time={seconds}", *FUZZER),
    )


def main(seconds: str = SHORT, *targets: str) -> str | None:
    """Runs them all, whatever the others do; what went wrong, if anything did."""
    if unknown := set(targets) - set(TARGETS):
        return f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}"
    if lack := missing():
        return lack
    if not prepare():
        return "nothing was run"
    failed = [target for target in targets or TARGETS if not fuzz(target, seconds)]
    return f"failed: {', '.join(failed)}" if failed else None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
