"""Checks that a wheel has all its files and no others: `python contents.py WHEEL...`

It needs only Python. `nox -s wheels` and cibuildwheel run it on each wheel that they build.
"""

import base64
import csv
import hashlib
import io
import re
import sys
from pathlib import Path
from zipfile import ZipFile

PACKAGE = Path(__file__).parents[2] / "sark_cache"

MOST_BYTES = 3 * 2**20
"""The size limit of a wheel. Wheels take 1 to 1.5 MiB, two thirds of it the compiled module."""

NAME = re.compile(
    r"sark_cache-(?P<version>[^-]+)-cp(?P<python>3\d+)-cp(?P=python)(?P<free>t?)-(?P<platform>[^-]+)"
    r"\.whl"
)
"""The tags of one version of CPython, with or without the GIL."""

METADATA = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
BILL = re.compile(r"sboms/[\w.-]+\.json")
"""A bill of materials: of the crates that were compiled in, or of the library below."""

LIBRARY = re.compile(r"sark_cache\.libs/libgcc_s-[\w.-]+")
"""The library with which Rust unwinds. Wheels for musl contain it; other Linux systems have it."""

MACHINES = {"x86_64": 62, "aarch64": 183}
"""The numbers by which ELF files name their processor."""


def faults(wheel: Path) -> list[str]:
    """Yields the faults of a wheel."""
    name = NAME.fullmatch(wheel.name)
    if name is None:
        return [f"{wheel.name} is not the name of a wheel for one CPython"]
    with ZipFile(wheel) as archive:
        return [
            *_of_size(wheel),
            *_of_files(archive, name),
            *_of_compiled(archive, name),
            *_of_record(archive, name["version"]),
        ]


def _of_size(wheel: Path) -> list[str]:
    size = wheel.stat().st_size
    return [f"{size:,} bytes are more than {MOST_BYTES:,}"] if size > MOST_BYTES else []


def _of_files(archive: ZipFile, name: re.Match[str]) -> list[str]:
    """Compares the files with the modules and stubs of the source tree, and with the expected
    metadata."""
    information = f"sark_cache-{name['version']}.dist-info/"
    source = {
        f"sark_cache/{path.relative_to(PACKAGE).as_posix()}"
        for pattern in ("*.py", "*.pyi", "py.typed")
        for path in PACKAGE.rglob(pattern)
    }
    wanted = {*source, *(information + file for file in METADATA)}
    there = {file for file in archive.namelist() if not file.endswith("/")}
    stray = [
        file
        for file in sorted(there - wanted)
        if not file.startswith("sark_cache/_native.")  # checked below
        and not BILL.fullmatch(file.removeprefix(information))
        and not ("musllinux" in name["platform"] and LIBRARY.fullmatch(file))
    ]
    missing = sorted(wanted - there)
    return [*(f"{file} is missing" for file in missing), *(f"{file} is stray" for file in stray)]


def _of_compiled(archive: ZipFile, name: re.Match[str]) -> list[str]:
    """Checks that there is one compiled module, for the Python and the processor in the name."""
    python, free = name["python"], name["free"]
    of_posix = rf"cpython-{python}{free}-[\w-]+\.so"
    of_windows = rf"cp{python}{free}-[\w]+\.pyd"
    files = [
        file for file in archive.namelist() if re.search(r"\.(so|pyd|dll|dylib)(\.\d+)*$", file)
    ]
    modules = [file for file in files if not LIBRARY.fullmatch(file)]
    suffix = of_windows if name["platform"].startswith("win") else of_posix
    if len(modules) != 1 or not re.fullmatch(rf"sark_cache/_native\.{suffix}", modules[0]):
        return [f"the compiled modules are {modules}, not one _native for CPython {python}{free}"]
    with archive.open(modules[0]) as module:
        header = module.read(20)
    machine = int.from_bytes(header[18:20], "little")
    meant = next((MACHINES[arch] for arch in MACHINES if name["platform"].endswith(arch)), None)
    if header.startswith(b"\x7fELF") and machine != meant:
        return [f"{modules[0]} is for machine {machine}, not for {name['platform']}"]
    return []


def _of_record(archive: ZipFile, version: str) -> list[str]:
    """Checks that each file is the recorded one, and that every requirement belongs to an extra."""
    information = f"sark_cache-{version}.dist-info"
    record = archive.read(f"{information}/RECORD").decode()
    recorded = {path: digest for path, digest, _ in csv.reader(io.StringIO(record)) if digest}
    wrong = [
        f"{path} is not what was recorded"
        for path in archive.namelist()
        if path != f"{information}/RECORD"
        and not path.endswith("/")  # auditwheel writes folders, too
        and recorded.get(path) != _digest(archive.read(path))
    ]
    metadata = archive.read(f"{information}/METADATA").decode().partition("\n\n")[0].splitlines()
    needed = [
        f"{line} is needed without an extra"
        for line in metadata
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    return [*wrong, *needed, *([] if f"Version: {version}" in metadata else ["another version"])]


def _digest(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return f"sha256={digest.decode().rstrip('=')}"


def main() -> None:
    wheels = [Path(argument) for argument in sys.argv[1:]]
    found = {wheel: faults(wheel) for wheel in wheels}
    for wheel, wrong in found.items():
        size = wheel.stat().st_size / 2**20
        said = "; ".join(wrong) or "all of it belongs there"
        sys.stdout.write(f"{wheel.name}: {size:.2f} MiB, {said}\n")
    if not wheels or any(found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
