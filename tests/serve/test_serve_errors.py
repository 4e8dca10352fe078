"""What is refused, how it is said, and who is let in."""

import http.client
import json
import socket
import time
from urllib.parse import urlparse

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_support import running

from openqwq.serve import ServedModel
from openqwq.serve.listen import Connection, bind

USER = [{"role": "user", "content": "hi"}]


def post(live, path, body, **headers):
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return live.web.post(path, content=content, headers={"Content-Type": "application/json", **headers})


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 2.5}, "max_tokens", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_value"),
        ({"stop": [""]}, "stop[0]", "invalid_value"),
        ({"repetition_penalty": 5e-324}, "repetition_penalty", "invalid_value"),
        ({"stop": 3}, "stop", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": None}, "messages", "invalid_value"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": 1}]}, "messages[0].tool_calls", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages", "invalid_value"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, "messages", "invalid_value"),
        ({"model": "other"}, "model", "model_not_found"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "unsupported_parameter"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema", "invalid_value"),
        ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tool_choice": 5}, "tool_choice", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "invalid_value"),
        ({"reasoning_effort": "low", "thinking_budget": 5}, "reasoning_effort", "invalid_value"),
        ({"chat_template_kwargs": {"nope": 1}}, "chat_template_kwargs.nope", "unsupported_parameter"),
        ({"stop_token_ids": [5000]}, "stop_token_ids", "invalid_value"),
    ],
)
def test_a_wrong_field_is_named(live, change, param, code):
    answer = post(live, "/v1/chat/completions", {"model": "fake", "messages": USER, **change})
    assert answer.status_code == (404 if code == "model_not_found" else 400)
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error
    assert error["message"] and error["type"]


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "7", '{"messages": ', "[" * 100_000, b"\xff\xfe", '{"temperature": NaN}']
)
def test_a_body_that_is_no_object_is_refused(live, body):
    answer = post(live, "/v1/chat/completions", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_a_prompt_that_is_too_long_is_refused_with_the_counts(live, engine):
    text = "word " * 3000
    answer = post(live, "/v1/chat/completions", {"messages": [{"role": "user", "content": text}]})
    error = answer.json()["error"]
    count = len(engine.tokenizer.encode_chat([{"role": "user", "content": text}]))
    assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert str(count) in error["message"] and "2048" in error["message"]


def test_unknown_paths_and_methods_have_the_same_form(live):
    assert live.web.get("/v2/nothing").json()["error"]["type"] == "not_found_error"
    assert live.web.get("/v1/chat/completions").status_code == 405


def test_only_json_is_read_so_that_other_sites_cannot_post(live):
    answer = live.web.post("/v1/chat/completions", content="{}", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    preflight = live.web.options("/v1/chat/completions", headers={"Origin": "https://site.example"})
    assert "access-control-allow-origin" not in preflight.headers


def served(engine, tokenizer):
    return ServedModel(name="fake", engine=engine, tokenizer=tokenizer, max_model_len=512, vocab_size=1024)


def test_keys_hosts_origins_and_sizes(engine, tokenizer):
    engine.text = "</think>ok"
    allowed = {
        "api_keys": ("one", "two", "schlüssel"),
        "allowed_hosts": ("127.0.0.1",),
        "cors_origins": ("https://page.example",),
        "max_body_bytes": 2000,
    }
    with running([served(engine, tokenizer)], **allowed) as live:
        body = {"messages": USER}
        assert post(live, "/v1/chat/completions", body).json()["error"]["code"] == "invalid_api_key"
        assert post(live, "/v1/chat/completions", body, Authorization="Bearer on").status_code == 401
        assert post(live, "/v1/chat/completions", body, Authorization="Bearer two").status_code == 200
        assert post(live, "/v1/chat/completions", body, **{"x-api-key": "one"}).status_code == 200
        assert post(live, "/v1/chat/completions", body, **{"x-api-key": "schlüssel".encode()}).status_code == 200
        assert live.web.get("/metrics").status_code == 401
        assert live.web.get("/health").json() == {"status": "ok"}
        assert live.web.get("/health", headers={"Host": "evil.example"}).status_code == 403
        origin = {"Origin": "https://page.example"}
        assert live.web.get("/health", headers=origin).headers["access-control-allow-origin"] == origin["Origin"]
        big = {"messages": [{"role": "user", "content": "a" * 3000}]}
        assert (
            post(live, "/v1/chat/completions", big, Authorization="Bearer one").json()["error"]["code"]
            == "body_too_large"
        )
        chunks = iter([b'{"messages": "', b"a" * 3000])
        headers = {"Content-Type": "application/json", "x-api-key": "one"}
        assert live.web.post("/tokenize", content=chunks, headers=headers).status_code == 413
        with live.client(api_key="three") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_a_full_queue_says_when_to_come_back(engine, tokenizer):
    engine.text, engine.pause_s = "</think>" + "a " * 200, 0.01
    try:
        with running([served(engine, tokenizer)], max_samples=2) as live, live.client() as client:
            stream = client.chat.completions.create(model="fake", messages=USER, n=2, stream=True)
            next(iter(stream))
            answer = post(live, "/v1/chat/completions", {"messages": USER})
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
            assert int(answer.headers["retry-after"]) > 0
            stream.close()
    finally:
        engine.pause_s = 0.0


def test_a_body_that_does_not_come_is_given_up(engine, tokenizer):
    with running([served(engine, tokenizer)], body_timeout_s=0.2) as live:
        place = urlparse(live.url)
        with socket.create_connection((place.hostname, place.port), timeout=10) as sock:
            sock.sendall(
                b"POST /tokenize HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Content-Length: 20\r\n\r\n{"
            )
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            assert answer.status == 408


def raw_answer(live, data):
    """(status, body) of what was sent as bytes; the status is 0 when the connection was closed instead."""
    place = urlparse(live.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as sock:
        sock.sendall(data)
        answer = http.client.HTTPResponse(sock)
        try:
            answer.begin()
        except (http.client.RemoteDisconnected, ConnectionResetError):
            return 0, b""
        return answer.status, answer.read()


@pytest.mark.parametrize("data", [b"", b"GET /health HTT", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "])
def test_headers_that_do_not_come_are_given_up(live, monkeypatch, data):
    monkeypatch.setattr(Connection, "header_timeout_s", 0.1)
    begun = time.monotonic()
    assert raw_answer(live, data) == (0, b"")
    assert time.monotonic() - begun < 8


def test_headers_that_come_in_two_parts_after_another_answer_are_read(live):
    place = urlparse(live.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as sock:
        for _ in range(2):
            sock.sendall(b"GET /version HTTP/1.1\r\nHo")
            time.sleep(0.02)
            sock.sendall(b"st: 127.0.0.1\r\n\r\n")
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            assert (answer.status, list(json.loads(answer.read()))) == (200, ["version"])


@pytest.mark.parametrize("data", [b"\x00\x01nothing\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n"])
def test_what_is_no_http_or_too_large_a_header_has_the_same_form(live, data):
    status, body = raw_answer(live, data)
    assert (status, json.loads(body)["error"]["code"]) == (400, "not_http")


ODD = st.recursive(
    st.sampled_from([None, True, -1, 0, 2**70, 1e300, "", "a", "\ud800", "auto", "required", "</think>"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.sampled_from(["type", "function", "name", "content", "role", "text", "json_schema", "schema"]), inner
        ),
    ),
    max_leaves=5,
)
FIELDS = ("messages", "prompt", "input", "tools", "tool_choice", "stop", "n", "logit_bias", "response_format", "text")
FIELDS += ("tokens", "system", "thinking", "reasoning", "structured_outputs", "stop_token_ids", "chat_template_kwargs")
GOOD = {
    "/v1/chat/completions": {"messages": USER, "max_tokens": 2},
    "/v1/completions": {"prompt": "a", "max_tokens": 2},
    "/v1/responses": {"input": "a", "max_output_tokens": 2},
    "/v1/messages": {"messages": USER, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": USER},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [1]},
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(list(GOOD)), odd=st.dictionaries(st.sampled_from(FIELDS), ODD, min_size=1, max_size=3))
def test_whatever_a_body_holds_the_answer_is_200_or_says_what_is_wrong(live, engine, path, odd):
    engine.text = "</think>ok"
    answer = post(live, path, {**GOOD[path], **odd})
    assert answer.status_code in (200, 400), (answer.status_code, answer.text)
    assert answer.status_code == 200 or answer.json()["error"]["message"]


def test_small_pieces_of_a_stream_are_sent_at_once():
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_requests_that_name_no_model_go_to_the_default_one(engine, tokenizer):
    engine.text = "</think>ok"
    models = [
        ServedModel(name=name, engine=engine, tokenizer=tokenizer, max_model_len=512, vocab_size=1024)
        for name in ("cold_start", "final")
    ]
    with running(models) as live:
        assert post(live, "/v1/chat/completions", {"messages": USER}).json()["model"] == "cold_start"
        live.server.default = "final"
        assert [model["id"] for model in live.web.get("/v1/models").json()["data"]] == ["final", "cold_start"]
        assert post(live, "/v1/chat/completions", {"messages": USER}).json()["model"] == "final"
        assert (
            post(live, "/v1/chat/completions", {"model": "cold_start", "messages": USER}).json()["model"]
            == "cold_start"
        )
