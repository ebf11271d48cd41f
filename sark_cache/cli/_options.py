"""Options that several commands take, and help that teaches by examples."""

from collections.abc import Iterable
from typing import Annotated, Any, TypeAlias

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

AsJSON: TypeAlias = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout, for scripts.")
]

RedisURL: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--redis-url",
        metavar="URL",
        help="The server, instead of the one that SARK_CACHE_REDIS_URL names. A password is safer "
        "in that variable: what is given here, others can read in the list of processes.",
    ),
]


class Command(TyperCommand):
    """A command whose help shows no type for options without a value."""

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401 - its type is typer's own
        """Returns its arguments and options, `--help` among them."""
        return _without_types_of_flags(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands whose help shows no type for options without a value."""

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401 - its type is typer's own
        """Returns the options that stand before its commands, `--help` among them."""
        return _without_types_of_flags(super().get_params(ctx))


def taught(*paragraphs: str, examples: Iterable[str]) -> str:
    """The help of a command, with examples of its use."""
    shown = "\n".join(["Examples:", *(f"  $ {example}" for example in examples)])
    return "\n\n".join([*paragraphs, shown]).replace("[", r"\[")  # which typer takes for markup


def _without_types_of_flags(parameters: list[Any]) -> list[Any]:
    """Gives each flag an empty name for its value, instead of `<bool>`, which it does not take."""
    for parameter in parameters:
        if isinstance(parameter, TyperOption) and parameter.is_flag and parameter.metavar is None:
            parameter.metavar = ""
    return parameters
