"""The policy engine of a run: one version per user, in a file that all processes map."""

import mmap
from pathlib import Path

BYTES = 8


class VersionedEngine:
    """The versions of all users.

    Each user has one writer, so a version grows by one each time and never comes back. A version is
    one aligned machine word, so a reader never sees half of a write.
    """

    def __init__(self, path):
        with Path(path).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._versions = memoryview(self._map).cast("Q")

    @staticmethod
    def create(path, users):
        """Creates the file, with version 0 for each user."""
        Path(path).write_bytes(bytes(BYTES * users))

    def version(self, user):
        """Returns the present version of a user."""
        return self._versions[user]

    def raise_version(self, user):
        """Makes every decision about a user out of date, and returns the new version."""
        self._versions[user] += 1
        return self._versions[user]
