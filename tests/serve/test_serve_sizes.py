"""What is too much for one request is refused by its field, early, and what clients really send is not."""

import json
import threading

import pytest
from serve_support import FakeEngine, httpx, running, wait_for

from openqwq.serve import ServedModel
from openqwq.serve.prompts import PIECE, fewest_tokens

CHAT = "/v1/chat/completions"
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
LONG = "x y " * 40_000


def user(text="hi"):
    return [{"role": "user", "content": text}]


def calls(arguments):
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    return [*user(), {"role": "assistant", "content": None, "tool_calls": [call]}, *user()]


def nested(depth):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def post(live, path, body):
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return live.web.post(path, content=content, headers={"Content-Type": "application/json"})


def words(count, length=8):
    return [f"{number:0{length}}" for number in range(count)]


TOO_MUCH = {
    "messages": {"messages": user() * 5000},
    "messages[0].content": {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 5000}]},
    "messages[1].tool_calls": {"messages": [*user(), {"role": "assistant", "tool_calls": [CALL] * 600}]},
    "tools": {"messages": user(), "tools": [{"type": "function", "function": {"name": "f"}}] * 600},
    "bad_words": {"messages": user(), "bad_words": words(1001)},
    "stop_token_ids": {"messages": user(), "stop_token_ids": [5] * 1025},
    "logit_bias": {"messages": user(), "logit_bias": dict.fromkeys(words(1025), 1)},
    "answer_scripts": {"messages": user(), "answer_scripts": ["latin"] * 65},
    "thinking_scripts": {"messages": user(), "thinking_scripts": ["latin"] * 65},
    "metadata": {"messages": user(), "metadata": dict.fromkeys(words(257), "x")},
    "structured_outputs.choice": {"messages": user(), "structured_outputs": {"choice": words(1001)}},
    "structured_outputs": {"messages": user(), "structured_outputs": {"regex": "a" * 120_001}},
    "stop": {"messages": user(), "stop": ["x" * 257]},
}


@pytest.mark.parametrize("param", TOO_MUCH)
def test_field_that_holds_too_much_is_named(live, param):
    answer = post(live, CHAT, TOO_MUCH[param])
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


ENOUGH = {
    "messages": {"messages": user() * 200},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 300}]},
    "bad_words": {"messages": user(), "bad_words": words(1000)},
    "stop_token_ids": {"messages": user(), "stop_token_ids": [5] * 1024},
    "logit_bias": {"messages": user(), "logit_bias": {str(i): 1 for i in range(1024)}},
    "choice": {"messages": user(), "structured_outputs": {"choice": words(1000, 100)}},
    "stop": {"messages": user(), "stop": ["x" * 256] * 16},
    "one stop": {"messages": user(), "stop": "x" * 256},
    "metadata": {"messages": user(), "metadata": dict.fromkeys(words(256), "x")},
}


@pytest.mark.parametrize("name", ENOUGH)
def test_field_at_its_bound_is_taken(live, engine, name):
    engine.text = "</think>\n\nyes"
    answer = post(live, CHAT, {"max_tokens": 8, **ENOUGH[name]})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": ["x"] * 513}, "prompt"),
        ("/v1/completions", {"prompt": [5] * 1_000_001}, "prompt"),
        ("/v1/responses", {"input": user() * 5000}, "input"),
        ("/v1/messages", {"max_tokens": 4, "messages": user() * 5000}, "messages"),
        ("/v1/messages", {"max_tokens": 4, "messages": user(), "stop_sequences": ["x" * 257]}, "stop_sequences"),
        ("/tokenize", {"prompt": "x " * 2**20 + "x"}, "prompt"),
        ("/detokenize", {"tokens": [5] * 1_000_001}, "tokens"),
    ],
)
def test_other_paths_bound_their_fields_too(live, path, body, param):
    answer = post(live, path, body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


def test_flood_of_unknown_fields_is_one_error(live):
    answer = post(live, CHAT, {"messages": user(), **dict.fromkeys(words(1000), 1)})
    assert answer.status_code == 400 and "1001 fields" in answer.json()["error"]["message"]
    turns = [{"role": "user", "content": "x", **dict.fromkeys(words(30), None)}] * 100
    answer = post(live, CHAT, {"messages": turns})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages"


def test_body_of_half_a_million_lists_is_refused_before_it_is_read(live):
    answer = post(live, CHAT, b'{"messages":[' + b"[]," * 400_001 + b"[]]}")
    assert answer.status_code == 400 and "objects and lists" in answer.json()["error"]["message"]


LONG_TEXTS = {
    "user": (CHAT, {"messages": user(LONG)}, "messages"),
    "system": (CHAT, {"messages": [{"role": "system", "content": LONG}, *user()]}, "messages"),
    "tool": (
        CHAT,
        {"messages": user(), "tools": [{"type": "function", "function": {"name": "f", "description": LONG}}]},
        "messages",
    ),
    "completion": ("/v1/completions", {"prompt": LONG}, "prompt"),
    "response": ("/v1/responses", {"input": LONG}, "input"),
    "message": ("/v1/messages", {"max_tokens": 4, "messages": user(LONG)}, "messages"),
}


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_text_that_cannot_fit_is_refused_before_it_is_tokenised_to_its_end(live, monkeypatch, tokenizer, name):
    path, body, param = LONG_TEXTS[name]
    lengths, encode = [], tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda text, *breaks: lengths.append(len(text)) or encode(text, *breaks))
    error = post(live, path, body).json()["error"]
    assert (error["param"], error["code"]) == (param, "context_length_exceeded")
    assert "at least" in error["message"] and sum(lengths) <= PIECE


