"""The command `sark-cache`: its options, output and exit codes, and its demo."""

import importlib.metadata
import os
import shutil
import signal
import socket
import sys
import sysconfig
import venv
from dataclasses import replace
from pathlib import Path

import pytest

import sark_cache as package
from commands import COMMAND, URL, Terminal, in_process, sark_cache, started
from sark_cache.cli import main
from sark_cache.cli._output import duration
from sark_cache.cli.demo import scenario as showing

PACKAGE = Path(package.__file__).parent

COMMANDS = [
    *("doctor", "flags", "flags list", "flags get", "flags set", "flags rollback", "flags remove"),
    *("invalidate", "demo"),
]

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and terminals")


@pytest.fixture
def without(tmp_path):
    """Makes a command for an environment with all packages of this one except some."""

    def make(*packages):
        venv.create(tmp_path, symlinks=True)
        base = {"base": str(tmp_path), "platbase": str(tmp_path)}
        to = Path(sysconfig.get_path("purelib", "venv", base))
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if not entry.name.startswith(packages):
                (to / entry.name).symlink_to(entry)
        return (str(tmp_path / "bin" / "python"), *COMMAND[1:])

    return make


@pytest.fixture
def without_compiled(tmp_path):
    """A command for a package without its compiled module."""
    compiled = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    copy = shutil.copy if sys.platform == "win32" else os.symlink
    shutil.copytree(PACKAGE, tmp_path / "sark_cache", ignore=compiled, copy_function=copy)
    return {"PYTHONPATH": str(tmp_path)}


def fact(out, name):
    """Returns the value of a fact in the output."""
    [line] = [line for line in out.splitlines() if line.startswith(f"  {name}  ")]
    return line.removeprefix(f"  {name}  ").strip()


# Help and usage


def test_version_is_that_of_the_package():
    ended = sark_cache("--version")
    assert ended.out == f"sark-cache {importlib.metadata.version('sark-cache')}\n"
    assert (ended.code, ended.err) == (0, "")


def test_help_names_each_command_and_each_exit_code():
    ended = sark_cache("--help")
    assert ended.code == 0
    for command in ("doctor", "flags", "invalidate", "demo"):
        assert f" {command} " in ended.out
    for code in (0, 1, 2, 3, 4, 5, 130):
        assert f" {code}  " in ended.out


def test_check_tries_the_package_and_help_says_so():
    assert "--check" in sark_cache("--help").out
    ended, again = sark_cache("--check"), in_process("--check")
    assert (ended.code, ended.err, ended.out) == (0, "", again.out)
    assert "revokes by user and by tag" in ended.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example(command):
    ended = sark_cache(*command.split(), "--help")
    assert (ended.code, ended.err) == (0, "")
    assert f"$ sark-cache {command}" in ended.out
    assert "\\[" not in ended.out


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_options_without_a_value_show_none(command):
    ended = sark_cache(*command.split(), "--help")
    assert ended.code == 0
    assert "--help" in ended.out
    assert "bool" not in ended.out


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "flags"])
def test_each_command_takes_json_and_a_server(command):
    ended = sark_cache(*command.split(), "--help")
    assert "--json" in ended.out
    assert "--redis-url" in ended.out


