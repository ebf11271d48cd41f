"""`python -m report --render` writes the tables of the pages; `--check` is the lint."""

import argparse
import sys

from report import contents, saved, tables


def render() -> None:
    """Writes the tables into the pages."""
    report = saved.load()
    for path in tables.PAGES:
        text = path.read_text(encoding="utf-8")
        path.write_text(tables.with_tables(text, report), encoding="utf-8")


def check() -> list[str]:
    """Returns each difference between the pages and the saved report."""
    report = saved.load()
    found = [
        f"{path.relative_to(saved.ROOT)}: {it}"
        for path, names in tables.PAGES.items()
        for it in tables.complaints(path.read_text(encoding="utf-8"), names, report)
    ]
    found.extend(
        f"{name} has no place on the benchmark page: give it one in {contents.__file__}"
        for name in contents.without_place(report)
    )
    return found


def main() -> str | None:
    parser = argparse.ArgumentParser(prog="report", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--render", action="store_true")
    action.add_argument("--check", action="store_true")
    to_render = parser.parse_args().render
    if not saved.REPORT.exists():
        return f"there is no {saved.REPORT}: `nox -s bench -- --report` measures one"
    if to_render:
        render()
    found = check()
    return "\n".join([*found, "`nox -s report` writes the tables again"]) if found else None


if __name__ == "__main__":
    sys.exit(main())
