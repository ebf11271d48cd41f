"""`PolicyCache` keeps its contract without the compiled module."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import sark_cache

TESTS = Path(__file__).parents[1]


def test_the_contract_holds_without_the_compiled_module(tmp_path):
    package = Path(sark_cache.__file__).parent
    compiled = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(package, tmp_path / "sark_cache", ignore=compiled)
    for name in ("contract", "support", "conftest.py"):
        source = TESTS / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "contract", "-k", "redis"),
            *("-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "-o", "pythonpath=support"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5_000:]
    assert " passed" in run.stdout
