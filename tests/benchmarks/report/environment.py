"""The circumstances of a run: the machine, the interpreter, the versions of all packages."""

import os
import platform
import re
import subprocess
import tomllib
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def environment() -> dict:
    """Returns the time, the machine and the software of this run."""
    # Installed where benchmarks run, but not where the report is only checked.
    import cpuinfo
    import psutil

    from servers import server_binary

    return {
        "began": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "machine": {
            "processor": cpuinfo.get_cpu_info().get("brand_raw", platform.processor()),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "run": {
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "build": os.environ.get("SARK_CACHE_BUILD", "without a profile"),
            "server": server(server_binary()),
            "packages": packages(),
        },
    }


def server(binary: str) -> str:
    """Returns the name and version of a server, as in `Redis 7.0.15`."""
    said = subprocess.run([binary, "--version"], capture_output=True, check=True, text=True).stdout
    found = re.match(r"(\w+) server v=(\S+)", said)
    return " ".join(found.groups()) if found else said.strip()


def packages() -> dict[str, str]:
    """Returns the versions of this package and of those that the benchmarks use."""
    groups = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["dependency-groups"]
    wanted = [entry for entry in groups["bench"] if isinstance(entry, str)]
    names = {re.match(r"[\w.-]+", entry)[0] for entry in wanted} | {"sark-cache", "redis"}
    found = {}
    for name in sorted(names):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # not for this platform or interpreter
            continue
    return found
