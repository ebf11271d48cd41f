"""The description of a feature that does not exist, with the features that do."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

MOST_NAMED: Final = 10
"""The maximum number of features that the message names."""


@dataclass(frozen=True, slots=True)
class UnknownFeature:
    """A name that is not a feature of this package and was never set."""

    feature: str
    known: list[str]

    @property
    def near(self) -> str | None:
        """The known name that is most similar, ignoring case. None: no name is similar."""
        by_lower_case = {name.casefold(): name for name in self.known}
        near = get_close_matches(self.feature.casefold(), by_lower_case, n=1)
        return by_lower_case[near[0]] if near else None

    @property
    def message(self) -> str:
        """The text of the error."""
        named = ", ".join(self.known[:MOST_NAMED]) + (", ..." if self.known[MOST_NAMED:] else "")
        near = self.near
        suggested = f" Did you mean {near}?" if near is not None else ""
        return f"no feature is called {self.feature}.{suggested} There are: {named}."