@pytest.mark.parametrize("arguments", [["nonsense"], ["doctor", "--nonsense"], ["flags", "set"]])
def test_wrong_usage_exits_with_2_and_says_so_on_stderr(arguments):
    ended = sark_cache(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "Usage: sark-cache" in ended.err


# Missing packages


@on_posix
def test_without_typer_it_says_how_to_get_it(without):
    ended = sark_cache("doctor", command=without("typer"))
    assert (ended.code, ended.out) == (5, "")
    assert ended.err == "sark-cache: typer is not installed: pip install 'sark-cache[cli]'\n"


@on_posix
def test_without_pydantic_settings_it_says_how_to_get_it(without):
    command = without("pydantic_settings", "prometheus_client")
    ended = sark_cache("flags", "get", command=command)
    assert (ended.code, ended.out) == (5, "")
    assert "pydantic_settings" in ended.err
    assert "pip install 'sark-cache[cli]'" in ended.err
    ended = sark_cache("doctor", "--json", command=command)
    assert ended.code == 1
    assert "pydantic_settings" in ended.document["problems"][0]
    assert ended.document["settings"] is None
    assert ended.document["native"]["works"]
    assert ended.document["extras"]["prometheus"] == {"prometheus-client": None}
    output = sark_cache("doctor", command=command).out
    assert fact(output, "[prometheus]") == "not installed: prometheus-client"


@on_posix
def test_without_a_client_it_says_how_to_get_one(without):
    command = without("redis", "valkey")
    ended = sark_cache("flags", "get", command=command, **{URL: "redis://localhost"})
    assert (ended.code, ended.out) == (5, "")
    assert "pip install 'sark-cache[redis]'" in ended.err
    ended = sark_cache("doctor", "--json", command=command, **{URL: "redis://localhost"})
    assert ended.code == 1
    assert "pip install 'sark-cache[redis]'" in ended.document["problems"][0]


@on_posix
def test_a_package_that_is_not_installed_has_no_version(without):
    command = without("sark_cache-")
    assert sark_cache("--version", command=command).out == "sark-cache unknown\n"
    assert sark_cache("doctor", "--json", command=command).document["extras"] == {}


def test_without_the_compiled_module_it_says_why(without_compiled):
    ended = sark_cache("demo", **without_compiled)
    assert (ended.code, ended.out) == (1, "")
    assert "sark_cache._native cannot be imported" in ended.err
    ended = sark_cache("doctor", "--json", **without_compiled)
    assert ended.code == 1
    assert "sark_cache._native cannot be imported" in ended.document["problems"][0]
    assert not ended.document["native"]["available"]


def test_a_compiled_module_that_is_disabled_is_not_needed(without_compiled):
    ended = sark_cache("doctor", SARK_CACHE_USE_RUST_CACHE="false", **without_compiled)
    assert ended.code == 0
    assert fact(ended.out, "native cache") == "missing"


def test_another_missing_package_is_not_blamed_on_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sark_cache.cli.app", None)
    with pytest.raises(ModuleNotFoundError):
        main()


# Output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((2.0, "2.00 s"), (0.9999, "1,000 ms"), (0.005, "5.00 ms"), (27.1e-6, "27.1 µs")),
        *((1e-6, "1.00 µs"), (5.9e-7, "590 ns"), (0.0, "0 ns")),
    ],
)
def test_a_duration_has_three_digits_and_a_suitable_unit(seconds, text):
    assert duration(seconds) == text


def test_to_a_file_each_fact_is_one_line_without_colours():
    ended = sark_cache("doctor")
    assert "\x1b" not in ended.out
    assert not any(line.endswith(" ") for line in ended.out.splitlines())
    assert any(line.startswith("  native cache ") for line in ended.out.splitlines())


def test_narrow_output_is_wrapped():
    ended = sark_cache("doctor", "--user", "alice", COLUMNS="40")
    assert max(map(len, ended.out.splitlines())) <= 40


def test_a_character_outside_the_encoding_is_escaped():
    ended = sark_cache("demo", PYTHONIOENCODING="ascii")
    assert (ended.code, ended.err) == (0, "")
    assert "\\xb5s" in ended.out


@on_posix
def test_a_closed_pipe_prints_no_traceback():
    with started("doctor", "--json") as process:
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == ""


@on_posix
def test_a_terminal_has_colours_unless_they_are_disabled():
    for variables, has_colours in (
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ):
        with Terminal("doctor", **variables) as terminal:
            assert terminal.code() == 0
            assert ("\x1b[32m" in terminal.said) is has_colours
            assert "all that is configured works" in terminal.said


# Ctrl-C


@pytest.fixture(params=["heeds", "ignores"])
def parent(request):
    """Returns whether the process that starts commands reacts to SIGINT, which a child inherits."""
    before = signal.getsignal(signal.SIGINT)
    if request.param == "ignores":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@on_posix
