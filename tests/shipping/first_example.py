"""Runs the first Python block of a Markdown file and compares its output with the page.

`first_example.py FILE`: the expected output is the first block with the title "Output".
"""

import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

page = Path(sys.argv[1]).read_text(encoding="utf-8")
program = re.search(r"```python[^\n]*\n(.*?)```", page, re.DOTALL)
output = re.search(r'```text title="Output"\n(.*?)```', page, re.DOTALL)
assert program is not None, "there is no example"
assert output is not None, "the page does not say what the example prints"

printed = io.StringIO()
with redirect_stdout(printed):
    exec(program[1], {"__name__": "__main__"})  # noqa: S102 - running it is the purpose
assert printed.getvalue() == output[1], printed.getvalue()
