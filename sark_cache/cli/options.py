"""Options that several commands take, and help that teaches by examples."""

from collections.abc import Iterable
from typing import Annotated, TypeAlias

import typer

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


def taught(*paragraphs: str, examples: Iterable[str]) -> str:
    """The help of a command, with examples of its use."""
    shown = "\n".join(["Examples:", *(f"  $ {example}" for example in examples)])
    return "\n\n".join([*paragraphs, shown]).replace("[", r"\[")  # which typer takes for markup
