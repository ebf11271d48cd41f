"""A wheel of this tree passes the tests of cibuildwheel, with only the files it has there."""

import sys
import sysconfig
from pathlib import Path

import pytest

from shipping import trying
from shipping.building import ROOT
from shipping.pythons import Python
from shipping.steps import run

PIP = ("-m", "pip", "--disable-pip-version-check")

HERE = Python(
    version=(sys.version_info.major, sys.version_info.minor),
    free=bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    executable=Path(sys.executable),
)
"""The running CPython."""


@pytest.mark.timeout(1_200)  # builds the package, optimised, unless another session did before
def test_a_wheel_passes_its_tests_with_only_the_files_that_its_settings_name(tmp_path):
    run(sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    with trying.fresh(HERE) as environment:
        run(environment.scripts / "python", *PIP, "install", *trying.to_test(str(wheel)))
        trying.tested(environment, HERE)
