"""What the engine does for a request: thinking bounded and closed, forms of answers and calls, log-probs, biases."""

import json
import math
from pathlib import Path

import openai
import pytest
from serve_support import running

from openqwq.serve.load import load_served_model

BASE = Path(__file__).parents[2] / "recipes" / "base" / "tiny"
USER = [{"role": "user", "content": "Solve for x: 3*x + 4 = 19"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["city", "n"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "look_up", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "additionalProperties": False}}},
]


@pytest.fixture(scope="module")
def real():
    with running([load_served_model(BASE, "tiny", max_num_seqs=4)]) as started:
        yield started


@pytest.fixture(scope="module")
def client(real):
    with real.client() as made:
        yield made


def ask(client, **options):
    options = {"model": "tiny", "messages": USER, "seed": 3, "max_tokens": 200, "temperature": 1.0, **options}
    return client.chat.completions.create(**options)


def fits(value):
    return set(value) == {"city", "n"} and value["city"] in ("Rome", "Oslo") and 0 <= value["n"] <= 9


def test_a_thinking_budget_closes_the_thinking_and_the_answer_comes(client, real):
    answer = ask(client, extra_body={"thinking_budget": 5, "min_thinking_tokens": 5, "ignore_eos": True})
    tokenizer = real.server.models["tiny"].tokenizer
    closing = (
        "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now."
    )
    assert answer.choices[0].message.reasoning_content.endswith(closing)
    closed = 5 + len(tokenizer.encode(closing + "\n</think>\n\n")) - len(tokenizer.encode("\n\n"))
    assert answer.usage.completion_tokens_details.reasoning_tokens == closed
    assert answer.usage.completion_tokens == 200


def test_a_running_thought_can_be_told_to_end(client, real):
    body = {"min_thinking_tokens": 1500, "ignore_eos": True}
    stream = ask(client, stream=True, max_tokens=1700, extra_body=body)
    chunk = next(iter(stream))
    assert real.web.post(f"/v1/chat/completions/{chunk.id}/close_thinking", json={}).json()["closed"] is True
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    else:
        pytest.fail("no answer came")
    stream.close()
    gone = real.web.post("/v1/chat/completions/nothing/close_thinking", json={})
    assert (gone.status_code, gone.json()["error"]["type"]) == (404, "not_found_error")


def test_an_answer_keeps_to_its_schema_and_the_thinking_is_free(client):
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
    for effort in ("none", None):
        budget = {"thinking_budget": 3, "min_thinking_tokens": 3} if effort is None else {"reasoning_effort": effort}
        answer = ask(client, response_format=form, extra_body=budget)
        assert fits(json.loads(answer.choices[0].message.content))
    free = ask(client, response_format={"type": "json_object"}, reasoning_effort="none", max_tokens=20)
    assert free.choices[0].message.content.startswith('{"')
    text = ask(client, reasoning_effort="none", extra_body={"structured_outputs": {"choice": ["yes", "no"]}})
    assert text.choices[0].message.content in ("yes", "no")


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_can_be_required_and_named(client, stream):
    named = {"type": "function", "function": {"name": "look_up"}}
    answer = ask(client, tools=TOOLS, tool_choice=named, reasoning_effort="none", stream=stream)
    if stream:
        calls = [call for chunk in answer for choice in chunk.choices for call in choice.delta.tool_calls or ()]
        name, arguments = calls[0].function.name, "".join(call.function.arguments for call in calls)
    else:
        [call] = answer.choices[0].message.tool_calls
        name, arguments = call.function.name, call.function.arguments
        assert answer.choices[0].finish_reason == "tool_calls"
    assert name == "look_up" and fits(json.loads(arguments))
    required = ask(client, tools=TOOLS, tool_choice="required", reasoning_effort="none").choices[0]
    assert required.message.tool_calls[0].function.name in ("look_up", "stop")


def test_forms_that_are_none_name_their_field(client):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, extra_body={"structured_outputs": {"regex": "("}})
    assert caught.value.body["param"] == "structured_outputs"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, response_format={"type": "json_object"}, tools=TOOLS, tool_choice="required")
    assert caught.value.body["param"] == "response_format"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "gone"}})
    assert caught.value.body["param"] == "tool_choice"


def test_likeliest_tokens_come_with_their_log_probs(client):
    answer = ask(
        client, logprobs=True, top_logprobs=3, max_tokens=4, reasoning_effort="none", extra_body={"ignore_eos": True}
    )
    entries = answer.choices[0].logprobs.content
    assert len(entries) == 4
    for entry in entries:
        shown = [top.logprob for top in entry.top_logprobs]
        assert len(shown) == 3 and shown == sorted(shown, reverse=True)
        assert entry.logprob <= shown[0] + 1e-4
        assert sum(math.exp(value) for value in shown) <= 1 + 1e-5
    greedy = ask(client, logprobs=True, top_logprobs=1, max_tokens=1, temperature=0, reasoning_effort="none")
    [entry] = greedy.choices[0].logprobs.content
    assert entry.token == entry.top_logprobs[0].token


def test_a_bias_forces_a_token(client, real):
    token_id = real.server.models["tiny"].tokenizer.encode("7")[0]
    answer = ask(client, logit_bias={str(token_id): 100}, max_tokens=3, reasoning_effort="none")
    assert answer.choices[0].message.content == "777"
