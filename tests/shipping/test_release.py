"""A tag publishes the version that it names, with that version's section of the changelog."""

import pytest

from shipping.release import notes, version

CARGO = '[workspace.package]\nversion = "1.2.0"\n'
CHANGELOG = """# Changelog

## [Unreleased]

- Later.

## [1.2.0] - 2026-01-31

### Added

- This.

## [1.1.0] - 2026-01-01

- Before.
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "Cargo.toml").write_text(CARGO, "utf-8")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG, "utf-8")
    return tmp_path


def test_a_release_has_the_text_of_the_changelog(root):
    assert notes("v1.2.0", root) == "### Added\n\n- This.\n"


@pytest.mark.parametrize("tag", ["v1.1.0", "1.2.0", "v1.2.0rc1"])
def test_a_tag_of_another_version_is_refused(root, tag):
    with pytest.raises(ValueError, match=r"not of Cargo\.toml's version, 1\.2\.0"):
        notes(tag, root)


@pytest.mark.parametrize("head", ["## [1.2.0]", "## 1.2.0 - 2026-01-31", "## [1.2.0] - soon"])
def test_a_version_without_a_dated_section_is_refused(root, head):
    changelog = CHANGELOG.replace("## [1.2.0] - 2026-01-31", head)
    (root / "CHANGELOG.md").write_text(changelog, "utf-8")
    with pytest.raises(ValueError, match=r"nothing under `## \[1\.2\.0\] - YYYY-MM-DD`"):
        notes("v1.2.0", root)


def test_our_own_version_is_found():
    assert len(version().split(".")) == 3
