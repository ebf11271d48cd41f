"""Runs blocks of Python in one namespace, like a user who types them into `python -m asyncio`.

Reads a JSON object from each line, `{"code": …, "file": …, "line": …}`, and answers each with
`{"out": its output, "error": its traceback or null}`. Names that a block defines are available to
the next one; `await` may be used outside of functions.
"""

import ast
import asyncio
import inspect
import io
import json
import sys
import traceback
from contextlib import redirect_stdout
from types import ModuleType


async def nothing():
    """Starts the event loop."""


def main():
    answers = sys.stdout
    typed = sys.modules["__main__"] = ModuleType("__main__")  # the names are defined there
    typed.__file__ = "page.py"
    names = vars(typed)
    with asyncio.Runner() as runner:
        runner.run(nothing())
        for line in sys.stdin:
            block = json.loads(line)
            error = None
            with redirect_stdout(io.StringIO()) as printed:
                try:
                    run(block, names, runner)
                except BaseException:  # noqa: BLE001 - every error is reported
                    error = traceback.format_exc()
            answers.write(json.dumps({"out": printed.getvalue(), "error": error}) + "\n")
            answers.flush()


def run(block, names, runner):
    source = "\n" * block["line"] + block["code"]  # so that a traceback has the page's line numbers
    code = compile(source, block["file"], "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if not code.co_flags & inspect.CO_COROUTINE:
        asyncio.set_event_loop(None)  # a block may call asyncio.run
        exec(code, names)  # noqa: S102 - that is what this is for
        return

    async def awaited():
        await eval(code, names)  # noqa: S307

    runner.run(awaited())


if __name__ == "__main__":
    main()
