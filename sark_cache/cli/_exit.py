"""The exit codes of commands, and the error that ends a command with one of them."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """The exit codes. They are stable across versions; `MEANINGS` explains each of them."""

    FINE = 0
    WRONG = 1
    USAGE = 2
    UNREACHABLE = 3
    SETTINGS = 4
    MISSING = 5
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.FINE: "done, and all is well",
    ExitCode.WRONG: "a check failed, or Redis did not confirm a change",
    ExitCode.USAGE: "an argument or an option is wrong; nothing was done",
    ExitCode.UNREACHABLE: "Redis cannot be reached, or refuses the login; nothing was done",
    ExitCode.SETTINGS: "a setting is wrong, or the command needs Redis and has no URL",
    ExitCode.MISSING: "a required package is not installed",
    ExitCode.INTERRUPTED: "interrupted with Ctrl-C",
}


class FailureError(Exception):
    """An error that ends a command early.

    Args:
        code: The exit code.
        message: The text for stderr.
        document: Further fields for the JSON object of `--json`.
    """

    def __init__(
        self, code: ExitCode, message: str, document: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.document: Mapping[str, Any] = document or {}


@contextmanager
def ending(*, as_json: bool) -> Generator[None]:
    """Writes a `FailureError` of its block to stderr, and ends the command with its exit code.

    Args:
        as_json: Also write the failure to stdout, as one JSON object.

    Raises:
        typer.Exit: The block raised a `FailureError`.
    """
    import typer  # noqa: PLC0415 - the exit codes are used without the extra

    from sark_cache.cli._output import complain, write_json  # noqa: PLC0415 - likewise

    try:
        yield
    except FailureError as failure:
        complain("error", str(failure))
        if as_json:
            ended = {"ok": False, "exit_code": int(failure.code), "error": str(failure)}
            write_json({**ended, **failure.document})
        raise typer.Exit(failure.code) from None