@pytest.mark.parametrize("text", ["x y " * 50_000, "a" * 150_000, "中文" * 60_000, " " * 150_000, "1 2 3\n" * 30_000])
def test_fewest_tokens_are_never_more_than_there_are(tokenizer, text):
    whole = len(tokenizer.encode(text))
    for most in (100, 5000, whole - 1, whole, whole + 1, 10**9):
        least = fewest_tokens(tokenizer, text, most)
        assert least <= whole
        if most <= whole // 2 and len(text) > max(PIECE, most):
            assert least > most


def test_long_text_that_fits_is_taken_whole(engine, tokenizer):
    engine = FakeEngine(tokenizer, "</think>\n\nyes")
    model = ServedModel(name="long", engine=engine, tokenizer=tokenizer, max_model_len=400_000, vocab_size=1024)
    with running([model]) as live:
        answer = post(live, CHAT, {"messages": user(LONG), "max_tokens": 4})
    assert answer.status_code == 200 and tokenizer.decode(engine.requests[0][0]).count("x y") == 40_000


def test_tokenize_counts_texts_beyond_the_context(live, tokenizer):
    answer = post(live, "/tokenize", {"prompt": LONG}).json()
    assert answer["tokens"] == tokenizer.encode(LONG) and answer["count"] > answer["max_model_len"]
    assert post(live, "/tokenize", {"messages": user(LONG)}).status_code == 200


BOMB = '{"a":' * 5000 + "1" + "}" * 5000
BOMBS = {
    "arguments": (CHAT, {"messages": calls(BOMB)}, "messages"),
    "lists": (CHAT, {"messages": calls("[" * 50_000)}, "messages"),
    "content": (CHAT, {"messages": [{"role": "user", "content": nested(300)}]}, "messages"),
    "an item": (
        "/v1/responses",
        {"input": [*user(), {"type": "function_call", "call_id": "a", "name": "f", "arguments": BOMB}]},
        "input",
    ),
    "the body": (CHAT, '{"messages":' + BOMB + "}", None),
    "the body's lists": (CHAT, "[" * 100_000, None),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_is_nested_too_deeply_is_the_clients_mistake(live, name):
    path, body, param = BOMBS[name]
    answer = post(live, path, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_client_that_leaves_while_its_request_is_read_is_not_sampled_for(live, engine, monkeypatch, tokenizer):
    began, go_on, encode = threading.Event(), threading.Event(), tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda *given: began.set() or (go_on.wait(20) and encode(*given)))
    num_before = len(engine.requests)
    with httpx.Client(base_url=live.url, timeout=0.5) as impatient, pytest.raises(httpx.ReadTimeout):
        impatient.post(CHAT, json={"messages": user(), "stream": True})
    assert began.is_set()
    wait_for(lambda: 'status="499"' in live.web.get("/metrics").text)
    go_on.set()
    monkeypatch.undo()
    assert post(live, CHAT, {"messages": user(), "max_tokens": 4}).status_code == 200
    assert len(engine.requests) == num_before + 1
