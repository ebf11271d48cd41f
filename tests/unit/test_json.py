"""JSON from elsewhere is parsed within limits of length, depth and stack."""

import json

import pytest
from hypothesis import given

from interpreters import run
from json_values import OBJECTS
from sark_cache._core.json import (
    MAX_PARSED_DEPTH,
    MAX_TEXT,
    NotJSONError,
    parse_json,
    to_plain_json,
)

ON_A_SMALL_STACK = """
import threading

from sark_cache._core.json import parse_json, to_plain_json

def deep(levels):
    value = 1
    for level in range(levels):
        value = {"a": value} if level % 2 else [value]
    return value

def read():
    assert to_plain_json(deep(64)) == deep(64)
    for text in ('{"a":' * 990 + "1" + "}" * 990, "[" * 50_000):
        try:
            parse_json(text)
        except ValueError as error:
            print(error)

threading.stack_size(128 * 1024)
thread = threading.Thread(target=read)
thread.start()
thread.join()
"""


@given(OBJECTS)
def test_text_is_parsed_as_python_parses_it(value):
    text = json.dumps(value, ensure_ascii=False)
    assert parse_json(text) == json.loads(text)
    assert parse_json(text.encode(errors="surrogatepass")) == json.loads(text)


@pytest.mark.parametrize("of", ["[]", "{}"])
def test_text_is_parsed_to_the_depth_of_an_entry(of):
    open_, close = ("[", "]") if of == "[]" else ('{"a":', "}")
    deepest = open_ * MAX_PARSED_DEPTH + "1" + close * MAX_PARSED_DEPTH
    assert parse_json(deepest) == json.loads(deepest)
    with pytest.raises(ValueError, match=f"nested deeper than {MAX_PARSED_DEPTH} levels"):
        parse_json(open_ + deepest + close)


def test_brackets_in_strings_do_not_count_as_depth():
    for value in ("[" * 500, '"[' * 100, "\\[" * 200, [[] for _ in range(500)], {"[{": "]" * 99}):
        assert parse_json(json.dumps(value)) == value


def test_text_that_is_too_long_is_not_parsed():
    with pytest.raises(ValueError, match="longer than"):
        parse_json(" " * MAX_TEXT + "1")
    with pytest.raises(ValueError, match="delimiter"):
        parse_json('{"a": [1 2]}')


def test_a_small_stack_does_not_overflow():
    assert len([line for line in run(ON_A_SMALL_STACK) if "nested deeper than" in line]) == 2


@pytest.mark.parametrize("text", ["a" * 10**7, "é" * 10**7], ids=["ASCII", "not ASCII"])
def test_long_text_is_refused_before_it_is_parsed(text):
    with pytest.raises(NotJSONError, match="larger than the 65536 bytes"):
        to_plain_json({"text": text})
