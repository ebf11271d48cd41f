"""The subjects of a benchmark: the kind of each, the order of the rows, and their labels.

The order is the same in every chart and table: the baseline, then sark-cache, then the rest.
"""

import re
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of subject: the names that belong to it, and how its rows are shown."""

    name: str
    pattern: str
    caption: str
    ending: str = ""
    """The end of a name that the caption already says."""


KINDS = (
    Kind("baseline", r"(baseline|for comparison|upper bound): |no authorization\b", ""),
    Kind("ours", r"(RustPolicyCache|AsyncCache|PolicyCache|cached:|heartbeat)", "sark-cache"),
    Kind("tuned", r".+, tuned\b", "other caches, tuned", ", tuned"),
    Kind(
        "documented",
        r".+(, as documented|, deep copies|'s? decorator)",
        "other caches, as documented",
        ", as documented",
    ),
    Kind("bare", r".+, bare look-up", "other caches, the look-up alone", ", bare look-up"),
    Kind("other", r".+", "without sark-cache"),
)

SHADES = {r"get_decision|, lru": 2, r"AsyncCache|heartbeat": 3, r"^PolicyCache": 4}
"""The shade of a subject of sark-cache, by a part of its name; of any other it is 1."""


def kind_of(subject: str) -> Kind:
    """Returns the kind that a subject belongs to."""
    return next(kind for kind in KINDS if re.match(kind.pattern, subject))


def ordered(subjects: dict) -> dict:
    """Returns the subjects kind by kind; those of one kind stay in the order of the report."""
    return dict(sorted(subjects.items(), key=lambda item: KINDS.index(kind_of(item[0]))))


def style_of(subject: str) -> str:
    """Returns the CSS class that gives a subject its colour."""
    kind = kind_of(subject).name
    if kind != "ours":
        return kind
    shades = (shade for part, shade in SHADES.items() if re.search(part, subject))
    return f"ours-{next(shades, 1)}"


def short(subject: str) -> str:
    """Returns the label of a row that stands under the caption of its kind."""
    return subject.removesuffix(kind_of(subject).ending)
