"""Clients as people install them, unchanged: Anthropic's, and an agent framework over each form of the API."""

import anthropic
import pytest
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
ADD = {
    "name": "add",
    "description": "adds",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
}
USER = [{"role": "user", "content": "2+3?"}]


@pytest.fixture(scope="module")
def claude(live):
    with anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0) as made:
        yield made


def test_anthropics_client_reads_thinking_text_and_calls(claude, engine):
    engine.text = f"two and\nthree\n</think>\n\nLet me add. {CALL}"
    message = claude.messages.create(
        model="fake", max_tokens=300, messages=USER, tools=[ADD], thinking={"type": "enabled", "budget_tokens": 200}
    )
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[0].thinking == "two and\nthree"
    assert message.content[1].text == "Let me add. "
    assert (message.content[2].name, message.content[2].input) == ("add", {"a": 2, "b": 3})
    assert message.stop_reason == "tool_use"
    assert message.usage.output_tokens == len(engine.tokenizer.encode(engine.text)) + 1
    thought = len(engine.tokenizer.encode("two and\nthree\n</think>"))
    assert message.usage.output_tokens_details.thinking_tokens == thought
    assert engine.requests[-1][1].thinking_budget == 200


def test_anthropics_client_puts_a_stream_together(claude, engine):
    engine.text = f"two\n</think>\n\nSo: {CALL}{CALL}"
    options = {"model": "fake", "max_tokens": 300, "messages": USER, "tools": [ADD]}
    whole = claude.messages.create(**options)
    with claude.messages.stream(**options) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    told = [block.model_dump(exclude={"id"}) for block in whole.content]
    assert [block.model_dump(exclude={"id"}) for block in streamed.content] == told
    assert [block["type"] for block in told] == ["thinking", "text", "tool_use", "tool_use"]
    assert (streamed.stop_reason, streamed.usage.output_tokens) == ("tool_use", whole.usage.output_tokens)
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert {"thinking", "text", "input_json", "signature"} <= set(kinds)


def test_anthropics_client_sends_results_back_counts_and_is_told_what_is_wrong(claude, engine):
    engine.text = "</think>It is 5."
    first = [
        {"type": "thinking", "thinking": "hidden", "signature": ""},
        {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 2, "b": 3}},
    ]
    result = [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "5"}]
    turns = [*USER, {"role": "assistant", "content": first}, {"role": "user", "content": result}]
    options = {"model": "fake", "messages": turns, "tools": [ADD], "system": [{"type": "text", "text": "be brief"}]}
    message = claude.messages.create(max_tokens=50, thinking={"type": "disabled"}, **options)
    assert [(block.type, block.text) for block in message.content] == [("text", "</think>It is 5.")]
    prompt = engine.tokenizer.decode(engine.requests[-1][0])
    assert "be brief" in prompt and "<tool_response>\n5\n</tool_response>" in prompt and "hidden" not in prompt
    counted = claude.messages.count_tokens(thinking={"type": "disabled"}, **options)
    assert counted.input_tokens == message.usage.input_tokens
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.create(model="fake", max_tokens=5, messages=[{"role": "user", "content": []}])
    assert "messages" in caught.value.body["error"]["message"]
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="gone", max_tokens=5, messages=USER)


@pytest.mark.parametrize("stream", [False, True])
def test_anthropics_tool_loop_runs_with_its_defaults(claude, engine, monkeypatch, stream):
    """It asks for a conversation that the server keeps, and sends all of it when it is told that there is none."""
    left = in_turn(engine, monkeypatch, f"sum\n</think>\n\n{CALL}", "now I know\n</think>\n\nIt is 5.")
    tool = anthropic.beta_tool(add)
    loop = claude.beta.messages.tool_runner(model="fake", max_tokens=300, messages=USER, tools=[tool], stream=stream)
    last = [turn.get_final_message() if stream else turn for turn in loop][-1]
    assert last.content[-1].text == "It is 5." and left == []
    assert "<tool_response>\n5\n</tool_response>" in engine.tokenizer.decode(engine.requests[-1][0])


def test_an_answer_goes_back_with_the_fields_that_litellm_adds(live, engine):
    """The body of its second request, as its 1.110 sends `response.choices[0].message` back."""
    engine.text = "</think>It is 5."
    called = {
        "content": None,
        "role": "assistant",
        "tool_calls": [
            {"function": {"arguments": '{"a":2,"b":3}', "name": "add"}, "id": "call-1", "type": "function", "index": 0}
        ],
        "function_call": None,
        "reasoning_content": "hm",
        "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}],
        "provider_specific_fields": {"reasoning": "hm", "refusal": None},
        "refusal": None,
    }
    messages = [*USER, called, {"role": "tool", "tool_call_id": "call-1", "content": "5"}]
    tools = [{"type": "function", "function": {"name": "add", "parameters": ADD["input_schema"]}}]
    answer = live.web.post("/v1/chat/completions", json={"model": "fake", "messages": messages, "tools": tools})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "It is 5."
    assert '{"name": "add", "arguments": {"a": 2, "b": 3}}' in engine.tokenizer.decode(engine.requests[-1][0])


@pytest.fixture(params=["chat completions", "responses", "messages"])
def agent(request, live):
    """An agent of Pydantic AI with one tool, over one of the forms."""
    if request.param == "messages":
        model = AnthropicModel("fake", provider=AnthropicProvider(base_url=live.url, api_key="none"))
    else:
        kind = OpenAIChatModel if request.param == "chat completions" else OpenAIResponsesModel
        model = kind("fake", provider=OpenAIProvider(base_url=f"{live.url}/v1", api_key="none"))
    made = Agent(model, instructions="be brief")
    made.tool_plain(add)
    return made


def add(a: int, b: int) -> str:
    """The sum."""
    return str(a + b)


def in_turn(engine, monkeypatch, *texts):
    """Have the engine write these texts, one a request."""
    left = list(texts)
    write = type(engine).generate

    def generate(self, *arguments):
        self.text = left.pop(0)
        return write(self, *arguments)

    monkeypatch.setattr(type(engine), "generate", generate)
    return left


def test_an_agent_calls_its_tool_and_answers_with_the_result(agent, engine, monkeypatch):
    left = in_turn(engine, monkeypatch, f"I need a sum\n</think>\n\n{CALL}", "now I know\n</think>\n\nIt is 5.")
    result = agent.run_sync("2+3?")
    assert result.output == "It is 5." and left == []
    kinds = [part.part_kind for message in result.all_messages() for part in message.parts]
    assert kinds.count("thinking") == 2 and "tool-call" in kinds and "tool-return" in kinds
    prompt = engine.tokenizer.decode(engine.requests[-1][0])
    assert "be brief" in prompt and "I need a sum" not in prompt
    assert '{"name": "add", "arguments": {"a": 2, "b": 3}}' in prompt
    assert "<tool_response>\n5\n</tool_response>" in prompt


def test_an_agent_reads_a_stream(agent, engine, monkeypatch):
    left = in_turn(engine, monkeypatch, f"hm\n</think>\n\n{CALL}", "so\n</think>\n\nIt is **5**.")
    result = agent.run_stream_sync("2+3?")
    assert list(result.stream_text())[-1] == "It is **5**." and left == []
