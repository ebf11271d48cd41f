"""The memory of cached decisions: resident bytes, collection times, growth while they come and go.

Each subject is measured in its own process, one after another, as `residency.py` describes.
"""

import json
import os
import subprocess
import sys

import pytest

import residency
from field import FIELD

OURS = "RustPolicyCache.get()"
NAMES = {
    OURS: "RustPolicyCache",
    "RustPolicyCache.get_decision()": "RustPolicyCache, each handed out by get_decision()",
    "AsyncCache.get()": "AsyncCache",
}
"""Names of the caches of this package here, where entries are measured and not calls."""
OPERATIONS = 10_000_000
MANY = 1_000_000
LONG = {
    "cashews, as documented": "a million entries take it more than a minute",
    "aiocache, as documented": "a million entries take it more than a minute",
}
"""Subjects that are measured with 300,000 entries only, with the reasons."""

pytestmark = [
    pytest.mark.benchmark(group="memory"),
    pytest.mark.skipif(
        not residency.ROLLUP.exists(), reason="only Linux says exactly how much is resident"
    ),
]


def alone(what, subject, count):
    """Returns the result of `residency` in another process."""
    ended = subprocess.run(
        [sys.executable, residency.__file__, what, subject, str(count)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
        encoding="utf-8",
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("entries", [300_000, MANY])
def test_bytes_per_entry(benchmark, keep, entries):
    """Resident bytes per entry and a collection, decisions of 145 bytes of JSON, keys of 60."""
    subjects = [name for name in FIELD if entries < MANY or name not in LONG]
    results = {}

    def measure():
        for name in subjects:
            results[NAMES.get(name, name)] = alone("fill", name, entries)

    benchmark.pedantic(measure)
    keep(results)


@pytest.mark.parametrize("subject", LONG)
def test_bytes_per_entry_of_a_million(subject):
    pytest.skip(LONG[subject])


def test_churn(benchmark, keep):
    """Growth of the resident size in 10,000,000 operations on a full cache, after a tenth."""
    results = {}

    def measure():
        results[NAMES[OURS]] = alone("churn", OURS, OPERATIONS)

    benchmark.pedantic(measure)
    assert results[NAMES[OURS]]["operations"] >= OPERATIONS
    keep(results)
