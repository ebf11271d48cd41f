"""Values that a context or a decision must not be: no JSON, or too much of it."""

import math
from collections.abc import Mapping


def nested(levels):
    value = None
    for _ in range(levels):
        value = [value]
    return value


def endless():
    value = {}
    value["again"] = value
    return value


def doubled(times):
    value = "x"
    for _ in range(times):
        value = [value, value]
    return value


class Broken(Mapping):
    """A mapping whose methods raise."""

    def __init__(self, error):
        self.error = error

    def __getitem__(self, key):
        raise self.error

    def __iter__(self):
        raise self.error

    def __len__(self):
        return 1


class Endless(Mapping):
    """A mapping that never ends."""

    def __getitem__(self, key):
        return key

    def __iter__(self):
        number = 0
        while True:
            yield str(number)
            number += 1

    def __len__(self):
        return 1


NOT_JSON = {
    "an object": {"x": object()},
    "a set": {"x": {1, 2}},
    "bytes": {"x": b"bytes"},
    "a complex number": {"x": 1j},
    "a nested object": {"x": [{"y": object()}]},
    "a key that is no str": {1: "x"},
    "a nested key that is no str": {"x": {None: 1}},
    "not a number": {"x": math.nan},
    "infinity": {"x": math.inf},
    "a lone surrogate": {"x": "\ud800"},
    "a lone surrogate in a key": {"\ud800": 1},
    "65 levels": {"x": nested(64)},
    "endless nesting": endless(),
    "an endless mapping": Endless(),
    "2**60 strings": {"x": doubled(60)},
    "ten million values": {"x": [None] * 10_000_000},
    "a mapping that raises": Broken(OSError("the disk is gone")),
    "a nested mapping that raises": {"x": Broken(LookupError("no"))},
}
