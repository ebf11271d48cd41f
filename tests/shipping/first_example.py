"""Runs the first Python block of a Markdown file, which is the README's: `first_example.py FILE`.

The block leaves `ask_policy_engine` to who reads it; here it counts how often it is asked.
"""

import asyncio
import re
import sys
from pathlib import Path

ASKED = []


async def ask_policy_engine(*request):
    ASKED.append(request)
    return {"allow": True, "reason": "owner"}


async def main(names):
    authorize, revoke, new_bundle = names["authorize"], names["revoke"], names["new_bundle"]
    for asked in (1, 1):
        assert (await authorize("alice", "read", "doc:1"))["allow"]
        assert len(ASKED) == asked
    await revoke("alice")
    await authorize("alice", "read", "doc:1")
    assert len(ASKED) == 2, "a decision outlived its revocation"
    await new_bundle()
    await authorize("alice", "read", "doc:1")
    assert len(ASKED) == 3, "a decision outlived its bundle"


block = re.search(r"```python\n(.*?)```", Path(sys.argv[1]).read_text(encoding="utf-8"), re.DOTALL)
assert block is not None, "there is no example"
names = {"ask_policy_engine": ask_policy_engine}
exec(block[1], names)  # noqa: S102 - to run it is what this is for
asyncio.run(main(names))
