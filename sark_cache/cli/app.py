"""The application of the command line: its commands, and the options that precede them."""

import logging
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated, Final

import typer

import sark_cache
from sark_cache.cli import invalidate, self_check, watch
from sark_cache.cli._exit import MEANINGS
from sark_cache.cli._options import Command, Group, help_text
from sark_cache.cli.demo import command as demo
from sark_cache.cli.doctor import command as doctor
from sark_cache.cli.flags.command import flags

application: Final = typer.Typer(
    cls=Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=help_text(
        "Checks services that use sark-cache, revokes their decisions, and changes their rollouts.",
        "Settings come from environment variables such as SARK_CACHE_REDIS_URL, as in a service. "
        "Run sark-cache doctor --json to see all of them.",
        "\n".join(
            ["Exit codes:", *(f"  {code.value:3}  {text}" for code, text in MEANINGS.items())]
        ),
        examples=(
            "sark-cache demo",
            "sark-cache doctor --user alice",
            "sark-cache flags set rust_cache 25",
            "sark-cache invalidate --user alice",
        ),
    ),
)
application.add_typer(flags, name="flags")


def _add(
    command: Callable[..., None], paragraphs: tuple[str, ...], examples: tuple[str, ...]
) -> None:
    application.command(cls=Command, help=help_text(*paragraphs, examples=examples))(command)


_add(doctor.doctor, doctor.HELP, doctor.EXAMPLES)
_add(invalidate.invalidate, invalidate.HELP, invalidate.EXAMPLES)
_add(watch.watch_consistency, watch.HELP, watch.EXAMPLES)
_add(demo.demo, demo.HELP, demo.EXAMPLES)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer passes the option's value
    if wanted:
        typer.echo(f"sark-cache {sark_cache.__version__}")
        raise typer.Exit


def _check(wanted: bool) -> None:  # noqa: FBT001 - likewise
    if wanted:
        raise typer.Exit(self_check.check())


@application.callback()
def _all_commands(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            is_eager=True,
            callback=_check,
            help="Test that the compiled module can be loaded, and that a cache stores, serves and "
            "revokes decisions. Works without optional packages.",
        ),
    ] = False,
) -> None:
    """Declares the options that precede the command."""
    del version, check


def run() -> None:
    """Runs the command that the process's arguments name, and ends the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names it cannot encode
    # Commands print the package's warnings themselves.
    logger = logging.getLogger("sark_cache")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    application(prog_name="sark-cache")
