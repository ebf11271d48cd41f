"""The blocks of code on a page, and a reader that follows the page from top to bottom.

The first line of a block determines its use:

| | |
|---|---|
| `python title="app.py"` | is written to a file of that name, which a later block runs |
| `python` | is typed into one interpreter for the whole page, with `await` |
| `sh` | is typed into one shell for the whole page; a server runs until the next one starts |
| `text title="Output"` | is the output of the block before it; `…` stands for any text |
| `json`, `toml`, `yaml` | is parsed, and written to a file if it has a title |
| `diff` | its added lines are typed into the interpreter |
| `mermaid` | is a diagram, which the build of the site draws |

Every page has its own directory, shell and interpreter. `localhost:6379` is replaced by the address
of a Redis server that is started for the page, and `:8000` by a free port.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

from commands import environment
from servers import HOST, Server, free_port

ROOT = Path(__file__).parents[2]
CONSOLE = Path(__file__).with_name("console.py")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PATIENCE = 60.0
"""The maximum number of seconds that a block may take."""

TITLE = re.compile(r'title="([^"]+)"')
SERVER = re.compile(r"(uvicorn|gunicorn) ")
RUN_ELSEWHERE = {
    r"(python3? -m )?pip install( -U)? '?sark-cache.*": "`nox -s wheels` installs from an index",
    r"(python3? -m )?pip install .*": "the tests use the packages that are installed here",
    r"python3? -m venv .*": "an environment exists already",
    r"\. .*/bin/activate": "an environment exists already",
    r"python3 -m pip install nox.*": "nox runs these blocks; .ci/run runs the README's command",
    r"((python3 -m )?nox|prek|pre-commit)( .*)?": "each is a check of its own",
    r"cargo .*": "`nox -s rust` and other sessions run it",
    r"git clone .*": "this tree is the one under test",
    r"rustup .*": "it changes the toolchain of the user",
    r"sid=.*|debootstrap .*|(mkdir|for|mount|cp|chroot) .*\$sid.*": "it needs root, and takes long",
    r"(valkey|redis)-server": "one is started for each page that needs it",
}
"""Commands that are not run with the others, each with the reason."""


@dataclass(frozen=True)
class Block:
    """A block of code: its position, its text, and its output if the page shows it."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str
    output: str | None

    @property
    def name(self):
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks(page):
    """Yields the blocks of a page; blocks of output belong to the block that printed them."""
    found = []
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        assert token.type != "code_block" or "```" not in token.content, (
            f"{page.name}: a block is indented, and so is none for a test: {token.content}"
        )
        if token.type != "fence":
            continue
        language, _, more = token.info.partition(" ")
        title = TITLE.search(more)
        block = Block(
            page, token.map[0] + 1, language, title and title[1], token.content, output=None
        )
        if language == "text" and block.title == "Output":
            assert found, f"{block.name}: the output of what?"
            assert found[-1].output is None, f"{block.name}: two outputs of one block"
            found[-1] = Block(*[*vars(found[-1]).values()][:-1], output=block.text)
        else:
            found.append(block)
    return found


def is_run_elsewhere(command):
    return any(re.fullmatch(pattern, command) for pattern in RUN_ELSEWHERE)


