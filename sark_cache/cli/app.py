"""The commands put together, and what they have in common."""

import logging
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated, Final

import typer

from sark_cache.cli import invalidate
from sark_cache.cli import self_check as checking
from sark_cache.cli._exit import MEANINGS
from sark_cache.cli._options import Command, Group, taught
from sark_cache.cli.demo import command as demo
from sark_cache.cli.doctor import command as doctor
from sark_cache.cli.doctor.environment import own_version
from sark_cache.cli.flags.command import flags

application: Final = typer.Typer(
    cls=Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=taught(
        "Authorization decisions, cached and never served once revoked: the tools around it.",
        "Settings come from the environment, as those of a service do: SARK_CACHE_REDIS_URL and "
        "others, which doctor shows.",
        "\n".join(
            ["Exit codes:", *(f"  {code.value:3}  {said}" for code, said in MEANINGS.items())]
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
    command: Callable[..., None], help_text: tuple[str, ...], examples: tuple[str, ...]
) -> None:
    application.command(cls=Command, help=taught(*help_text, examples=examples))(command)


_add(doctor.doctor, doctor.HELP, doctor.EXAMPLES)
_add(invalidate.invalidate, invalidate.HELP, invalidate.EXAMPLES)
_add(demo.demo, demo.HELP, demo.EXAMPLES)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer gives the option's value
    if wanted:
        typer.echo(f"sark-cache {own_version()}")
        raise typer.Exit


def _check(wanted: bool) -> None:  # noqa: FBT001 - likewise
    if wanted:
        raise typer.Exit(checking.check())


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
            help="Test the installation: the compiled module, and the promises of a cache. Needs "
            "no extra.",
        ),
    ] = False,
) -> None:
    """What stands before the command."""
    del version, check


def run() -> None:
    """Runs the command that the arguments of this process name, and ends the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what it cannot encode, it shows so
    # What the package would log, commands say themselves.
    logger = logging.getLogger("sark_cache")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    application(prog_name="sark-cache")
