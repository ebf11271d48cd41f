"""The command `sark-cache`: looks at what is installed, moves rollouts, revokes, and shows itself.

Takes typer and rich (`pip install "sark-cache[cli]"`), which are imported when it runs; `--check`,
which tries the package itself, takes nothing.
"""

import sys

from sark_cache.cli._exit import ExitCode

INSTALL = "pip install 'sark-cache[cli]'"


def main() -> None:
    """Runs the command that the arguments of this process name, and ends the process."""
    try:
        if sys.argv[1:] == ["--check"]:
            from sark_cache.cli.self_check import check  # noqa: PLC0415 - brings asyncio

            sys.exit(check())
        from sark_cache.cli.app import run  # noqa: PLC0415 - takes the extra

        run()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in {"", "sark_cache"}:
            raise
        sys.stderr.write(f"sark-cache: {missing} is not installed: {INSTALL}\n")
        sys.exit(ExitCode.MISSING)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
