"""The check of wheel contents finds every missing, stray or wrong file."""

import base64
import hashlib
from pathlib import Path
from zipfile import ZipFile

import pytest

from shipping.contents import METADATA, MOST_BYTES, PACKAGE, faults

NAME = "sark_cache-1.0-cp312-cp312-manylinux_2_28_x86_64.whl"
INFORMATION = "sark_cache-1.0.dist-info"
MODULE = "sark_cache/_native.cpython-312-x86_64-linux-gnu.so"
ELF = b"\x7fELF".ljust(18, b"\0") + (62).to_bytes(2, "little")
HEADERS = b"Name: sark-cache\nVersion: 1.0\nRequires-Dist: redis ; extra == 'redis'\n\n"


@pytest.fixture
def files():
    """Returns the files of a correct wheel by path."""
    patterns = ("*.py", "*.pyi", "py.typed")
    source = [path for pattern in patterns for path in PACKAGE.rglob(pattern)]
    return {
        **{f"sark_cache/{path.relative_to(PACKAGE).as_posix()}": b"" for path in source},
        **{f"{INFORMATION}/{name}": b"" for name in METADATA if name != "RECORD"},
        f"{INFORMATION}/METADATA": HEADERS,
        f"{INFORMATION}/sboms/sark-cache-python.cyclonedx.json": b"{}",
        MODULE: ELF,
    }


@pytest.fixture
def wheel(tmp_path):
    """Makes a wheel of files, with the record of others if given."""

    def make(files, *, recorded=None, name=NAME):
        path = tmp_path / name
        with ZipFile(path, "w") as archive:
            for file, content in files.items():
                archive.writestr(file, content)
            lines = [f"{file},{digest(content)}," for file, content in (recorded or files).items()]
            archive.writestr(f"{INFORMATION}/RECORD", "\n".join(lines))
        return path

    return make


def digest(content):
    return f"sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()[:-1]}"


def test_a_correct_wheel_has_no_complaints(wheel, files):
    assert faults(wheel(files)) == []
    assert faults(wheel(files | {"sark_cache/": b""}, recorded=files)) == []


@pytest.mark.parametrize("file", ["py.typed", "_native.pyi", "backends/redis/cache.py"])
def test_each_file_of_the_package_must_be_there(wheel, files, file):
    del files[f"sark_cache/{file}"]
    assert faults(wheel(files)) == [f"sark_cache/{file} is missing"]


@pytest.mark.parametrize(
    "file", ["tests/conftest.py", "sark_cache/.env", "sark_cache/old.py", "secrets.txt"]
)
def test_an_unexpected_file_is_stray(wheel, files, file):
    files[file] = b""
    assert faults(wheel(files)) == [f"{file} is stray"]


@pytest.mark.parametrize(
    "file", ["sark_cache/_native.cpython-311-x86_64-linux-gnu.so", "sark_cache.libs/libssl.so.3"]
)
def test_one_library_is_enough(wheel, files, file):
    files[file] = ELF
    assert any("the compiled modules are" in fault for fault in faults(wheel(files)))


def test_the_compiled_module_fits_the_tags_in_the_name(wheel, files):
    [fault] = faults(wheel(files, name=NAME.replace("cp312", "cp313")))
    assert "not one _native for CPython 313" in fault
    [fault] = faults(wheel(files, name=NAME.replace("cp312-manylinux", "cp312t-manylinux")))
    assert "not one _native for CPython 312t" in fault
    [fault] = faults(wheel(files, name=NAME.replace("x86_64", "aarch64")))
    assert "is for machine 62" in fault


def test_a_wheel_for_musl_has_the_library_that_musl_lacks(wheel, files):
    library = "sark_cache.libs/libgcc_s-1a2b3c4d.so.1"
    files[library] = ELF
    assert faults(wheel(files, name=NAME.replace("manylinux_2_28", "musllinux_1_2"))) == []
    assert faults(wheel(files)) == [f"{library} is stray"]


def test_a_file_that_was_changed_after_it_was_recorded_is_found(wheel, files):
    changed = files | {"sark_cache/backends/native.py": b"import os"}
    wrong = faults(wheel(changed, recorded=files))
    assert wrong == ["sark_cache/backends/native.py is not what was recorded"]


def test_requirements_belong_to_extras(wheel, files):
    files[f"{INFORMATION}/METADATA"] = HEADERS.replace(b" ; extra == 'redis'", b"")
    assert faults(wheel(files)) == ["Requires-Dist: redis is needed without an extra"]


def test_its_version_is_that_of_its_name(wheel, files):
    files[f"{INFORMATION}/METADATA"] = HEADERS.replace(b"1.0", b"2.0")
    assert faults(wheel(files)) == ["another version"]


def test_it_is_small_and_for_one_python(wheel, files):
    files[MODULE] += bytes(MOST_BYTES)
    assert "are more than" in faults(wheel(files))[0]
    assert "not the name" in faults(Path("sark_cache-1.0-cp311-abi3-win_amd64.whl"))[0]
