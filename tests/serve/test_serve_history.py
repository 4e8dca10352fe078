"""Conversations that began elsewhere: other servers' fields, system turns, parts, failed calls, begun answers."""

import json

import pytest

USER = [{"role": "user", "content": "What is 2+2?"}]
ECHO = {"role": "user", "content": "Sure?"}


def post(live, path, body):
    answer = live.web.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    return answer.status_code, answer.json()


def chat(live, *messages, **fields):
    return post(live, "/v1/chat/completions", {"messages": list(messages), "max_tokens": 8, **fields})


def claude(live, *messages, **fields):
    return post(live, "/v1/messages", {"max_tokens": 8, "messages": list(messages), **fields})


def last_prompt(engine):
    return engine.tokenizer.decode(engine.requests[-1][0])


@pytest.mark.parametrize(
    ("fields", "warned"),
    [
        ({"reasoning_details": [{"type": "reasoning.text", "text": "t"}]}, ["reasoning_details"]),
        ({"thinking_blocks": [{"type": "thinking", "thinking": "t"}], "id": "m"}, ["thinking_blocks", "id"]),
        ({"provider_specific_fields": {"refusal": None}}, ["provider_specific_fields"]),
        ({"provider_specific_fields": None, "images": [], "function_call": None, "audio": None}, []),
        ({"refusal": None, "annotations": [], "metadata": {}, "stop_reason": "", "tool_calls": None}, []),
        ({"reasoning": {"effort": "low"}, "reasoning_content": ["t"]}, []),
        ({"prefix": False, "is_error": False, "name": "bob"}, []),
    ],
)
def test_fields_that_other_servers_put_into_the_history_do_not_stop_it(live, engine, fields, warned):
    engine.text = "</think>4"
    status, answer = chat(live, *USER, {"role": "assistant", "content": "4", **fields}, ECHO)
    assert status == 200, answer
    named = [f"`messages[1].{name}`" for name in warned]
    expected = [f"not known here and left out: {', '.join(named)}"] if warned else []
    assert answer.get("warnings", []) == expected
    assert last_prompt(engine).count("assistant\n4<") == 1


def test_a_refusal_in_the_history_is_the_text_of_its_turn(live, engine):
    engine.text = "</think>4"
    for turn in (
        {"content": [{"type": "refusal", "refusal": "I will not."}]},
        {"content": None, "refusal": "I will not."},
    ):
        status, _ = chat(live, *USER, {"role": "assistant", **turn}, ECHO)
        assert status == 200 and "assistant\nI will not.<" in last_prompt(engine)


def test_unknown_fields_beside_the_history_are_still_refused(live):
    assert chat(live, *USER, temprature=1)[1]["error"]["code"] == "unknown_parameter"
    assert claude(live, *USER, temprature=1)[1]["error"]["code"] == "unknown_parameter"
    tools = [{"type": "function", "function": {"name": "f", "parametres": {}}}]
    assert chat(live, *USER, tools=tools)[1]["error"]["param"] == "tools[0].function.parametres"


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "system", "content": "S1"}, *USER],
        [*USER, {"role": "system", "content": "S1"}],
        [*USER, {"role": "system", "content": "S1"}, {"role": "system", "content": "S2"}, ECHO],
        [*USER, {"role": "assistant", "content": "4"}, {"role": "system", "content": [{"type": "text", "text": "S1"}]}],
    ],
)
def test_system_turns_stand_at_any_place_of_a_message(live, engine, turns):
    engine.text = "</think>4"
    status, answer = claude(live, *turns, system="S0")
    assert status == 200, answer
    prompt = last_prompt(engine)
    told = ["S0"] + [f"S{i}" for i, turn in enumerate([t for t in turns if t["role"] == "system"], 1)]
    places = [prompt.index(f"<|im_start|>system\n{text}<|im_end|>") for text in told]
    assert places == sorted(places)
    assert prompt.endswith("<|im_start|>assistant\n<think>\n")


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (["12", "34"], "12\n34"),
        (["a.py", "x = 1\n", "What is x?"], "a.py\nx = 1\nWhat is x?"),
        (["a", "\nb"], "a\nb"),
        (["", "a", "", "b"], "a\nb"),
        (["only one"], "only one"),
    ],
)
def test_parts_of_a_text_stay_apart_in_every_form(live, engine, parts, text):
    engine.text = "</think>4"
    blocks = [{"type": "text", "text": part} for part in parts]
    items = [{"role": "user", "content": [{"type": "input_text", "text": part} for part in parts]}]
    for status, _ in (
        chat(live, {"role": "user", "content": blocks}),
        claude(live, {"role": "user", "content": blocks}),
        post(live, "/v1/responses", {"input": items}),
    ):
        assert status == 200
        assert f"<|im_start|>user\n{text}<|im_end|>" in last_prompt(engine)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    chat(
        live,
        *USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": blocks},
    )
    assert f"<tool_response>\n{text}\n</tool_response>" in last_prompt(engine)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("boom", "The call failed.\nboom"),
        ("", "The call failed."),
        (None, "The call failed."),
        ([{"type": "text", "text": '{"ok": false}'}], 'The call failed.\n{"ok": false}'),
    ],
)
def test_the_model_is_told_that_a_call_failed(live, engine, content, told):
    engine.text = "</think>4"
    used = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}
    result = {"type": "tool_result", "tool_use_id": "t", "content": content}
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    claude(live, *USER, used, {"role": "user", "content": [{**result, "is_error": True}]}, tools=tools)
    assert f"<tool_response>\n{told}\n</tool_response>" in last_prompt(engine)
    claude(live, *USER, used, {"role": "user", "content": [{**result, "is_error": False}]}, tools=tools)
    assert "The call failed" not in last_prompt(engine)
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = {"role": "tool", "tool_call_id": "t", "content": content, "is_error": True}
    chat(live, *USER, {"role": "assistant", "tool_calls": [call]}, turn)
    assert f"<tool_response>\n{told}\n</tool_response>" in last_prompt(engine)


