"""Chat completions through the official client: thinking, answers, calls, usage, streamed and whole."""

import json

import openai
import pytest
from parse_cases import CASES

from openqwq.types import ToolCall

USER = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "\u00e9"}}\n</tool_call>'


def ask(client, **options):
    return client.chat.completions.create(**{"model": "fake", "messages": USER, **options})


def read_stream(stream):
    """What a client puts together from chunks: (thinking, content, calls, finish reason, last usage)."""
    thinking, content, calls, finish, usage = "", "", {}, None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            thinking += getattr(choice.delta, "reasoning_content", None) or ""
            content += choice.delta.content or ""
            for call in choice.delta.tool_calls or ():
                name, arguments = calls.get(call.index, ("", ""))
                calls[call.index] = (name + (call.function.name or ""), arguments + call.function.arguments)
            finish = choice.finish_reason or finish
    return thinking, content, list(calls.values()), finish, usage


def test_thinking_and_answer_come_apart(client, engine):
    engine.text = "two and\ntwo\n</think>\n\nFour."
    answer = ask(client)
    message = answer.choices[0].message
    assert (message.content, message.reasoning_content, message.reasoning) == ("Four.", "two and\ntwo", "two and\ntwo")
    assert answer.choices[0].finish_reason == "stop"
    assert not hasattr(answer, "warnings")
    thought = len(engine.tokenizer.encode("two and\ntwo\n</think>"))
    assert answer.usage.completion_tokens_details.reasoning_tokens == thought
    assert answer.usage.completion_tokens == len(engine.tokenizer.encode(engine.text)) + 1
    assert answer.usage.prompt_tokens == len(engine.requests[-1][0])
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_closing_tag_of_several_tokens_ends_the_thinking(client, engine):
    thought, answer = (engine.tokenizer.encode(text) for text in ("a < b </th", "yes </think> no"))
    rest = engine.tokenizer.encode("ink>")
    engine.text = [*thought, *rest, *answer]
    done = ask(client)
    assert (done.choices[0].message.reasoning_content, done.choices[0].message.content) == ("a < b ", "yes </think> no")
    assert done.usage.completion_tokens_details.reasoning_tokens == len(thought) + len(rest)
    assert read_stream(ask(client, stream=True))[:2] == ("a < b ", "yes </think> no")


@pytest.mark.parametrize("name", CASES)
def test_whatever_the_model_writes_is_read_alike_streamed_and_whole(client, engine, name):
    engine.text, thinking, answer, calls, num_errors = CASES[name]
    whole = ask(client, tools=TOOLS)
    streamed = read_stream(ask(client, tools=TOOLS, stream=True))
    message, end = whole.choices[0].message, whole.choices[0].finish_reason
    told = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    assert (getattr(message, "reasoning_content", ""), message.content or "") == (thinking, answer)
    assert [(name, json.loads(arguments)) for name, arguments in told] == calls
    assert end == ("tool_calls" if calls else "malformed_tool_call" if num_errors else "stop")
    assert len([w for w in getattr(whole, "warnings", ()) if "tool call" in w]) == num_errors
    assert streamed[:4] == (thinking, answer, told, end)


@pytest.mark.parametrize(
    "text",
    [
        "thought\n</think>\n\nAn answer with </think> in it.\n",
        f"thought {CALL}\n</think>\n\nText.\n{CALL}\n{CALL}\nMore.",
        "never closed",
        "</think>",
        "a</think>caf\u00e9 \U0001f600",
    ],
)
def test_streams_say_what_whole_answers_say(client, engine, text):
    engine.text = text
    whole = ask(client, tools=TOOLS)
    message = whole.choices[0].message
    streamed = read_stream(ask(client, tools=TOOLS, stream=True, stream_options={"include_usage": True}))
    assert streamed[0] == (getattr(message, "reasoning_content", None) or "")
    assert streamed[1] == (message.content or "")
    assert streamed[2] == [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    assert streamed[3] == whole.choices[0].finish_reason
    assert streamed[4] == whole.usage


def test_calls_are_objects_and_drafts_in_thoughts_are_not(client, engine):
    engine.text = f"maybe {CALL}\n</think>\n\nSure.\n{CALL}{CALL}"
    message = ask(client, tools=TOOLS).choices[0].message
    assert message.content == "Sure."
    assert [call.function.name for call in message.tool_calls] == ["add", "add"]
    assert json.loads(message.tool_calls[0].function.arguments) == {"a": 1, "b": "é"}
    assert len({call.id for call in message.tool_calls}) == 2
    assert CALL in message.reasoning_content


def test_one_call_at_a_time_ends_after_the_first(client, engine):
    engine.text = f"</think>{CALL}{CALL} and more"
    answer = ask(client, tools=TOOLS, parallel_tool_calls=False)
    assert [call.function.name for call in answer.choices[0].message.tool_calls] == ["add"]
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None


def test_a_broken_call_is_text_and_the_end_says_so(client, engine):
    engine.text = "</think><tool_call>add(1)</tool_call>"
    answer = ask(client, tools=TOOLS)
    assert answer.choices[0].message.content == "<tool_call>add(1)</tool_call>"
    assert answer.choices[0].finish_reason == "malformed_tool_call"
    assert "tool call at character 0" in answer.warnings[0]


def test_without_tools_a_call_is_text(client, engine):
    engine.text = f"</think>{CALL}"
    assert ask(client).choices[0].message.content == CALL
    assert ask(client, tools=TOOLS, tool_choice="none").choices[0].message.content == CALL
    assert "# Tools" not in engine.tokenizer.decode(engine.requests[-1][0])


def test_tool_results_and_history_reach_the_prompt_without_old_thinking(client, engine):
    engine.text = "</think>ok"
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    history = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "1+1"}]},
        {"role": "assistant", "content": None, "reasoning_content": "secret", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": "<think>\nhidden\n</think>\n\n2"},
        {"role": "user", "content": "sure?"},
    ]
    ask(client, messages=history, tools=TOOLS)
    prompt = engine.tokenizer.decode(engine.requests[-1][0])
    assert prompt == engine.tokenizer.apply_chat_template([{**history[0], "role": "system"}, *history[1:]], [TOOLS[0]])
    assert '{"name": "add", "arguments": {"a": 1}}' in prompt and "<tool_response>\n2\n" in prompt
    assert "secret" not in prompt and "hidden" not in prompt
    assert prompt.endswith("<think>\n")


