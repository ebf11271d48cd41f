"""The design page names files, layers and terms as they are in the tree."""

import re
import tomllib

import pytest
from markdown_it import MarkdownIt

from pages import PAGES, ROOT, blocks

PAGE = ROOT / "docs/design.md"
TEXT = PAGE.read_text(encoding="utf-8")
HISTORY = {ROOT / "CHANGELOG.md", ROOT / "docs/changelog.md"}

CRATES = [ROOT / "rust/sark-cache-core/src", ROOT / "rust/sark-cache-python/src"]
SOURCES = {
    path: path.read_text(encoding="utf-8")
    for folder in (ROOT / "sark_cache", *CRATES)
    for path in (*folder.rglob("*.py"), *folder.rglob("*.rs"))
}
OTHER_PAGES = {
    path: path.read_text(encoding="utf-8") for path in PAGES if path != PAGE and path not in HISTORY
}

FOLDERS_WITH_ROOMS = [
    ROOT / "sark_cache",
    ROOT / "sark_cache/backends",
    ROOT / "tests",
    *CRATES,
]


def inline_tokens():
    tokens = MarkdownIt("commonmark").enable("table").parse(TEXT)
    return [child for token in tokens for child in token.children or ()]


def links_to_the_tree():
    """Yields the name and the target of each link that has code as its text and leaves docs/."""
    tokens = inline_tokens()
    for at, token in enumerate(tokens):
        if token.type == "link_open" and token.attrs["href"].startswith("../"):
            yield tokens[at + 1].content, (PAGE.parent / token.attrs["href"]).resolve()


LINKS = [*links_to_the_tree()]
TARGETS = {target for _, target in LINKS}
ROWS = re.findall(
    r"^\| ([a-z ]+) \| .+ \| \[`.+`\]\((.+)\) \|$", TEXT.split("\n## Glossary\n")[1], re.MULTILINE
)
TERMS = {term: (PAGE.parent / home).resolve() for term, home in ROWS}


def modules_in(folder):
    """Returns the names of the folders with sources directly below a folder."""
    return {path for path in folder.iterdir() if any(path.glob("*.py")) or any(path.glob("*.rs"))}


def uses(term, text):
    """Returns whether a text or a name in it has a term, also in the plural or in CamelCase."""
    words = r"[\s_]*(?://[/!]\s*)?".join(term.split())
    stem = rf"{words[:-1]}(?:y|ies)" if words.endswith("y") else rf"{words}(?:s|es)?"
    return re.search(rf"(?<![a-z]){stem}(?![a-z])", text, re.IGNORECASE) is not None


@pytest.mark.parametrize(("name", "target"), LINKS)
def test_a_link_leads_to_the_file_that_it_names(name, target):
    assert target.exists()
    assert f"/{target.relative_to(ROOT).as_posix()}".endswith(f"/{name}")


def test_every_name_of_a_file_is_a_link():
    spans = {token.content for token in inline_tokens() if token.type == "code_inline"}
    files = {
        span for span in spans if re.fullmatch(r"[\w./-]+\.(py|rs|toml)|[\w-]+(/[\w-]+)+", span)
    }
    assert files
    assert files <= {name for name, _ in LINKS}


@pytest.mark.parametrize(
    "folder", FOLDERS_WITH_ROOMS, ids=lambda it: it.relative_to(ROOT).as_posix()
)
def test_every_folder_has_a_link(folder):
    folders = modules_in(folder)
    assert folders
    assert folders <= TARGETS


def test_the_layers_are_those_that_are_checked():
    (figure,) = blocks(PAGE)
    drawn = [re.findall(r"^ +(.+)$", part, re.MULTILINE) for part in figure.text.split("\n\n")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    package = project["tool"]["importlinter"]["contracts"][0]["layers"]
    checked = (ROOT / "rust/sark-cache-core/tests/layers.rs").read_text(encoding="utf-8")
    core, compiled = (
        re.findall(r'"(\w+)"', found)[::-1]
        for found in re.findall(
            r"^const \w+: &\[&str\] = &\[(.+?)\];$", checked, re.DOTALL | re.MULTILINE
        )
    )
    assert drawn == [package, compiled, core]


def test_every_name_in_the_text_is_in_the_code():
    spans = {token.content for token in inline_tokens() if token.type == "code_inline"}
    names = {span.removesuffix("()") for span in spans if re.fullmatch(r"[A-Za-z_]+(\(\))?", span)}
    names -= {name for name, _ in LINKS}
    assert names
    code = "\n".join(SOURCES.values())
    assert not {name for name in names if not re.search(rf"\b{name}\b", code)}


def test_the_glossary_is_in_order():
    assert len(ROWS) == TEXT.split("\n## Glossary\n")[1].count("\n| ") - 1  # the header
    assert [term for term, _ in ROWS] == sorted(TERMS)


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_at_home_in_its_file_and_used_elsewhere(term):
    home = TERMS[term]
    at_home = [text for path, text in SOURCES.items() if path.is_relative_to(home)]
    assert any(uses(term, text) for text in at_home)
    elsewhere = {**SOURCES, **OTHER_PAGES}
    assert any(
        uses(term, text) for path, text in elsewhere.items() if not path.is_relative_to(home)
    )


def test_a_term_is_found_in_names_and_plurals_and_not_in_other_words():
    assert uses("policy", "two policies")
    assert uses("wait graph", "WaitGraph")
    assert uses("wait graph", "wait_graph::reaches")
    assert uses("time to live", "the time to\n    /// live")
    assert not uses("era", "operation")
    assert not uses("hit", "white")
