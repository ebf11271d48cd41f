"""Every block of code on the pages works, run in order like a reader would."""

import ast
import re
import tomllib
from codeop import CommandCompiler

import pytest

from pages import PAGES, ROOT, Reader, blocks
from sark_cache.settings import SETTINGS, variables_of

BLOCKS = [block for page in PAGES for block in blocks(page)]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """A reader for each page, which continues where its last block ended."""
    found = {}

    def reader_of(page):
        if page not in found:
            found[page] = Reader(page, tmp_path_factory.mktemp(page.stem))
        return found[page]

    yield reader_of
    for reader in found.values():
        reader.close()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_a_block_works(block, readers):
    readers(block.page).follow(block)


TYPED = [
    block
    for block in BLOCKS
    if block.language == "python"
    and block.title is None
    and "python -m asyncio" in TEXTS[block.page]
]


@pytest.mark.parametrize("block", TYPED, ids=lambda block: block.name)
def test_a_block_can_be_pasted_where_the_page_says(block):
    """A prompt ends a compound statement at an empty line, and nowhere else."""
    compiled = CommandCompiler()
    compiled.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    typed = []
    for line in [*block.text.splitlines(), ""]:
        typed.append(line)
        if compiled("\n".join(typed), block.name) is not None:
            typed = []
    assert typed == []


def test_every_file_that_a_page_writes_is_used():
    for block in BLOCKS:
        if block.title and block.language == "python":
            module = re.escape(block.title.removesuffix(".py"))
            used = re.compile(
                rf"(python {module}\.py|from {module} import|(uvicorn|gunicorn) .*\b{module}:)"
            )
            later = [one for one in BLOCKS if one.page == block.page and one.line > block.line]
            assert any(used.search(one.text) for one in later), block.name


def test_extras_that_pages_install_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {
        extra
        for text in TEXTS.values()
        for extras in re.findall(r"install '?(?:sark-cache|\.)\[([\w,]+)\]", text)
        for extra in extras.split(",")
    }
    assert named
    assert named <= project["optional-dependencies"].keys()


def test_nox_sessions_that_pages_name_exist():
    there = set(
        re.findall(r"^@nox\.session.*\ndef (\w+)", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    )
    for page, text in TEXTS.items():
        named = set(re.findall(r"nox -s (\w+)", text))
        assert named <= there, page


def test_variables_that_pages_name_are_settings():
    there = {variable for setting in SETTINGS for variable in variables_of(setting)}
    for page, text in TEXTS.items():
        named = set(re.findall(r"\bSARK_CACHE_[A-Z_]*[A-Z]\b", text))
        of_tests = {name for name in named if name.startswith("SARK_CACHE_TEST_")}
        assert named - of_tests <= there, page
