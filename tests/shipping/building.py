"""Builds the sdist and the wheels like the published ones, but on this system.

Published wheels are built in images with an old C library (`[tool.cibuildwheel]`). Here it is this
machine's, and the tag names the version from which on the wheel runs: `auditwheel repair` chooses
the oldest that the symbols allow. The wheel for the other processor is linked by zig, which has the
symbols of each version of glibc, so that it gets the tag of the published ones.
"""

import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path

from shipping.pythons import Python
from shipping.steps import StepError, fail, run, say

ROOT = Path(__file__).parents[2]
CONTENTS = Path(__file__).with_name("contents.py")
MAKING = ("maturin", "build", "--release", "--locked")

OTHER = {"x86_64": "aarch64", "aarch64": "x86_64"}
GLIBC = "manylinux_2_28"


def sdist(to: Path) -> Path:
    """Builds the sdist, from which pip builds where there is no wheel."""
    run("maturin", "sdist", "--out", to, cwd=ROOT)
    [made] = to.glob("*.tar.gz")
    return checked(made)


def wheel(python: Python, to: Path, *, profile: bool) -> Path:
    """Builds the wheel for one CPython of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        raw, repaired = Path(folder, "raw"), Path(folder, "repaired")
        options = ("--pgo",) if profile else ()
        # The next step determines its tag.
        unaudited = ("--compatibility", "linux") if sys.platform == "linux" else ()
        run(*MAKING, *options, *unaudited, "-i", python.executable, "--out", raw, cwd=ROOT)
        [made] = raw.glob("*.whl")
        if sys.platform == "linux":
            run("auditwheel", "repair", "--wheel-dir", repaired, made)
            [made] = repaired.glob("*.whl")
            say(_policy(made))
        return checked(Path(shutil.copy(made, to)))


def for_another_processor(python: Python, to: Path) -> Path | None:
    """Builds a Linux wheel for the other processor; if that is impossible, prints why and returns
    None."""
    machine = OTHER.get(platform.machine())
    if sys.platform != "linux" or machine is None:
        say(f"no cross build from {platform.system()} on {platform.machine()}")
        return None
    target = f"{machine}-unknown-linux-gnu"
    if not _has(target):
        say(f"no cross build: rustup target add {target} did not succeed")
        return None
    say(f"building for CPython {python} on {machine}, through zig")
    of_target = ("--zig", "--target", target, "--compatibility", GLIBC)
    run(*MAKING, *of_target, "-i", str(python), "--out", to, cwd=ROOT)
    [made] = to.glob(f"*_{machine}.whl")
    if GLIBC not in made.name:
        fail(f"{made.name} is not tagged {GLIBC}")
    say(_policy(made))
    return checked(made)


def checked(made: Path) -> Path:
    """Checks metadata, and the files of a wheel; returns the path."""
    run("twine", "check", "--strict", made)
    if made.suffix == ".whl":
        say(run(sys.executable, CONTENTS, made).strip())
    return made


def _policy(made: Path) -> str:
    """Returns the findings of auditwheel about a wheel; its tag must not promise more."""
    shown = " ".join(run("auditwheel", "show", made).split())
    found = re.search(r'following platform tag: "(\w+)"', shown)
    needed = re.search(r'constrains the platform tag to "(\w+)"', shown) or found
    if found is None or needed is None:
        fail(shown)
    if _glibc(needed[1]) > _glibc(made.name):
        fail(f"{made.name} takes {needed[1]}")
    return f"auditwheel: {made.name} is consistent with {found[1]}"


def _glibc(tag: str) -> tuple[int, int]:
    version = re.search(r"(?:many|musl)linux_(\d+)_(\d+)", tag)
    assert version is not None, f"{tag} names no C library"
    return int(version[1]), int(version[2])


def _has(target: str) -> bool:
    """Returns whether Rust's library for a target is installed or could be fetched."""
    asked = ("rustc", "--print", "target-libdir", "--target", target)
    if Path(run(*asked).strip()).is_dir():
        return True
    if shutil.which("rustup") is None:
        return False
    try:
        run("rustup", "target", "add", target)
    except StepError:
        return False
    return True
