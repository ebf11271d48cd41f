"""Tests of the check of docstrings and words."""

import pytest

import prose

PYTHON = '''"""What this module is for."""

LIMIT = 3
"""How many there may be."""


class Cache:
    """The decisions of one process."""

    async def get(self):
        """Returns a decision.

        What follows is not the first sentence.
        """
'''

RUST = """//! Who waits for a load.

/// Removes an entry.
/// Which one is up to the caller.
pub fn remove() {
    // What a comment says is not documentation.
}
"""


@pytest.mark.parametrize(
    "docstring",
    [
        "What is stored, and what becomes of what it supersedes.",
        "`Who` waits.",
        "Whether a key is stored.",
        "One who asks for a decision waits.",
        "When a key expires.",
        "Where the settings\n    come from. Read once, at the start.",
    ],
)
def test_a_clause_is_no_opening(docstring):
    assert prose.opens_with_a_clause(docstring)


@pytest.mark.parametrize(
    "docstring",
    [
        "Returns what is stored.",
        "The invalidation log of one cache.",
        "However long a key is, it is hashed.",
        "When the loader raises, nothing is stored.",
        "",
    ],
)
def test_a_verb_a_noun_or_a_condition_with_its_main_sentence_is_an_opening(docstring):
    assert not prose.opens_with_a_clause(docstring)


def test_docstrings_of_modules_attributes_classes_and_functions_are_read():
    found = prose.docstrings("sample.py", PYTHON)
    assert [line for line, _ in found] == [1, 4, 8, 11]


def test_doc_comments_of_rust_are_read_as_blocks():
    assert prose.docstrings("sample.rs", RUST) == [
        (1, "Who waits for a load."),
        (3, "Removes an entry.\nWhich one is up to the caller."),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def told(error): ...", "told"),
        ("is_under_way = True", "under way"),
        ("# a load that is under\n# way", "under way"),
        ("//! Anew: from the start.", "Anew"),
        ("/// waits by\n    /// itself", "by itself"),
        ("Those who wait get it.", "Those who"),
        ("Everybody who waits gets it.", "who waits"),
        ("# returns how many entries died", "died"),
        ("An entry dies with its user.", "entry dies"),
        ("def test_a_load_in_vain(): ...", "in vain"),
        ("It is stored all the\n/// same.", "all the same"),
        ("It returns what arrives.", "what arrives"),
    ],
)
def test_odd_words_are_found_in_names_and_across_lines(text, words):
    (found,) = prose.odd_words("sample", text)
    assert (found.line, found.words) == (1, words)


@pytest.mark.parametrize(
    "text",
    [
        "A stolen renewal, retold: the manewtold.",
        "A primary that dies is replaced.",
        "It embodied one.",
    ],
)
def test_other_words_and_other_uses_are_not_odd(text):
    assert prose.odd_words("sample", text) == []


def test_findings_are_counted_against_the_bars(monkeypatch):
    monkeypatch.setattr(prose, "MOST_CLAUSES_PERCENT", 30)
    clauses, odd = prose.count({"sample.py": PYTHON, "sample.rs": RUST, "page.md": "told\n" * 3})
    assert [str(finding) for finding in clauses.findings] == [
        "sample.py:1: What this module is for.",
        "sample.py:4: How many there may be.",
        "sample.rs:1: Who waits for a load.",
    ]
    assert clauses.share == 50
    assert [str(finding) for finding in odd.findings] == [
        "sample.rs:1: Who waits",
        "page.md:1: told",
        "page.md:2: told",
        "page.md:3: told",
    ]


@pytest.mark.parametrize(("most", "code"), [(0.0, 1), (100.0, 0)])
def test_a_count_above_its_bar_fails_and_names_the_places(monkeypatch, capsys, most, code):
    monkeypatch.setattr(prose, "tracked_files", lambda: {"sample.py": PYTHON})
    monkeypatch.setattr(prose, "MOST_CLAUSES_PERCENT", most)
    assert prose.main([]) == code
    assert ("sample.py:4: How many there may be." in capsys.readouterr().out) is bool(code)


def test_every_finding_can_be_listed(monkeypatch, capsys):
    monkeypatch.setattr(prose, "tracked_files", lambda: {"sample.py": PYTHON})
    monkeypatch.setattr(prose, "MOST_CLAUSES_PERCENT", 100.0)
    assert prose.main(["--list"]) == 0
    assert "sample.py:1: What this module is for." in capsys.readouterr().out


def test_files_of_the_repository_are_read_but_history_is_not():
    files = prose.tracked_files()
    assert {"README.md", "noxfile.py", "sark_cache/__init__.py"} <= files.keys()
    assert "CHANGELOG.md" not in files