def test_ctrl_c_while_a_server_does_not_answer_exits_with_130(parent):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        with started("flags", "get", **{URL: url}) as process:
            connection, _ = silent.accept()
            with connection:
                connection.recv(1)  # it has sent a command and waits
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (out, err) == ("", "")


@on_posix
def test_ctrl_c_in_the_demo_exits_with_130(parent):
    with Terminal("demo") as terminal:
        terminal.wait_for("evaluating")
        terminal.type("\x03")
        assert terminal.code() == 130
        assert "Traceback" not in terminal.said


def test_ctrl_c_before_the_command_starts_exits_with_130(monkeypatch):
    def run():
        raise KeyboardInterrupt

    monkeypatch.setattr("sark_cache.cli.app.run", run)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


# The demo

MEASURED = ("evaluation_us", "hit_us", "callers_answered_after_us", "revocation_us")


def test_the_demo_measures_and_succeeds():
    ended = sark_cache("demo", "--json")
    assert (ended.code, ended.err) == (0, "")
    shown = ended.document
    assert shown["ok"]
    assert shown["evaluation_us"] > 5_000 > shown["hit_us"]
    assert all(shown[name] > 0 for name in MEASURED)
    assert (shown["callers"], shown["evaluations_for_callers"]) == (1_000, 1)
    assert shown["entries_revoked"] == 1
    allowed = ("allowed_at_first", "allowed_until_revoked", "allowed_after_revocation")
    assert [shown[name] for name in allowed] == [True, True, False]
    assert not shown["overtaken_was_stored"]
    assert (shown["redis"], shown["redis_hit_us"]) == (None, None)


def test_the_demo_prints_its_measurements():
    ended = sark_cache("demo")
    assert (ended.code, ended.err) == (0, "")
    for measured in ("evaluated", "hit", "single flight", "revocation"):
        assert fact(ended.out, measured)
    assert fact(ended.out, "once revoked") == "denied"
    assert "1,000 callers of one request at once, all answered: 1 evaluation" in ended.out
    assert ended.out.splitlines()[-2:] == [
        "A revocation that arrives while the engine is still evaluating",
        "  the decision is  not stored: the next request is evaluated again",
    ]


def test_the_demo_measures_redis_too_and_leaves_no_decision_there(fresh_redis):
    ended = sark_cache("demo", **{URL: fresh_redis.url})
    assert (ended.code, ended.err) == (0, "")
    assert "hit in Redis" in ended.out
    shown = sark_cache("demo", "--json", "--redis-url", fresh_redis.url).document
    assert shown["redis"] == fresh_redis.url
    assert shown["redis_hit_us"] > shown["hit_us"]
    assert fresh_redis.command("KEYS", "sark-cache:1:*") == []


def test_the_demo_of_an_unreachable_server_exits_with_3(own_redis):
    server = own_redis()
    server.kill()
    ended = sark_cache("demo", "--json", **{URL: server.url})
    assert ended.code == ended.document["exit_code"] == 3
    assert "cannot be reached" in ended.err
    assert ended.document["hit_us"] > 0


def test_the_demo_of_a_server_that_stores_nothing_says_so(own_redis):
    server = own_redis(maxmemory="100kb", maxmemory_policy="noeviction")
    ended = sark_cache("demo", **{URL: server.url})
    assert ended.code == 1
    assert "does not keep a decision" in ended.err


def test_a_demo_that_fails_exits_with_1(monkeypatch):
    async def show():
        return replace(await showing.show(), entries_revoked=2, overtaken_was_stored=True)

    monkeypatch.setattr("sark_cache.cli.demo.command.show", show)
    ended = in_process("demo", "--json")
    assert (ended.code, ended.document["ok"]) == (1, False)
    assert ended.document["entries_revoked"] == 2
    assert "a result of the demo is not what it should be" in ended.err
    ended = in_process("demo")
    assert ended.code == 1
    assert "stored, which is wrong" in ended.out
