"""The options that several commands share, and the format of their help texts."""

from collections.abc import Iterable
from typing import Annotated, Any, TypeAlias

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

AsJSON: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON object, for scripts.")
]

RedisURL: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--redis-url",
        metavar="URL",
        help="The URL of Redis, in place of SARK_CACHE_REDIS_URL. Use the variable if the URL has "
        "a password: other users can read this option in the list of processes.",
    ),
]


class Command(TyperCommand):
    """A command whose help shows no type for options without a value."""

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401 - its type is typer's own
        """Returns the command's arguments and options, including `--help`."""
        return _without_types_of_flags(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands whose help shows no type for options without a value."""

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401 - its type is typer's own
        """Returns the options that precede the group's commands, including `--help`."""
        return _without_types_of_flags(super().get_params(ctx))


def help_text(*paragraphs: str, examples: Iterable[str]) -> str:
    """Returns the help of a command: paragraphs, then examples of its use."""
    shown = "\n".join(["Examples:", *(f"  $ {example}" for example in examples)])
    return "\n\n".join([*paragraphs, shown]).replace("[", r"\[")  # typer reads [ as markup


def _without_types_of_flags(parameters: list[Any]) -> list[Any]:
    """Removes the `<bool>` that the help shows after each flag: a flag takes no value."""
    for parameter in parameters:
        if isinstance(parameter, TyperOption) and parameter.is_flag and parameter.metavar is None:
            parameter.metavar = ""
    return parameters
