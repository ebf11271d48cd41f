"""`python -m report --render` makes all that is made from the report; `--check` is the lint."""

import argparse
import sys

from report import page, readme, saved

README = saved.ROOT / "README.md"


def render() -> None:
    """Writes the charts, the page and the README's tables."""
    from report import charts  # needs more than the standard library, which --check does not

    report = saved.load()
    drawn = charts.draw(report)
    html = page.html(report, drawn)
    text = readme.with_tables(README.read_text(encoding="utf-8"), report)
    for old in saved.REPORT.parent.glob("*.svg"):
        old.unlink()
    for chart in drawn:
        (saved.REPORT.parent / chart.file).write_text(chart.svg, encoding="utf-8")
    page.PAGE.write_text(html, encoding="utf-8")
    README.write_text(text, encoding="utf-8")


def check() -> list[str]:
    """What was not made from the report that is saved."""
    report = saved.load()
    found = [f"README.md: {it}" for it in readme.complaints(README.read_text("utf-8"), report)]
    if not page.is_of(report):
        found.append(f"{page.PAGE.name} was not made from this report")
    return found


def main() -> str | None:
    parser = argparse.ArgumentParser(prog="report", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--render", action="store_true")
    what.add_argument("--check", action="store_true")
    to_render = parser.parse_args().render
    if not saved.REPORT.exists():
        return f"there is no {saved.REPORT}: `nox -s bench -- --report` measures one"
    if to_render:
        render()
    found = check()
    return "\n".join([*found, "`nox -s report` makes them anew from the report"]) if found else None


if __name__ == "__main__":
    sys.exit(main())
