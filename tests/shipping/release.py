"""`python tests/shipping/release.py v1.2.3` prints the changelog's section of that version.

It fails if the tag is not Cargo.toml's version, or if the changelog has no dated section of it.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def version(root: Path = ROOT) -> str:
    """Returns the version of Cargo.toml."""
    cargo = tomllib.loads((root / "Cargo.toml").read_text("utf-8"))
    return cargo["workspace"]["package"]["version"]


def notes(tag: str, root: Path = ROOT) -> str:
    """Returns the changelog's section of the version that a tag names.

    Raises:
        ValueError: The tag is of another version, or that one has no section, date or entry.
    """
    wanted = version(root)
    if tag != f"v{wanted}":
        message = f"the tag {tag} is not of Cargo.toml's version, {wanted}"
        raise ValueError(message)
    changelog = (root / "CHANGELOG.md").read_text("utf-8")
    head = rf"^## \[{re.escape(wanted)}\] - \d{{4}}-\d\d-\d\d\n"
    found = re.search(rf"{head}(.*?)(?=^## |^\[|\Z)", changelog, re.DOTALL | re.MULTILINE)
    if not found or not found[1].strip():
        message = f"CHANGELOG.md has nothing under `## [{wanted}] - YYYY-MM-DD`"
        raise ValueError(message)
    return found[1].strip() + "\n"


def main() -> str | None:
    """Runs the command line; returns the error message, if any."""
    try:
        sys.stdout.write(notes(sys.argv[1]))
    except (IndexError, ValueError) as error:
        return str(error) if sys.argv[1:] else __doc__
    return None


if __name__ == "__main__":
    sys.exit(main())
