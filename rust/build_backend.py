"""maturin, as what pip builds the package with; where there is no Rust, it says what would help.

Without this file maturin would download a whole toolchain unasked, or fail with a traceback.
"""

import os
import platform
import shutil
import sys

os.environ.setdefault("MATURIN_NO_INSTALL_RUST", "1")

import maturin
from maturin import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

NO_RUST = """
sark-cache has to be built here, and there is no Rust: cargo is not on PATH.

Either pip was asked to build it, or there is no wheel for {python} on {platform}.
Wheels are for CPython 3.11 to 3.15 on Linux, macOS and Windows; an old pip may not know them:
    python -m pip install --upgrade pip
To build it, install Rust (https://rustup.rs) and a C compiler, then run this again.
"""


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    """The first that pip asks: ends here where there is no Rust."""
    if shutil.which("cargo") is None:
        python = f"{platform.python_implementation()} {platform.python_version()}"
        where = f"{platform.system()} {platform.machine()}"
        sys.exit(NO_RUST.format(python=python, platform=where))
    return maturin.get_requires_for_build_wheel(config_settings)


get_requires_for_build_editable = get_requires_for_build_wheel