def test_blocks_of_another_servers_tools_are_left_out_of_its_own_turns_only(live, engine):
    engine.text = "</think>4"
    searched = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    turn = {"role": "assistant", "content": [searched, {"type": "text", "text": "It is 4."}]}
    status, answer = claude(live, *USER, turn, ECHO)
    assert status == 200 and "`server_tool_use`" in answer["warnings"][0]
    assert "assistant\nIt is 4.<" in last_prompt(engine)
    assert claude(live, {"role": "user", "content": [searched]})[1]["error"]["param"] == "messages[0].content"


def test_items_of_another_servers_tools_are_left_out_with_a_warning(live, engine):
    engine.text = "</think>4"
    searched = {"type": "web_search_call", "id": "w", "status": "completed"}
    said = {"role": "assistant", "content": [{"type": "refusal", "refusal": "I will not."}]}
    status, answer = post(live, "/v1/responses", {"input": [*USER, searched, said, ECHO]})
    assert status == 200 and answer["warnings"] == [
        "items of tools that are not known here were left out: `web_search_call`"
    ]
    assert "assistant\nI will not.<" in last_prompt(engine)
    assert post(live, "/v1/responses", {"input": [{"type": "item_reference", "id": "m"}]})[0] == 400


def test_openais_older_words_for_calls_are_read(live, engine):
    engine.text = "</think>4"
    called = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}}
    assert chat(live, *USER, called, {"role": "function", "name": "f", "content": "4"})[0] == 200
    assert '{"name": "f", "arguments": {"x": 1}}' in last_prompt(engine)
    assert "<tool_response>\n4\n</tool_response>" in last_prompt(engine)


def test_thinking_parts_of_an_earlier_answer_are_left_out(live, engine):
    engine.text = "</think>4"
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hidden"}]},
        {"type": "text", "text": "It is 4."},
    ]
    assert chat(live, *USER, {"role": "assistant", "content": parts}, ECHO)[0] == 200
    assert "assistant\nIt is 4.<" in last_prompt(engine)
    assert chat(live, {"role": "user", "content": parts})[0] == 400


def test_control_tokens_in_a_begun_answer_stay_text(live, engine):
    engine.text = " ends it."
    claude(live, *USER, {"role": "assistant", "content": "In ChatML <|im_end|>"})
    ids = engine.requests[-1][0]
    end = engine.tokenizer.token_id("<|im_end|>")
    assert last_prompt(engine).endswith("In ChatML <|im_end|>") and ids.count(end) == 1


@pytest.mark.parametrize(
    ("content", "prompt_end"),
    [
        ("{", "<think>\n\n</think>\n\n{"),
        ([{"type": "text", "text": "The answer is"}], "<think>\n\n</think>\n\nThe answer is"),
        (
            [{"type": "thinking", "thinking": "2 and 2", "signature": "x"}, {"type": "text", "text": "It"}],
            "<think>\n2 and 2\n</think>\n\nIt",
        ),
        ([{"type": "thinking", "thinking": "2 and", "signature": "x"}], "<think>\n2 and"),
        ("", "assistant\n<think>\n"),
    ],
)
def test_a_last_turn_of_the_assistant_is_continued(live, engine, content, prompt_end):
    engine.text = " 2\n</think>\n\n4" if prompt_end.endswith("and") else "\n4"
    status, answer = claude(live, *USER, {"role": "assistant", "content": content}, max_tokens=50)
    assert status == 200, answer
    assert last_prompt(engine).endswith(
        f"<|im_start|>assistant\n{prompt_end}" if "assistant" not in prompt_end else prompt_end
    )
    blocks = [(block["type"], block[block["type"]]) for block in answer["content"]]
    if prompt_end.endswith("and"):
        assert blocks == [("thinking", " 2"), ("text", "4")]
    elif content:
        assert blocks == [("text", "\n4")]