def test_thinking_that_eats_the_allowance_says_so(client, engine):
    engine.text = "on and on and on and on"
    answer = ask(client, max_completion_tokens=4)
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content is None
    assert "all 4 tokens went into thinking" in answer.warnings[0]
    last = [chunk for chunk in ask(client, max_completion_tokens=4, stream=True) if chunk.choices[0].finish_reason]
    assert "all 4 tokens went into thinking" in last[-1].warnings[0]


def test_effort_none_closes_the_thinking_in_the_prompt(client, engine):
    engine.text = "Four."
    answer = ask(client, reasoning_effort="none")
    assert answer.choices[0].message.content == "Four."
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0
    assert engine.tokenizer.decode(engine.requests[-1][0]).endswith("<think>\n\n</think>\n\n")
    assert ask(client, extra_body={"thinking_budget": 0}).choices[0].message.content == "Four."


def test_thinking_can_be_left_out_of_the_answer(client, engine):
    engine.text = "hm</think>yes"
    answer = ask(client, extra_body={"include_reasoning": False})
    assert answer.choices[0].message.content == "yes"
    assert not hasattr(answer.choices[0].message, "reasoning_content")
    assert answer.usage.completion_tokens_details.reasoning_tokens == len(engine.tokenizer.encode("hm</think>"))


def test_sampling_is_the_models_recommendation_unless_the_request_says_otherwise(client, engine):
    engine.text = "</think>a"
    ask(client)
    params = engine.requests[-1][1]
    assert (params.temperature, params.top_p, params.top_k, params.n) == (0.6, 0.95, 40, 1)
    assert params.max_tokens == 2048 - len(engine.requests[-1][0])
    ask(client, temperature=1, top_p=0.5, seed=7, stop="x", max_tokens=5, extra_body={"top_k": 3, "min_p": 0.1})
    params = engine.requests[-1][1]
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (1, 0.5, 3, 0.1)
    assert (params.seed, params.stop, params.max_tokens) == (7, ("x",), 5)


def test_too_many_tokens_are_clipped_and_greedy_is_warned_of(client, engine):
    engine.text = "</think>a"
    answer = ask(client, max_completion_tokens=131072, temperature=0)
    room = 2048 - answer.usage.prompt_tokens
    assert f"`max_completion_tokens` 131072 was clipped to {room}" in answer.warnings[0]
    assert "repeat themselves" in answer.warnings[1]


def test_several_samples(client, engine):
    engine.text = "hm</think>yes"
    answer = ask(client, n=3)
    assert [(c.index, c.message.content) for c in answer.choices] == [(0, "yes"), (1, "yes"), (2, "yes")]
    per_sample = len(engine.tokenizer.encode(engine.text)) + 1
    assert answer.usage.completion_tokens == 3 * per_sample
    chunks = list(ask(client, n=2, stream=True))
    for index in (0, 1):
        own = [c.choices[0] for c in chunks if c.choices[0].index == index]
        assert "".join(c.delta.content or "" for c in own) == "yes"
        assert [c.finish_reason for c in own if c.finish_reason] == ["stop"]


def test_logprobs_name_each_token_of_thinking_and_answer(client, engine):
    engine.text = "hm</think>caf\u00e9"
    for answer in (ask(client, logprobs=True),):
        shown = answer.choices[0].logprobs
        data = b"".join(bytes(entry.bytes) for entry in shown.content)
        assert data.decode() == "café<|im_end|>"
        assert {entry.logprob for entry in shown.content} == {-0.25}
        assert "".join(entry["token"] for entry in shown.reasoning_content) == "hm</think>"
    chunks = [c.choices[0].logprobs for c in ask(client, logprobs=True, stream=True)]
    streamed = [entry for shown in chunks if shown for entry in shown.content]
    assert b"".join(bytes(entry.bytes) for entry in streamed) == data


def test_arguments_that_utf8_cannot_hold_stay_escaped(client, engine, monkeypatch):
    engine.text = '</think><tool_call>{"name": "f", "arguments": {"x": "\\ud800"}}</tool_call>'
    call = ask(client, tools=TOOLS).choices[0].message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"x": "\ud800"} == dict(ToolCall("f", {"x": "\ud800"}).arguments)


def test_first_token_errors_are_errors_of_the_request(client, engine, monkeypatch):
    async def fail(self, *_):
        from openqwq.errors import UserError

        raise UserError("the prompt is odd", hint="mend it")
        yield

    monkeypatch.setattr(type(engine), "generate", fail)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, stream=True)
    assert caught.value.body["message"] == "the prompt is odd; mend it"
