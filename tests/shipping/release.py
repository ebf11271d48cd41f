"""`python tests/shipping/release.py v1.2.3` prints what the changelog says of that version.

It fails if the tag is not Cargo.toml's version, or if the changelog has no dated section of it.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def version(root: Path = ROOT) -> str:
    """The version, where it is written."""
    cargo = tomllib.loads((root / "Cargo.toml").read_text("utf-8"))
    return cargo["workspace"]["package"]["version"]


def notes(tag: str, root: Path = ROOT) -> str:
    """The changelog's section of the version that a tag names.

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
    """The command line: what went wrong, if something did."""
    try:
        sys.stdout.write(notes(sys.argv[1]))
    except (IndexError, ValueError) as error:
        return str(error) if sys.argv[1:] else __doc__
    return None


if __name__ == "__main__":
    sys.exit(main())