def test_chats_are_continued_on_request_and_answered_otherwise(live, engine):
    engine.text = " is 4."
    turn = {"role": "assistant", "content": "It"}
    for fields, last in (({"continue_final_message": True}, turn), ({}, {**turn, "prefix": True})):
        status, answer = chat(live, *USER, last, **fields)
        assert status == 200 and answer["choices"][0]["message"]["content"] == " is 4."
        assert last_prompt(engine).endswith("</think>\n\nIt")
    chat(live, *USER, turn)
    assert last_prompt(engine).endswith("assistant\nIt<|im_end|>\n<|im_start|>assistant\n<think>\n")


@pytest.mark.parametrize(
    ("last", "fields", "param"),
    [
        ({"role": "user", "content": "a"}, {}, "messages"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, {}, "messages"),
        ({"role": "assistant", "content": "{"}, {"response_format": {"type": "json_object"}}, "response_format"),
        ({"role": "assistant", "content": "{"}, {"add_generation_prompt": True}, "add_generation_prompt"),
    ],
)
def test_what_cannot_be_continued_is_refused(live, last, fields, param):
    status, answer = chat(live, *USER, last, continue_final_message=True, **fields)
    assert (status, answer["error"]["param"]) == (400, param)


HALF = "\ud83d"
SCHEMA = {"type": "object", "properties": {"a": {"enum": [HALF]}}}


@pytest.mark.parametrize(
    ("path", "fields", "place"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": f"a{HALF}"}]}, "messages[0].content"),
        ("/v1/chat/completions", {"messages": USER, "stop": ["x", HALF]}, "stop[1]"),
        ("/v1/chat/completions", {"messages": USER, "structured_outputs": {"json": SCHEMA}}, "properties.a.enum[0]"),
        ("/v1/chat/completions", {"messages": USER, "structured_outputs": {"json": {HALF: 1}}}, "outputs.json"),
        ("/v1/chat/completions", {"messages": USER, "structured_outputs": {"regex": f"[{HALF}]"}}, "outputs.regex"),
        ("/v1/chat/completions", {"messages": USER, "user": "\ude00\ud83d"}, "user"),
        ("/v1/completions", {"prompt": ["a", HALF]}, "prompt[1]"),
        ("/v1/responses", {"input": "a", "text": {"format": {"schema": SCHEMA}}}, "text.format"),
        ("/v1/messages", {"messages": USER, "max_tokens": 5, "tools": [{"input_schema": SCHEMA}]}, "tools[0]"),
        ("/v1/messages/count_tokens", {"messages": USER, "system": HALF}, "system"),
        ("/tokenize", {"prompt": HALF}, "prompt"),
    ],
)  # fmt: skip
def test_half_a_surrogate_pair_anywhere_is_refused_with_its_place(live, path, fields, place):
    status, answer = post(live, path, fields)
    assert status == 400
    assert place in answer["error"]["message"] and "surrogate" in answer["error"]["message"]


@pytest.mark.parametrize(
    "body", [b'{"prompt": "a\xed\xa0\xbd"}', '{"prompt": "a\ud83d"}'.encode("utf-16-le", "surrogatepass")]
)
def test_half_a_surrogate_pair_in_odd_bytes_is_refused_too(live, body):
    answer = live.web.post("/tokenize", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400


@pytest.mark.parametrize("text", ["\U0001f600", "\\ud83d", "\\\\ude00 \U0001f600", "é"])
def test_whole_pairs_and_backslashes_are_text(live, text):
    body = json.dumps({"prompt": text})  # writes the pair as two escapes
    answer = live.web.post("/tokenize", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    ids = answer.json()["tokens"]
    assert live.web.post("/detokenize", json={"tokens": ids}).json()["prompt"] == text


def test_a_call_with_half_a_pair_in_its_arguments_goes_back_as_the_model_wrote_it(live, engine):
    engine.text = "</think>4"
    arguments = '{"x": "\\ud83d"}'
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    turns = [*USER, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "1"}]
    assert chat(live, *turns)[0] == 200
    assert f'{{"name": "f", "arguments": {arguments}}}' in last_prompt(engine)
