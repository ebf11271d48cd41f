"""Checks the English of docstrings, Rust doc comments and pages: `python tests/house/prose.py`.

Two habits make sentences hard to read: a first sentence that is a clause ("What is stored…",
"Whether…") instead of one that begins with a verb or a noun, and words that a reader whose English
is so-so has to look up. The script counts both, prints the worst files, and exits with 1 if a count
is above its bar. `--list` prints every finding.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_CLAUSES_PERCENT = 3.0
"""The largest percentage of docstrings that may open with a clause."""

MOST_ODD_WORDS = 0.0
"""The largest number of odd words per 1,000 lines."""

ODD_WORDS = (
    *("told", "anew", "meanwhile", "whoever", "whomever", "under way", "to be had"),
    *("(?:go|goes|going|went|gone) before", "let(?:s|ting)? go"),
    *("by (?:itself|themselves)", "of (?:theirs|ours)"),
    *("one who", "those who", "that which", "(?:what|who) is no", "who (?:asks?|waits?)"),
    *("died", "(?:entry|entries|decisions?|values?) dies?", "in vain", "at will", "all the same"),
    *("to do what", "what else the decision", "if that is meant", "what (?:comes|arrives|stands)"),
)
"""Regular expressions of words and phrases that have a plainer equal.

A space also matches `_` and the end of a comment's line.
"""

CLAUSES = (
    *("what", "whatever", "whether", "how", "why", "that"),
    *("who", "whoever", "whom", "whose", "which", "whichever"),
    *("those", "one (?:who|that|which)", "if that"),
)
"""Openings that make the whole first sentence a clause."""

CONDITIONS = ("where", "when", "if", "as")
"""Openings that need a comma and a main sentence: "When the loader raises, nothing is stored."."""

ROOT = Path(__file__).parents[2]
SUFFIXES = ("*.py", "*.pyi", "*.rs", "*.md", "*.toml", "*.yml", "*.yaml")
EXCLUDED = ("CHANGELOG.md", "docs/benchmarks/", "tests/house/")
"""History, generated pages, and the samples of this check."""

FILES_SHOWN = 10


@dataclass(frozen=True)
class Finding:
    """A place where a reader would stumble."""

    path: str
    line: int
    words: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.words}"


@dataclass
class Count:
    """The findings of one kind in all files."""

    kind: str
    findings: list[Finding]
    share: float
    most: float
    unit: str

    def __str__(self) -> str:
        return (
            f"{self.kind}: {len(self.findings)}, {self.share:.2f} {self.unit}; "
            f"allowed: {self.most:g} {self.unit}"
        )


def opens_with_a_clause(docstring: str) -> bool:
    """Returns whether the first sentence of a docstring is a clause without a main sentence."""
    sentence = first_sentence(docstring)
    if _any_of(CONDITIONS).match(sentence):
        return "," not in sentence
    return _any_of(CLAUSES).match(sentence) is not None


def first_sentence(docstring: str) -> str:
    """Returns the first sentence of a docstring, on one line, without leading punctuation."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split()).lstrip("`*_#>([…\"' ")
    return re.split(r"(?<=[.!?])\s", paragraph, maxsplit=1)[0]


def docstrings(path: str, source: str) -> list[tuple[int, str]]:
    """Returns the line and text of every docstring, or Rust doc comment, of a file."""
    if path.endswith((".py", ".pyi")):
        return list(_python_docstrings(source))
    return list(_rust_docs(source)) if path.endswith(".rs") else []


def odd_words(path: str, source: str) -> list[Finding]:
    """Returns every odd word of a file: in text, in comments and within names."""
    return [
        Finding(path, source.count("\n", 0, found.start()) + 1, _on_one_line(found[0]))
        for found in _any_of(ODD_WORDS).finditer(source)
    ]


def count(sources: dict[str, str]) -> list[Count]:
    """Counts both kinds in files, given by path."""
    found = [(path, *it) for path, source in sources.items() for it in docstrings(path, source)]
    clauses = [
        Finding(path, line, " ".join(text.split()[:8]))
        for path, line, text in found
        if opens_with_a_clause(text)
    ]
    odd = [it for path, source in sources.items() for it in odd_words(path, source)]
    lines = sum(source.count("\n") for source in sources.values())
    percent = 100 * len(clauses) / max(len(found), 1)
    per_thousand = 1000 * len(odd) / max(lines, 1)
    return [
        Count("clause openings", clauses, percent, MOST_CLAUSES_PERCENT, "% of docstrings"),
        Count("odd words", odd, per_thousand, MOST_ODD_WORDS, "per 1,000 lines"),
    ]


def tracked_files() -> dict[str, str]:
    """Returns the text of every file that is checked, as git knows them, by path."""
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *SUFFIXES)
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    return {
        path: (ROOT / path).read_text("utf-8")
        for path in listed.stdout.splitlines()
        if not path.startswith(EXCLUDED) and (ROOT / path).is_file()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the counts and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true", help="print every finding")
    parser.add_argument("paths", nargs="*", help="count only in files below these paths")
    options = parser.parse_args(arguments)
    below = tuple(options.paths) or ("",)
    counts = count({path: text for path, text in tracked_files().items() if path.startswith(below)})
    for each in counts:
        _show(str(each))
        for finding in each.findings if options.list else _in_the_worst_files(each):
            _show(f"  {finding}")
    return int(any(each.share > each.most for each in counts))


def _show(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _in_the_worst_files(each: Count) -> list[Finding]:
    """Returns nothing within the bar, else the findings in the files that have most of them."""
    if each.share <= each.most:
        return []
    files = Counter(finding.path for finding in each.findings).most_common(FILES_SHOWN)
    return [it for path, _ in files for it in each.findings if it.path == path]


def _python_docstrings(source: str) -> Iterator[tuple[int, str]]:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(source)):
        for statement in node.body if isinstance(node, documented) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield statement.lineno, text


def _rust_docs(source: str) -> Iterator[tuple[int, str]]:
    block: list[str] = []
    mark = ""
    for number, line in enumerate([*source.splitlines(), ""], 1):
        doc = re.match(r"\s*(///|//!)(?!/) ?(.*)", line)
        if block and (doc is None or doc[1] != mark):
            yield number - len(block), "\n".join(block)
            block = []
        if doc:
            mark = doc[1]
            block.append(doc[2])


def _any_of(phrases: Sequence[str]) -> re.Pattern[str]:
    """Matches any of the phrases, also in `snake_case` and across lines of one comment."""
    gap = r"(?:[\s_]+(?:(?:\#|//[/!]?)\s*)?)"
    either = "|".join(phrase.replace(" ", gap) for phrase in phrases)
    return re.compile(rf"(?<![a-z])(?:{either})(?![a-z])", re.IGNORECASE)


def _on_one_line(words: str) -> str:
    return " ".join(re.sub(r"[\s_#/!]+", " ", words).split())


if __name__ == "__main__":
    sys.exit(main())