class Reader:
    """Follows a page: runs its blocks in order, each of them once."""

    def __init__(self, page, directory):
        self._left = blocks(page)
        self._directory = directory
        self._ends = ExitStack()
        self._served = ExitStack()
        self._console = None
        self._failed = None
        self._environment = environment(
            PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            UVICORN_PORT=str(free_port()),
            PYTHONUNBUFFERED="1",
            COLUMNS="100",
        )
        self._written = {"localhost:8000": f"{HOST}:{self._environment['UVICORN_PORT']}"}
        self._written["127.0.0.1:8000"] = self._written["localhost:8000"]
        if any("localhost:6379" in block.text for block in self._left):
            server = self._ends.enter_context(Server())
            self._written["localhost:6379"] = f"{HOST}:{server.port}"

    def follow(self, block):
        """Runs a block, after all earlier blocks that have not been run."""
        assert self._failed is None, f"the page went wrong at {self._failed}"
        while block in self._left:
            next_one = self._left.pop(0)
            self._failed = next_one.name
            self._run(next_one)
            self._failed = None

    def close(self):
        self._served.close()
        if self._console:
            self._console.stdin.close()
            self._console.wait(PATIENCE)
            self._console.stdout.close()
        self._ends.close()

    def _run(self, block):
        run = getattr(self, f"_{block.language or 'unnamed'}", None)
        assert run, f"{block.name}: nothing here runs a block of {block.language!r}"
        printed = run(block)
        if block.output is not None:
            assert printed is not None, f"{block.name}: it prints nothing"
            said = self._as_written(printed).strip()
            assert re.fullmatch(_pattern(block.output), said), (
                f"{block.name} should print\n{block.output}\nand printed\n{said}"
            )

    # The kinds of blocks

    def _python(self, block):
        if block.title:
            compile(block.text, block.title, "exec")
            return self._write(block)
        return self._type(self._here(block.text), block)

    def _diff(self, block):
        added = [line[1:].strip() for line in block.text.splitlines() if line.startswith("+")]
        return self._type("\n".join(added), block)

    def _sh(self, block):
        commands = [line for line in _commands(block.text) if not is_run_elsewhere(line)]
        servers = [line for line in commands if SERVER.match(line)]
        assert servers in ([], commands[-1:]), f"{block.name}: after a server nothing is typed"
        printed = self._shell(self._here("\n".join(commands[: -1 if servers else None])))
        if servers:
            self._serve(self._here(servers[0]))
        return printed

    def _json(self, block):
        json.loads(block.text)
        return self._write(block)

    def _toml(self, block):
        tomllib.loads(block.text)
        return self._write(block)

    def _yaml(self, block):
        assert yaml.safe_load(block.text)
        return self._write(block)

    def _mermaid(self, block):
        assert block.text.startswith("sequenceDiagram")

    def _text(self, block):
        """Does nothing: the block is no code."""

    # Files, interpreter, shell and server

    def _write(self, block):
        if block.title:
            path = self._directory / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._here(block.text), encoding="utf-8")

    def _type(self, code, block):
        if self._console is None:
            self._console = subprocess.Popen(
                [sys.executable, "-X", "dev", str(CONSOLE)],
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
            )
        typed = {"code": code, "file": str(block.page), "line": block.line}
        self._console.stdin.write(json.dumps(typed) + "\n")
        self._console.stdin.flush()
        answer = json.loads(self._console.stdout.readline())
        assert answer["error"] is None, f"{block.name}\n{answer['error']}"
        return answer["out"]

    def _shell(self, script):
        """Runs commands; exported variables and the directory are kept for the next ones."""
        after = self._directory / ".after"
        ended = subprocess.run(
            ["bash", "-euc", f"{script}\nenv -0 > {shlex.quote(str(after))}"],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=False,
        )
        assert ended.returncode == 0, f"{script}\n{ended.stdout}\n{ended.stderr}"
        variables = after.read_text(encoding="utf-8").split("\0")
        self._environment = dict(pair.split("=", 1) for pair in variables if pair)
        return ended.stdout

    def _serve(self, command):
        self._served.close()  # the next server replaces the one before
        log = self._served.enter_context((self._directory / ".log").open("w+b"))
        port = int(self._environment["UVICORN_PORT"])
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._served.callback(_end, process)
        deadline = time.monotonic() + PATIENCE
        while not _accepts(port):
            said = (self._directory / ".log").read_text(encoding="utf-8")
            assert process.poll() is None, f"{command} has ended:\n{said}"
            assert time.monotonic() < deadline, f"{command} takes too long:\n{said}"
            time.sleep(0.05)

    # Addresses on the page, and their replacements

    def _here(self, text):
        for written, ours in self._written.items():
            text = text.replace(written, ours)
        return text

    def _as_written(self, text):
        for written, ours in reversed(self._written.items()):
            text = text.replace(ours, written)
        return text


def _commands(text):
    """Returns the commands of a block; continuation lines belong to their command."""
    text = re.sub(r"  +# .*$", "", text, flags=re.MULTILINE).replace("\\\n", "")
    return [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]


def _pattern(output):
    return r"[\s\S]*?".join(map(re.escape, output.strip().split("…")))


def _accepts(port):
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _end(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
