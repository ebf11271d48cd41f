"""A wheel of this tree passes what cibuildwheel tests it with, where that does: nowhere else is
everything missing that its settings do not name.
"""

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
"""The CPython at hand."""


@pytest.mark.timeout(1_200)  # the package is built, optimised, if no other session did that before
def test_a_wheel_passes_its_tests_with_nothing_but_what_its_settings_name(tmp_path):
    run(sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    with trying.fresh(HERE) as environment:
        run(environment.scripts / "python", *PIP, "install", *trying.to_test(str(wheel)))
        trying.tested(environment, HERE)
