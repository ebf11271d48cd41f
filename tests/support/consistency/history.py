"""The logs of a run: each answer and each attempt of a revocation, with the times of both."""

import json
import os
import struct
from pathlib import Path
from typing import NamedTuple

EVALUATED, FAILED = 1, 2
"""Flags of an answer."""


class Answer(NamedTuple):
    """One request and its answer.

    Attributes:
        began: The time just before the cache was asked.
        answered: The time just after it had answered.
        user: The number of the user.
        version: The version of the user in the decision.
        flags: `EVALUATED`: the request ran its own evaluation. `FAILED`: it raised an error.
    """

    began: float
    answered: float
    user: int
    version: int
    flags: int


class Revocation(NamedTuple):
    """One attempt to revoke all decisions about a user that are older than a version.

    Attributes:
        member: The number of the member that revoked.
        user: The number of the user.
        version: The version that the user has since `changed`.
        way: The method and its argument, for readers of a history.
        changed: The time just before the version was raised.
        called: The time just before the method was called.
        returned: The time just after it had returned or raised.
        error: "", or the error that it raised.
        allowed_seconds: The seconds after `returned` in which older decisions may be served.
    """

    member: int
    user: int
    version: int
    way: str
    changed: float
    called: float
    returned: float
    error: str
    allowed_seconds: float


class Phase(NamedTuple):
    """A fault, from its begin to its end.

    Attributes:
        name: The name of its class.
        began: The time at which it began.
        healed: The time since which all is well again.
    """

    name: str
    began: float
    healed: float


_ANSWER = struct.Struct("<ddIIB")


class AnswerLog:
    """The answers of this process. A forked child needs a log of its own."""

    def __init__(self, directory, member):
        self._file = (Path(directory) / f"answers-{member}-{os.getpid()}").open("wb")

    def add(self, *answer):
        """Adds the fields of an `Answer`."""
        self._file.write(_ANSWER.pack(*answer))

    def flush(self):
        """Writes the buffer, as needed before a fork: the child would write it again."""
        self._file.flush()

    def close(self):
        """Writes and closes the file."""
        self._file.close()


class RevocationLog:
    """The revocations of one member."""

    def __init__(self, directory, member):
        self._file = (Path(directory) / f"revocations-{member}").open("w", encoding="utf-8")

    def add(self, revocation):
        """Adds a `Revocation`."""
        self._file.write(json.dumps(revocation) + "\n")

    def close(self):
        """Writes and closes the file."""
        self._file.close()


class History:
    """The logs of all members in a directory.

    Attributes:
        revocations: All attempts, in the order of their calls.
    """

    def __init__(self, directory):
        self._directory = Path(directory)
        self.revocations = sorted(
            (
                Revocation(*json.loads(line))
                for path in self._directory.glob("revocations-*")
                for line in path.read_text(encoding="utf-8").splitlines()
            ),
            key=lambda revocation: revocation.called,
        )

    def answers(self):
        """Yields each answer, with the name of the process that gave it."""
        for path in sorted(self._directory.glob("answers-*")):
            _, member, pid = path.name.split("-")
            for fields in _ANSWER.iter_unpack(path.read_bytes()):
                yield f"member {member}, pid {pid}", Answer(*fields)
