"""Readers of the replies about the state of a server."""

import pytest

from sark_cache._core.errors import UnavailableError
from sark_cache.backends.redis import replies

ID = "07c37dfeb235213a872192d90877d0cd55635b91"


def line(flags, *slots):
    """Returns the line about one node in a reply to CLUSTER NODES."""
    return " ".join((ID, "127.0.0.1:7000@17000", flags, "-", "0", "0", "1", "connected", *slots))


@pytest.mark.parametrize("decode", [str.encode, str])
def test_the_line_about_the_server_itself_is_read(decode):
    text = "\n".join((line("master", "0-9"), line("myself,master", "10", "12-16383")))
    assert replies.own_node(decode(text)) == (True, ("10", "12-16383"), False)
    assert replies.own_node(decode(line("myself,slave"))) == (False, (), False)
    moving = line("myself,master", "0-9", f"[9->-{ID}]")
    assert replies.own_node(decode(moving)) == (True, ("0-9",), True)


@pytest.mark.parametrize(
    "reply",
    [
        *(None, 1, [], {}, "", "OK", b"\xff", "myself,master 0-16383"),
        line("master", "0-16383"),
        line("not-myself,master", "0-16383"),
        line("myself,master", "all"),
        line("myself,master", "0-x"),
        line("myself,master", "0-"),
        line("myself,master", "9-0"),
        line("myself,master", "-1-9"),
        line("myself,master", "0-16384"),
        line("myself,master", "0-" + "9" * 5_000),
        line("myself,master", "\u0661-9"),
    ],
    ids=str,
)
def test_a_malformed_list_of_nodes_is_no_answer(reply):
    with pytest.raises(UnavailableError, match="cannot be read"):
        replies.read(replies.own_node, reply)


def test_the_replicas_that_a_server_reports_are_counted():
    assert replies.role([b"master", 7, [[b"host", b"6379", b"7"]]]) == (True, 1)
    assert replies.role(["slave", "host", 6379, "connected", 7]) == (False, 0)
    assert replies.replication({"role": "master", "connected_slaves": 2}) == (True, 2)
    assert replies.replication({"role": "slave", "connected_slaves": 0}) == (False, 0)


def test_the_position_of_a_new_record_is_read():
    position = f"1700000000000-18446744073709551615.{'0a' * 8}"
    for decode in (str.encode, str):
        for stored in ("?", "0", position):
            reply = [decode(position), decode(stored)]
            assert replies.read(replies.appended, reply) == (position, stored)
        reply = [decode("removed"), decode("?")]
        assert replies.read(replies.appended, reply) == (None, "?")


@pytest.mark.parametrize("reply", [None, "", "OK", "1-1", "1-1.", f"1-1.{'G' * 16}", "-1.a", 1, []])
def test_a_malformed_position_is_no_answer(reply):
    position = f"1-1.{'0a' * 8}"
    for whole in (reply, [reply, "?"], [position, reply], [position, "?", reply], [position]):
        with pytest.raises(UnavailableError, match="cannot be read"):
            replies.read(replies.appended, whole)


@pytest.mark.parametrize(
    "info",
    [
        *(None, [], {}, {"role": "master"}, {"connected_slaves": 1}),
        *({"role": "master", "connected_slaves": number} for number in (-1, "1", None, 0.5, True)),
        *({"role": role, "connected_slaves": 1} for role in ("Master", b"\xff", 1)),
    ],
    ids=str,
)
def test_malformed_information_about_replicas_is_no_answer(info):
    with pytest.raises(UnavailableError, match="cannot be read"):
        replies.read(replies.replication, info)


@pytest.mark.parametrize("decode", [str.encode, str])
def test_a_key_that_is_not_utf_8_is_left_out_of_a_step_of_a_scan(decode):
    page = replies.page([decode("0"), [decode("a"), b"\xff\xfe", decode("b")]])
    assert page == (0, ["a", "b"], 4)
