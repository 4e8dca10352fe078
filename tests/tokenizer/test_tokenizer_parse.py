"""Completions taken apart: where thinking ends, which calls are calls, and what broken ones leave."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwq.tokenizer import parse_completion, parse_tool_calls
from openqwq.types import ToolCall


def call(text):
    return f"<tool_call>\n{text}\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "opened", "thinking", "answer", "closed"),
    [
        ("a\nb\n</think>\n\nc", True, "a\nb", "c", True),
        ("<think>\na\n</think>\n\nc", True, "a", "c", True),
        ("<think>\na\n</think>\n\nc", False, "a", "c", True),
        ("a</think>c", True, "a", "c", True),
        ("</think>\n\nc", True, "", "c", True),
        ("still thinking", True, "still thinking", "", False),
        ("<think>\nstill", False, "still", "", False),
        ("just an answer", False, "", "just an answer", False),
        ("", True, "", "", False),
        ("a</think>\n\nuse <think> and </think>\n", True, "a", "use <think> and </think>\n", True),
    ],
)
def test_thinking_and_answer(text, opened, thinking, answer, closed):
    parsed = parse_completion(text, opened)
    assert (parsed.thinking, parsed.answer, parsed.closed) == (thinking, answer, closed)
    assert parsed.tool_calls == parsed.errors == ()


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        (call('{"name": "f", "arguments": {"x": 1}}'), "f", {"x": 1}),
        (call('{"arguments": {"x": 1}, "name": "f"}'), "f", {"x": 1}),
        (call('{"arguments": {"name": "g"}, "name": "f"}'), "f", {"name": "g"}),
        (call('{"name": "f", "arguments": {"x": "</tool_call>"}}'), "f", {"x": "</tool_call>"}),
        (call('{"name": "f", "arguments": {"x": "<tool_call>"}}'), "f", {"x": "<tool_call>"}),
        ('<tool_call>{"name": "f", "arguments": {}}</tool_call>', "f", {}),
        (
            call('{"name": "f", "arguments": {"a": {"b": {"c": [{}]}}, "s": "}}"}}'),
            "f",
            {"a": {"b": {"c": [{}]}}, "s": "}}"},
        ),
        (call('{"name": "f", "arguments": "{\\"x\\": 1}"}'), "f", {"x": 1}),
        (call('{"name": "f", "arguments": {"code": "a\nb"}}'), "f", {"code": "a\nb"}),
        (call('{"name": "f"}'), "f", {}),
        ('<tool_call>\n{"name": "f", "arguments": {}}', "f", {}),
    ],
)
def test_one_call_is_read(text, name, arguments):
    parsed = parse_completion("thought\n</think>\n\n" + text, True)
    assert parsed.tool_calls == (ToolCall(name, arguments),)
    assert (parsed.answer, parsed.errors) == ("", ())


@pytest.mark.parametrize(
    "key", ["parameters", "args", "input", "kwargs", "Arguments", "params", "parameter", "arguments ", "PARAMETERS"]
)
def test_arguments_are_read_under_other_words_for_them(key):
    text = call(json.dumps({"name": "send", key: {"to": "a@b.c", "name": "x"}}))
    assert parse_tool_calls(text) == ("", (ToolCall("send", {"to": "a@b.c", "name": "x"}),), ())


@pytest.mark.parametrize("nothing", ['""', '" \\n"', "null", "{}", '"{}"', '"null"', '" {} "'])
def test_blank_and_null_arguments_mean_none(nothing):
    assert parse_tool_calls(call(f'{{"name": "now", "arguments": {nothing}}}'))[1] == (ToolCall("now", {}),)


def test_keys_of_the_call_itself_may_stand_beside_its_arguments():
    text = call('{"id": "call_1", "type": "function", "index": 0, "name": "f", "arguments": {"id": 2}}')
    assert parse_tool_calls(text)[1] == (ToolCall("f", {"id": 2}),)


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "send", "to": "a@b.c", "text": "hi"}',
        '{"name": "send", "id": "7"}',
        '{"name": "send", "type": "function"}',
        '{"name": "send", "payload": {"to": "a@b.c"}}',
        '{"name": "send", "arguments": {}, "parameters": {"to": "a@b.c"}}',
        '{"name": "send", "arguments": {"to": "a@b.c"}, "text": "hi"}',
        '{"name": "send", "arguments": {"to": "a@b.c"}, "type": "draft"}',
        '{"name": "send", "arguments": {"to": "a@b.c"}, "arguments": {"to": "d@e.f"}}',
        '{"name": "send", "arguments": {"to": "a@b.c", "to": "d@e.f"}}',
        '{"name": "send", "arguments": false}',
        '{"name": "send", "arguments": "[]"}',
        '{"function": {"name": "send", "arguments": {"to": "a@b.c"}}}',
        '{"tool": "send", "arguments": {"to": "a@b.c"}}',
    ],
)
def test_a_call_whose_arguments_are_not_clear_is_an_error_rather_than_another_call(body):
    answer, calls, errors = parse_tool_calls(call(body))
    assert (answer, calls, len(errors)) == (call(body), (), 1)


@pytest.mark.parametrize("name", [r"r\ud83dn", r"\udfff", r"a\ud83d\ud83db"])
def test_a_name_with_half_a_surrogate_pair_is_an_error(name):
    _, calls, errors = parse_tool_calls(call(f'{{"name": "{name}", "arguments": {{}}}}'))
    assert calls == () and "surrogate" in errors[0]


def test_whole_surrogate_pairs_in_a_name_are_the_character():
    assert parse_tool_calls(call(r'{"name": "f\ud83d\ude00"}'))[1] == (ToolCall("f😀", {}),)


def test_text_around_calls_is_kept():
    text = "Before.\n" + call('{"name": "f"}') + "\n" + call('{"name": "g"}') + "\nAfter."
    answer, calls, errors = parse_tool_calls(text)
    assert answer == "Before.\nAfter."
    assert [c.name for c in calls] == ["f", "g"]
    assert errors == ()


def test_calls_inside_thinking_are_not_calls():
    draft = call('{"name": "f"}')
    parsed = parse_completion(f"I could {draft}\n</think>\n\nNo.", True)
    assert (parsed.tool_calls, parsed.answer) == ((), "No.")
    assert draft in parsed.thinking
    assert parse_completion(f"I could {draft}", True).tool_calls == ()


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "f", "arguments": {"x": 1}',
        "{'name': 'f'}",
        "f(x=1)",
        "[1, 2]",
        '{"arguments": {}}',
        '{"name": 7}',
        '{"name": ""}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "no"}',
        '{"name": "f", "arguments": {"x": NaN}}',
        '{"name": "f"} and more',
        "[" * 100_000,
        '{"name": "f", "arguments": {"x": ' + "9" * 5000 + "}}",
        "",
    ],
)
def test_a_broken_call_stays_in_the_text_with_a_note(body):
    parsed = parse_completion(f"</think>\n\nSee {call(body)} end", True)
    assert parsed.answer == f"See {call(body)} end"
    assert parsed.tool_calls == ()
    assert len(parsed.errors) == 1
    assert parsed.errors[0].startswith("tool call at character 4: ")


def test_a_good_call_after_a_broken_one_counts():
    answer, calls, errors = parse_tool_calls(call("{broken") + "\n" + call('{"name": "f"}'))
    assert answer == call("{broken")
    assert calls == (ToolCall("f", {}),)
    assert len(errors) == 1


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.text(), st.sampled_from(["</tool_call>", "<tool_call>", "</think>"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4), st.booleans())
def test_any_arguments_come_back(arguments, ascii_only):
    text = call(json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=ascii_only))
    assert parse_tool_calls(text) == ("", (ToolCall("f", arguments),), ())


PIECES = st.sampled_from(["<tool_call>", "</tool_call>", "</think>", "{", "}", '"', "a", "\n", ":", '{"name": "f"}'])


@given(st.lists(PIECES, max_size=20))
def test_any_text_is_parsed_and_every_call_or_error_has_its_tag(pieces):
    parsed = parse_completion("".join(pieces), True)
    assert parsed.closed == ("</think>" in pieces)
    assert parsed.answer.count("<tool_call>") >= len(parsed.errors)
    assert len(parsed.tool_calls) + len(parsed.errors) <= pieces.count("<tool_call>")
