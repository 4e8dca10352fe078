"""Completions read piece by piece: however the text is cut, the parts are those of the whole."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parse_cases import CASES, GOOD, call

from openqwq.tokenizer import CallError, ThinkingStream, ToolCallStream, parse_completion
from openqwq.types import ToolCall


def read(pieces, opened=True):
    """(thinking, answer, calls, errors, order of the kinds) of a completion that comes in pieces."""
    thinking, calls = ThinkingStream(opened), ToolCallStream()
    thoughts, parts = [], []
    for piece in pieces:
        thought, answer = thinking.push(piece)
        thoughts.append(thought)
        parts += calls.push(answer)
    thought, answer = thinking.finish()
    thoughts.append(thought)
    parts += calls.push(answer) + calls.finish()
    text = "".join(part for part in parts if isinstance(part, str))
    found = [part for part in parts if isinstance(part, ToolCall)]
    errors = [str(part) for part in parts if isinstance(part, CallError)]
    marks = "".join("t" if isinstance(part, str) else "c" if isinstance(part, ToolCall) else "e" for part in parts)
    return "".join(thoughts), text, found, errors, re.sub("t+", "t", marks), thinking.closed


@pytest.mark.parametrize("name", CASES)
def test_every_cut_gives_the_parts_of_the_whole(name):
    text, thinking, answer, calls, num_errors = CASES[name]
    whole = read([text])
    assert whole[:2] == (thinking, answer)
    assert [(c.name, dict(c.arguments)) for c in whole[2]] == calls
    assert len(whole[3]) == num_errors
    assert whole[5] == ("</think>" in text)
    assert read(list(text)) == whole
    for first in range(len(text) + 1):
        assert read([text[:first], text[first:]]) == whole
        for second in range(first, min(len(text), first + 12) + 1):
            assert read([text[:first], text[first:second], text[second:]]) == whole


@pytest.mark.parametrize("size", [2, 3, 5, 7, 11])
@pytest.mark.parametrize("name", CASES)
def test_pieces_of_one_size_give_the_parts_of_the_whole(name, size):
    text = CASES[name][0]
    assert read([text[i : i + size] for i in range(0, len(text), size)]) == read([text])


PIECES = ["<think>", "</think>", "<tool_call>", "</tool_call>", "{", "}", "[", "]", '"', "\\", "a", "\n", " ", ":", ","]
PIECES += [GOOD, call(GOOD), '"name"', '"f"', "<", "</t"]


@given(st.lists(st.sampled_from(PIECES), max_size=14), st.booleans(), st.integers(1, 4))
def test_any_text_in_any_pieces_reads_as_the_slow_reference(pieces, opened, size):
    text = "".join(pieces)
    expected = reference(text, opened)
    for cut in (pieces, [text[i : i + size] for i in range(0, len(text), size)]):
        thinking, answer, calls, errors, _, closed = read(cut, opened)
        assert (thinking, answer, calls, [e.partition(": ")[0] for e in errors], closed) == expected
    parsed = parse_completion(text, opened)
    assert (parsed.thinking, parsed.answer, list(parsed.tool_calls), parsed.closed) == (*expected[:3], expected[4])


def reference(text, opened):
    """The same by searching the whole text and reading JSON where it stands."""
    body = text.lstrip()
    if not opened and not body.startswith("<think>"):
        thinking, tag, rest = "", "", text
    else:
        body = body.removeprefix("<think>") if body.startswith("<think>") else text
        thinking, tag, rest = body.partition("</think>")
    text = rest.lstrip("\n")
    pieces, calls, errors, kept_from, position = [], [], [], 0, 0
    while (start := text.find("<tool_call>", position)) >= 0:
        after = start + len("<tool_call>")
        try:
            decoder = json.JSONDecoder(strict=False, object_pairs_hook=without_repeats)
            value, end = decoder.raw_decode(text, skip_space(text, after))
            end = skip_space(text, end)
            cut = any(tag.startswith(text[end:].rstrip()) for tag in ("</tool_call>", "<tool_call>"))
            assert cut or text.startswith(("</tool_call>", "<tool_call>"), end)
            assert set(value) <= {"name", "arguments"}
            arguments = value.get("arguments", {})
            assert isinstance(value["name"], str) and value["name"] and isinstance(arguments, dict)
        except (ValueError, AssertionError, AttributeError, KeyError):
            errors.append(f"tool call at character {start}")
            position = after
            continue
        calls.append(ToolCall(value["name"], arguments))
        pieces.append(text[kept_from:start])
        is_closed = text.startswith("</", end) or text[end:].rstrip() == "<"
        kept_from = position = min(end + len("</tool_call>"), len(text)) if is_closed else end
    pieces.append(text[kept_from:])
    kept = [piece.strip("\n") for piece in pieces if piece.strip()]
    return thinking.strip("\n"), "\n".join(kept) if calls else text, calls, errors, bool(tag)


def without_repeats(pairs):
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def skip_space(text, position):
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def test_a_call_comes_out_as_soon_as_it_is_closed_and_never_before():
    stream = ToolCallStream()
    assert stream.push("<tool_call>" + GOOD) == []
    assert stream.push("</tool_call") == []
    assert stream.push(">") == [ToolCall("f", {"x": 1})]


def test_text_that_cannot_be_a_call_is_not_held_back():
    stream = ToolCallStream()
    assert (
        "".join(map(str, stream.push("<tool_call>f(x)")))
        == "tool call at character 0: its JSON is broken<tool_call>f(x)"
    )
    thinking = ThinkingStream(True)
    assert thinking.push("a < b </thi") == ("a < b ", "")
    assert thinking.push("s") == ("</this", "")


def test_reading_a_long_call_in_small_pieces_takes_linear_time():
    text = "<tool_call>" + json.dumps({"name": "f", "arguments": {"x": "ab" * 200_000}})
    stream = ToolCallStream()
    assert [part for i in range(0, len(text), 4) for part in stream.push(text[i : i + 4])] == []
    assert len(stream.finish()[0].arguments["x"]) == 400_000
