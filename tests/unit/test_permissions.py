"""Error replies of servers that refuse a command, and the list of commands that are checked."""

import re

import pytest
from redis.exceptions import (
    ConnectionError as ClientConnectionError,
)
from redis.exceptions import (
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from sark_cache.backends.redis import scripts
from sark_cache.backends.redis.permissions import IN_SCRIPTS, Findings, findings, named, refusal

REFUSALS = {
    "ERR The user executing the script can't run this command or subcommand": "NOPERM",
    "ERR ACL failure in script: User bob has no permissions to run the 'get' command": "NOPERM",
    "@user_script: 1: The user executing the script can't run this command or subcommand": "NOPERM",
    "unknown command 'ROLE', with args beginning with: ": "unknown command",
    "ERR unknown command `ROLE`, with args beginning with: ": "unknown command",
    "unsupported command 'scan'": "unknown command",
    "command is not allowed": "unknown command",
}
CONDITIONS = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    "-OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF Redis is configured to save RDB snapshots",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "NOREPLICAS Not enough good replicas to write.",
    "MOVED 7 127.0.0.1:7000",
    "wrong number of arguments for 'get' command",
    "",
]


@pytest.mark.parametrize("said", REFUSALS)
def test_a_refusal_is_recognized_by_its_message(said):
    assert refusal(said) == REFUSALS[said]
    assert refusal(ResponseError(said)) == REFUSALS[said]


@pytest.mark.parametrize("said", CONDITIONS)
def test_an_error_about_the_server_s_state_is_not_a_refusal(said):
    assert refusal(said) is None
    assert refusal(ResponseError(said)) is None


def test_an_error_of_the_client_or_a_reply_is_not_a_refusal():
    for other in (ClientConnectionError("not allowed"), TimeoutError("no permissions")):
        assert refusal(other) is None
    for other in (OutOfMemoryError("command not allowed"), ReadOnlyError("not allowed")):
        assert refusal(other) is None
    for reply in (1, None, ["not allowed"], b"unknown", {}):
        assert refusal(reply) is None
    assert refusal(NoPermissionError("whatever it says")) == "NOPERM"


def test_the_refused_command_is_named_if_the_server_names_it():
    said = "ERR ACL failure in script: User bob has no permissions to run the 'get' command"
    assert named(said, "EVAL") == "GET"
    assert named("User bob has no permissions to run the 'config|get' command", "X") == "CONFIG|GET"
    script = "The user executing the script can't run this command or subcommand"
    assert named(script, "EVAL") == "a command of a script"
    assert named("unknown command", "ROLE") == "ROLE"
    assert named("No permissions to access a key", "EVAL") == "EVAL with the cache's keys"


def test_each_command_of_a_script_is_tried():
    texts = [text for name, text in vars(scripts).items() if name.isupper() and "call" in str(text)]
    run = set(re.findall(r"redis\.p?call\('(\w+)'", " ".join(texts)))
    assert run == set(IN_SCRIPTS)


def test_without_some_commands_less_is_guaranteed_and_without_others_nothing_is_served():
    refused = dict.fromkeys(("ROLE", "INFO", "WAIT"), "NOPERM")
    assert Findings(refused).needed(is_cluster=False) == {}
    assert Findings(refused).needed(is_cluster=True) == {"INFO": "NOPERM"}
    assert Findings(refused, replicas=1).needed(is_cluster=False) == {"WAIT": "NOPERM"}
    assert Findings({"SCAN": "NOPERM"}).needed(is_cluster=False) == {"SCAN": "NOPERM"}
    assert Findings({"GET": "NOPERM"}).needed(is_cluster=True) == {"GET": "NOPERM"}


def test_replicas_are_counted_by_role_or_by_info_where_role_is_only_forbidden():
    assert Findings({}).uncounted is None
    assert Findings({"INFO": "NOPERM"}).uncounted is None
    assert Findings({"ROLE": "NOPERM"}).uncounted is None
    assert Findings({"ROLE": "NOPERM", "INFO": "NOPERM"}).uncounted == "ROLE (NOPERM)"
    assert Findings({"ROLE": "unknown command"}).uncounted == "ROLE (unknown command)"


def test_a_reply_that_the_script_never_gives_is_an_error():
    for reply in (None, 1, "OK", [], [""] * (len(IN_SCRIPTS) - 1), {}):
        with pytest.raises(ValueError, match="not what the script returns"):
            findings(reply, {})
    with pytest.raises(ConnectionError, match="READONLY"):
        findings([b"READONLY You can't write against a read only replica."] * len(IN_SCRIPTS), {})
    with pytest.raises(ClientConnectionError):
        findings(ClientConnectionError("gone"), {})
