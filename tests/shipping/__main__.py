"""Builds wheels and an sdist, checks them, and installs them from an index; run by `nox -s wheels`.

`python -m shipping [--no-pgo] [--no-cross] [--out FOLDER] [VERSION...]`
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from shipping import building, index, pythons, trying
from shipping.steps import StepError, fail, say


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s wheels --", description=__doc__)
    parser.add_argument("versions", nargs="*", help="only for these CPythons: 3.12, 3.14t")
    parser.add_argument("--no-pgo", action="store_true", help="without a profile, in half the time")
    parser.add_argument("--no-cross", action="store_true", help="not for the other processor")
    parser.add_argument("--out", type=Path, default=building.ROOT / "dist", metavar="FOLDER")
    return parser.parse_args()


def chosen(versions: list[str]) -> list[pythons.Python]:
    found = {str(python): python for python in pythons.found()}
    say(f"CPythons here: {', '.join(found) or 'none'}")
    missing = [version for version in versions if version not in found]
    if missing or not found:
        fail(f"no CPython {', '.join(missing) or '3.11 or newer'} was found")
    return [found[version] for version in versions or found]


def main() -> None:
    asked = arguments()
    chosen_pythons = chosen(asked.versions)
    shutil.rmtree(asked.out, ignore_errors=True)
    asked.out.mkdir(parents=True)
    how = "without" if asked.no_pgo else "with"
    with tempfile.TemporaryDirectory(prefix="index-") as folder:
        offered, fetched = Path(folder, "index"), Path(folder, "fetched")
        fetched.mkdir()
        source = building.sdist(asked.out)
        index.add(offered, source)
        for python in chosen_pythons:
            say(f"building for CPython {python} {how} a profile: some minutes")
            made = building.wheel(python, asked.out, profile=not asked.no_pgo)
            index.add(offered, made)
            for file in trying.needed(made, python, fetched):
                index.add(offered, file)
        if not asked.no_cross:
            made = building.for_another_processor(chosen_pythons[-1], asked.out)
            if made is not None:
                index.add(offered, made)
        with index.served(offered) as url:
            files = index.listed(url, "sark-cache")
            say(f"the index lists {len(files)} files of sark-cache, as HTML and as JSON")
            for python in chosen_pythons:
                trying.from_wheel(url, python)
            trying.without_rust(url, chosen_pythons[0])
            trying.from_sdist(url, chosen_pythons[0])
    say(f"all of it works; what was built is in {asked.out}")


if __name__ == "__main__":
    try:
        main()
    except StepError as error:
        say(f"FAILED: {error}")
        sys.exit(1)
