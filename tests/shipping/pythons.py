"""The CPythons on this machine: those on PATH, those of pyenv and the running one."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OLDEST = (3, 11)

ASK = """
import importlib.util, json, platform, sys, sysconfig
print(json.dumps({
    "implementation": platform.python_implementation(),
    "version": sys.version_info[:2],
    "free": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "stable": sys.version_info.releaselevel in {"candidate", "final"},
    "complete": importlib.util.find_spec("ensurepip") is not None,
}))
"""


@dataclass(frozen=True, order=True)
class Python:
    """A CPython.

    Attributes:
        version: Its major and minor version.
        free: True if it is built without the GIL.
        executable: The path of its interpreter.
    """

    version: tuple[int, int]
    free: bool
    executable: Path

    def __str__(self) -> str:
        return f"{self.version[0]}.{self.version[1]}{'t' if self.free else ''}"


def found() -> list[Python]:
    """Returns one CPython per version, the oldest first, and prefers complete installations."""
    pythons: dict[tuple[tuple[int, int], bool], tuple[bool, Python]] = {}
    for path in _candidates():
        answer = _asked(path)
        if answer is None or answer["implementation"] != "CPython" or not answer["stable"]:
            continue
        version = (answer["version"][0], answer["version"][1])
        python = Python(version, answer["free"], path)
        known = pythons.get((version, python.free))
        if version >= OLDEST and (known is None or answer["complete"] > known[0]):
            pythons[version, python.free] = (answer["complete"], python)
    return sorted(python for _, python in pythons.values())


def _candidates() -> list[Path]:
    """Yields each file that may be a Python once.

    Links are not followed: in a virtual environment, they lead to another Python.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    patterns = ("python3", "python3.[0-9][0-9]", "python3.[0-9][0-9]t", "python.exe")
    base = Path(getattr(sys, "_base_executable", None) or sys.executable)
    paths = [
        base,
        *(path for pattern in patterns for path in sorted(pyenv.glob(f"versions/*/bin/{pattern}"))),
        *(path for folder in folders for pattern in patterns for path in folder.glob(pattern)),
    ]
    return list(dict.fromkeys(path for path in paths if not _in_environment(path)))


def _in_environment(path: Path) -> bool:
    return (path.parent.parent / "pyvenv.cfg").exists()


def _asked(path: Path) -> dict | None:
    """Returns the properties that the interpreter reports, or None if it does not run."""
    try:
        answer = subprocess.run(
            [path, "-I", "-c", ASK],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
