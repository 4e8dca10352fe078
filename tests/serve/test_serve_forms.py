"""The other two forms, `/v1/responses` and `/v1/messages`, streamed and whole."""

import json

import pytest

CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
TEXT = f"two\nand two\n</think>\n\nFour. {CALL} Done."
PARAMETERS = {"type": "object", "properties": {}}
TOOL = {"type": "function", "name": "add", "parameters": PARAMETERS}


def test_a_response_has_reasoning_message_and_call_items(client, engine):
    engine.text = TEXT
    answer = client.responses.create(model="fake", input="2+2?", instructions="be brief", tools=[TOOL])
    assert [item.type for item in answer.output] == ["reasoning", "message", "function_call", "message"]
    assert answer.output[0].content[0].text == "two\nand two"
    assert answer.output_text == "Four. \n Done."
    assert (answer.output[2].name, answer.output[2].arguments) == ("add", '{"a":1}')
    assert answer.status == "completed"
    assert answer.usage.output_tokens_details.reasoning_tokens == len(engine.tokenizer.encode("two\nand two\n</think>"))
    prompt = engine.tokenizer.decode(engine.requests[-1][0])
    assert prompt.startswith("<|im_start|>system\nbe brief\n\n# Tools")


def test_a_streamed_response_ends_with_what_its_deltas_say(client, engine):
    engine.text = TEXT
    events = list(client.responses.create(model="fake", input="2+2?", tools=[TOOL], stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert [e.type for e in events[:2]] == ["response.created", "response.in_progress"]
    last = events[-1]
    assert last.type == "response.completed"
    for kind, field in (("reasoning_text", "reasoning"), ("output_text", "message")):
        grown = "".join(e.delta for e in events if e.type == f"response.{kind}.delta")
        told = "".join(i.content[0].text for i in last.response.output if i.type == field)
        assert grown == told != ""
    added = [e.item.id for e in events if e.type == "response.output_item.added"]
    done = [e.item.id for e in events if e.type == "response.output_item.done"]
    assert added == done == [item.id for item in last.response.output]


def test_response_items_go_back_in_as_history(client, engine):
    engine.text = "It is 2."
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "1+1"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hidden"}]},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c", "output": "2"},
    ]
    answer = client.responses.create(model="fake", input=items, tools=[TOOL], reasoning={"effort": "none"})
    assert answer.output_text == "It is 2."
    prompt = engine.tokenizer.decode(engine.requests[-1][0])
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>' in prompt
    assert "<tool_response>\n2\n</tool_response>" in prompt and "hidden" not in prompt


def test_a_response_cut_off_is_incomplete_and_says_why(client, engine):
    engine.text = "on and on and on"
    answer = client.responses.create(model="fake", input="hi", max_output_tokens=3)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert "went into thinking" in answer.warnings[0]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("responses", {"input": 3}, "input"),
        ("responses", {"input": [{"type": "image"}]}, "input[0]"),
        ("responses", {"input": "a", "previous_response_id": "x"}, "previous_response_id"),
        ("responses", {"input": "a", "text": {"format": {"type": "xml"}}}, "text.format.type"),
        ("responses", {"input": "word " * 3000}, "input"),
        ("responses", {"input": "a", "tools": [{"type": "web_search", "name": "w"}]}, "tools[0].type"),
        ("messages", {"messages": [{"role": "user", "content": "a"}]}, "max_tokens"),
        (
            "messages",
            {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "messages[0].content",
        ),
        ("messages", {"max_tokens": 5, "messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ("messages", {"max_tokens": 5, "messages": [{"role": "user", "content": "a"}], "mood": 1}, "mood"),
    ],
)
def test_wrong_fields_bear_the_names_of_their_form(live, path, body, param):
    answer = live.web.post(f"/v1/{path}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param, answer.json()


MESSAGES = {
    "model": "fake",
    "max_tokens": 200,
    "system": [{"type": "text", "text": "be brief"}],
    "messages": [
        {"role": "user", "content": "2+2?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hidden", "signature": ""},
                {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "4"}]},
    ],
    "tools": [{"name": "add", "input_schema": PARAMETERS}],
}


@pytest.mark.parametrize(
    ("ended_by", "reason", "sequence"), [("b", "stop_sequence", "b"), (7, "end_turn", None), (None, "end_turn", None)]
)
def test_a_message_names_the_stop_sequence_that_ended_it(live, engine, monkeypatch, ended_by, reason, sequence):
    engine.text = "</think>\n\nfour"
    monkeypatch.setattr(engine, "stop_reason", ended_by)
    body = {**MESSAGES, "tools": None, "stop_sequences": ["a", "b"]}
    answer = live.web.post("/v1/messages", json=body).json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, sequence)


def test_a_message_has_thinking_text_and_tool_use_blocks(live, engine):
    engine.text = TEXT
    answer = live.web.post("/v1/messages", json=MESSAGES).json()
    assert [block["type"] for block in answer["content"]] == ["thinking", "text", "tool_use", "text"]
    assert answer["content"][0]["thinking"] == "two\nand two"
    assert answer["content"][2] | {"id": ""} == {"type": "tool_use", "id": "", "name": "add", "input": {"a": 1}}
    assert answer["stop_reason"] == "tool_use"
    count = live.web.post("/v1/messages/count_tokens", json={**MESSAGES, "max_tokens": None})
    assert count.status_code == 400
    body = {key: value for key, value in MESSAGES.items() if key != "max_tokens"}
    count = live.web.post("/v1/messages/count_tokens", json=body).json()
    assert count == {"input_tokens": answer["usage"]["input_tokens"]}
    prompt = engine.tokenizer.decode(engine.requests[-1][0])
    assert "be brief" in prompt and "<tool_response>\n4\n" in prompt and "hidden" not in prompt


def test_a_streamed_message_is_the_whole_one(live, engine):
    engine.text = TEXT
    whole = live.web.post("/v1/messages", json=MESSAGES).json()
    blocks, last = [], {}
    with live.web.stream("POST", "/v1/messages", json={**MESSAGES, "stream": True}) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            one = json.loads(line.removeprefix("data: "))
            if one["type"] == "content_block_start":
                blocks.append({**one["content_block"], "json": ""})
            elif one["type"] == "content_block_delta":
                delta = one["delta"]
                key = {"thinking_delta": "thinking", "text_delta": "text", "input_json_delta": "json"}.get(
                    delta["type"]
                )
                if key:
                    blocks[one["index"]][key] += delta.get(key, delta.get("partial_json"))
            elif one["type"] == "message_delta":
                last = one
    for streamed, told in zip(blocks, whole["content"], strict=True):
        assert streamed["type"] == told["type"]
        if told["type"] == "tool_use":
            assert json.loads(streamed["json"]) == told["input"]
        else:
            assert streamed[told["type"]] == told[told["type"]]
    assert last["delta"]["stop_reason"] == whole["stop_reason"]
    assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
