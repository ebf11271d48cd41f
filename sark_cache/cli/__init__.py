"""The command `sark-cache`: examines an installation, changes rollouts, revokes, and runs a demo.

Its commands need typer and rich (`pip install "sark-cache[cli]"`). They are imported when a command
runs. `sark-cache --check` tests the package and needs no extra.
"""

import sys

from sark_cache.cli._exit import ExitCode

INSTALL = "pip install 'sark-cache[cli]'"


def main() -> None:
    """Runs the command that the process's arguments name, and ends the process."""
    try:
        if sys.argv[1:] == ["--check"]:
            from sark_cache.cli.self_check import check  # noqa: PLC0415 - imports asyncio

            sys.exit(check())
        from sark_cache.cli.app import run  # noqa: PLC0415 - needs the extra

        run()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in {"", "sark_cache"}:
            raise
        sys.stderr.write(f"sark-cache: {missing} is not installed: {INSTALL}\n")
        sys.exit(ExitCode.MISSING)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
