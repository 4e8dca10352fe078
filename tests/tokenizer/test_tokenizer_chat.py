"""The chat template: bytes by hand, bytes of the published template, and what clients send wrongly."""

import json
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from openqwq.errors import UserError
from openqwq.tokenizer import load_default_template, normalize_messages, render_chat
from openqwq.types import Message, ToolCall

REFERENCE = Path(__file__).parents[2].parent / "shared" / "data" / "qwq_config" / "chat_template.jinja"
TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "a < b & \u00e9", "parameters": {"z": 1, "a": 2}},
}


def render(messages, **options):
    return render_chat(load_default_template(), messages, **options)


def test_plain_question_has_no_system_turn_and_opens_thinking():
    assert render([Message("user", "hi")]) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n"


def test_system_turn_is_rendered_where_given():
    messages = [Message("system", "be brief"), Message("user", "hi")]
    assert render(messages, add_generation_prompt=False) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    )


def test_thinking_of_earlier_turns_is_dropped():
    messages = [
        Message("user", "a"),
        Message("assistant", "<think>\nsecret\n</think>\n\nb", reasoning_content="more secrets"),
        Message("user", "c"),
    ]
    assert render(messages) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )


def test_tools_keep_key_order_and_characters():
    text = render([Message("user", "hi")], tools=[TOOL])
    assert text.startswith("<|im_start|>system\n\n\n# Tools\n\nYou may call one or more functions")
    assert f"<tools>\n{json.dumps(TOOL, ensure_ascii=False)}\n</tools>" in text
    assert "a < b & \u00e9" in text


def test_calls_and_responses_of_one_step_share_turns():
    messages = [
        Message("user", "hi"),
        Message("assistant", "", tool_calls=(ToolCall("f", {"b": 1, "a": "<\u00e9"}), ToolCall("g", {}))),
        Message("tool", "1"),
        Message("tool", "2"),
    ]
    assert render(messages) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant"
        '\n<tool_call>\n{"name": "f", "arguments": {"b": 1, "a": "<\u00e9"}}\n</tool_call>'
        '\n<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )


def test_what_openai_clients_send_renders_like_our_own_messages():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": "\u00e9"}'}}
    theirs = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "7"},
    ]
    ours = [
        Message("user", "a\nb"),
        Message("assistant", tool_calls=(ToolCall("f", {"x": "\u00e9"}),)),
        Message("tool", "7"),
    ]
    assert render(theirs) == render(ours)
    assert normalize_messages(theirs)[1]["tool_calls"][0]["id"] == "1"


def test_template_itself_survives_null_content_and_text_arguments():
    """Other programs render our saved template without `normalize_messages`."""
    call = {"function": {"name": "f", "arguments": '{"x": 1}'}}
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    text = reference_environment().from_string(load_default_template()).render(messages=messages)
    assert text.endswith('assistant\n<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>\n')


def test_closing_turn_carries_its_thinking():
    turn = Message("assistant", "42", reasoning_content="6*7")
    text = render([Message("user", "q"), turn], add_generation_prompt=False)
    assert text.endswith("<|im_start|>assistant\n<think>\n6*7\n</think>\n\n42<|im_end|>\n")
    assert text.startswith(render([Message("user", "q")]))


def test_closing_turn_carries_its_thinking_before_a_call():
    turn = Message("assistant", reasoning_content="call it", tool_calls=(ToolCall("f", {}),))
    text = render([Message("user", "q"), turn], add_generation_prompt=False)
    assert text.endswith(
        'assistant\n<think>\ncall it\n</think>\n\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call><|im_end|>\n'
    )


@pytest.mark.parametrize(
    ("turn", "end"),
    [
        (Message("assistant", "The answer"), "assistant\nThe answer"),
        (Message("assistant", "4", reasoning_content="2+2"), "assistant\n<think>\n2+2\n</think>\n\n4"),
        (Message("assistant", "", reasoning_content="Wait"), "assistant\n<think>\nWait"),
    ],
)
def test_last_turn_stays_open_to_be_continued(turn, end):
    assert render([Message("user", "q"), turn], continue_last=True).endswith(end)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "at least one"),
        ([{"role": "robot", "content": "x"}], "message 0 has the role 'robot'"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "not text"),
        ([{"role": "user", "content": [{"type": "text"}]}], "not text"),
        ([{"role": "assistant", "tool_calls": [3]}], "message 0 has a tool call without a name: 3"),
        ([{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}], "without a name"),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}], "not JSON"),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}], "no object"),
    ],
)
def test_conversations_without_a_text_are_refused(messages, reason):
    with pytest.raises(ValueError, match=reason):
        render(messages)


def test_only_an_assistant_turn_can_be_continued():
    with pytest.raises(ValueError, match="assistant"):
        render([Message("user", "q")], continue_last=True)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception('no') }}",
        "{% for %}",
    ],
)
def test_a_foreign_template_cannot_reach_out_of_the_sandbox(template):
    with pytest.raises(UserError, match="template"):
        render_chat(template, [Message("user", "q")])


def reference_environment():
    """jinja2 as `transformers` sets it up."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment


@lru_cache(maxsize=1)
def published_template():
    return reference_environment().from_string(REFERENCE.read_text(encoding="utf-8"))


TEXT = st.sampled_from(
    ["", "hi", " two\nlines\n", "<think>\nx\n</think>\n\ny", "a</think>b</think>\n\nc", "\u00e9<|im_end|>"]
)
CALL = st.builds(
    lambda name, arguments: {"type": "function", "function": {"name": name, "arguments": arguments}},
    st.sampled_from(["f", "get_weather"]),
    st.dictionaries(
        st.sampled_from(["name", "b", "a", "\u00e9"]), st.sampled_from(["<x>", 1, None, {"z": [1.5]}, True])
    ),
)
TURN = st.one_of(
    st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "assistant", "tool"]), TEXT),
    st.builds(
        lambda text, calls: {"role": "assistant", "content": text, "tool_calls": calls},
        TEXT,
        st.lists(CALL, min_size=1, max_size=2),
    ),
    st.builds(lambda text: {"role": "system", "content": text}, TEXT),
)


@pytest.mark.skipif(not REFERENCE.is_file(), reason="needs shared/data/qwq_config beside the repository")
@given(
    messages=st.lists(TURN, min_size=1, max_size=6),
    tools=st.sampled_from([None, [], [TOOL], [TOOL, {"name": "f<", "b": 1, "a": 2}]]),
    prompt=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_bytes_equal_the_published_template(messages, tools, prompt):
    expected = published_template().render(messages=messages, tools=tools, add_generation_prompt=prompt)
    assert render(messages, tools=tools, add_generation_prompt=prompt) == expected
