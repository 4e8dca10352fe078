"""The server over the real engine: seeds, stops, clients that leave, requests that fail alone, draining."""

import asyncio
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

import httpx
import openai
import pytest
from serve_support import running, wait_for

from openqwq.serve.load import load_served_model, recommended_sampling

BASE = Path(__file__).parents[2] / "recipes" / "base" / "tiny"
USER = [{"role": "user", "content": "Solve for x: 3*x + 4 = 19"}]


@pytest.fixture(scope="module")
def real():
    model = load_served_model(BASE, "tiny", max_num_seqs=4)
    with running([model]) as started:
        yield started
    assert not model.engine._thread.is_alive()


@pytest.fixture(scope="module")
def client(real):
    with real.client() as made:
        yield made


def stats(real):
    return real.server.models["tiny"].engine.stats()


def test_recommended_sampling_is_the_folders():
    assert recommended_sampling(BASE) == {"temperature": 0.6, "top_p": 0.95, "top_k": 40, "repetition_penalty": 1.0}


def test_a_seed_gives_the_same_answer_streamed_and_whole(client):
    options = {"model": "tiny", "messages": USER, "max_tokens": 40, "temperature": 1.0, "seed": 5}
    options["extra_body"] = {"ignore_eos": True}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True))
    thinking = "".join(getattr(c.choices[0].delta, "reasoning_content", None) or "" for c in chunks)
    content = "".join(c.choices[0].delta.content or "" for c in chunks)
    message = whole.choices[0].message
    assert (thinking, content or None) == (getattr(message, "reasoning_content", ""), message.content)
    assert thinking or content
    assert client.chat.completions.create(**{**options, "seed": 6}).choices[0].message != message


def test_completions_continue_texts_and_ids_and_stop_where_told(client, real):
    tokenizer = real.server.models["tiny"].tokenizer
    answer = client.completions.create(model="tiny", prompt=["1+1=", "2+2="], max_tokens=6, n=2, seed=1, logprobs=0)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage.completion_tokens == sum(len(c.logprobs.tokens) for c in answer.choices) <= 24
    options = {"model": "tiny", "max_tokens": 12, "seed": 1, "temperature": 1, "extra_body": {"ignore_eos": True}}
    text = client.completions.create(prompt="1+1=", **options).choices[0].text
    by_ids = client.completions.create(prompt=tokenizer.encode("1+1="), stream=True, **options)
    assert "".join(chunk.choices[0].text for chunk in by_ids) == text
    stop = text[2:4]
    cut = client.completions.create(prompt="1+1=", stop=["never there", stop], **options).choices[0]
    assert (cut.text, cut.finish_reason, cut.stop_reason) == (text[: text.index(stop)], "stop", stop)
    *_, last = client.completions.create(prompt="1+1=", stop=["never there", stop], stream=True, **options)
    assert (last.choices[0].finish_reason, last.choices[0].stop_reason) == ("stop", stop)


def test_an_answer_says_which_string_or_token_ended_it(client, real):
    """vLLM's `stop_reason` beside OpenAI's `finish_reason`."""
    tokenizer = real.server.models["tiny"].tokenizer
    options = {"model": "tiny", "messages": USER, "max_tokens": 60, "temperature": 1.0, "seed": 5}
    for bias, asked, ended in ((None, {"stop_token_ids": [20]}, 20), (tokenizer.eos_token_id, {}, None)):
        extra = {"thinking_budget": 2, **asked}
        bias = {str(20 if bias is None else bias): 100}
        whole = client.chat.completions.create(**options, logit_bias=bias, extra_body=extra).choices[0]
        assert (whole.finish_reason, whole.stop_reason) == ("stop", ended)
        *_, last = client.chat.completions.create(**options, logit_bias=bias, extra_body=extra, stream=True)
        assert (last.choices[0].finish_reason, last.choices[0].stop_reason) == ("stop", ended)


def test_usage_counts_what_was_found_in_the_cache(client):
    history = [{"role": "user", "content": "Add the numbers, one after the other: " + "1+2+3+4+5, " * 20}]
    options = {"model": "tiny", "messages": history, "max_tokens": 1}
    first, second = (client.chat.completions.create(**options).usage for _ in range(2))
    assert first.prompt_tokens == second.prompt_tokens
    assert first.prompt_tokens_details.cached_tokens < 16 < second.prompt_tokens_details.cached_tokens
    assert second.prompt_tokens - second.prompt_tokens_details.cached_tokens <= 16
    answer = client.responses.create(model="tiny", input=history, max_output_tokens=3)
    assert answer.usage.input_tokens_details.cached_tokens == second.prompt_tokens_details.cached_tokens


def test_tokenize_and_back(real):
    answer = real.web.post("/tokenize", json={"prompt": "1+1=2 é", "return_token_strs": True}).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert real.web.post("/detokenize", json={"tokens": answer["tokens"]}).json() == {"prompt": "1+1=2 é"}
    chat = real.web.post("/tokenize", json={"messages": USER}).json()["tokens"]
    assert real.server.models["tiny"].tokenizer.decode(chat).endswith("<think>\n")
    assert real.web.post("/detokenize", json={"tokens": [9999]}).json()["error"]["param"] == "tokens[0]"


def raw_request(real, body):
    """A socket on which a chat request was sent, nothing read yet."""
    place = urlparse(real.url)
    sock = socket.create_connection((place.hostname, place.port), timeout=20)
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    sock.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return sock


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_is_aborted_within_a_step_and_its_cache_is_free(real, stream, monkeypatch):
    front = real.server.models["tiny"].engine
    step, enqueue, abort = front._engine.step, front._enqueue, front._engine.abort
    steps, asked, aborted = [], [], []  # engine steps done, in all and when something was asked for or aborted
    monkeypatch.setattr(front._engine, "step", lambda: steps.append(1) or step())
    monkeypatch.setattr(front, "_enqueue", lambda work: asked.append(len(steps)) or enqueue(work))
    monkeypatch.setattr(front._engine, "abort", lambda request_id: aborted.append(len(steps)) or abort(request_id))
    body = {"messages": USER, "extra": 1, "ignore_eos": True, "n": 3, "stream": stream, "temperature": 1.0}
    body.pop("extra")
    sock = raw_request(real, body)
    wait_for(lambda: stats(real).running == 3)
    if stream:
        assert sock.recv(100)
    sock.close()
    wait_for(lambda: stats(real).running == 0)
    assert stats(real).kv_blocks_used == 0
    wait_for(lambda: real.server.admission.under_way == 0)
    assert real.server.metrics.requests_running == 0
    assert len(aborted) == 1 and aborted[0] - asked[-1] <= 1 < len(steps)


def test_clients_share_the_engine_and_a_bad_request_fails_alone(real, client):
    sock = raw_request(real, {"messages": USER, "ignore_eos": True, "stream": True, "max_tokens": 1500})
    wait_for(lambda: stats(real).running == 1)
    bad = real.web.post("/v1/completions", json={"prompt": [1, 5000], "max_tokens": 3})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "prompt")
    good = client.completions.create(model="tiny", prompt="1+1=", max_tokens=3, extra_body={"ignore_eos": True})
    assert good.usage.completion_tokens == 3
    assert stats(real).running == 1
    sock.close()
    wait_for(lambda: stats(real).running == 0)


def poison(module, arguments, output):
    """As a forward hook of the embeddings: a token whose vector is not finite."""
    return output.masked_fill((arguments[0] == 7).unsqueeze(-1), math.nan)


def test_a_poisoned_request_fails_alone_and_those_beside_it_end_as_they_would_alone(real, monkeypatch):
    async def texts(client, seeds, beside=None):
        asked = [
            asyncio.create_task(
                client.chat.completions.create(
                    model="tiny", messages=USER, seed=seed, max_tokens=120, extra_body={"ignore_eos": True}
                )
            )
            for seed in seeds
        ]
        if beside is not None:
            while stats(real).running < len(seeds):
                await asyncio.sleep(0.001)
            await beside(client)
            assert stats(real).running == len(seeds)
        return [(await one).choices[0].message.reasoning_content for one in asked]

    async def poisoned(client):
        with pytest.raises(openai.InternalServerError) as caught:
            await client.completions.create(model="tiny", prompt=[5, 6, 7, 8], max_tokens=50)
        assert caught.value.body["code"] == "aborted" and "not finite" in caught.value.body["message"]
        stream = await client.completions.create(model="tiny", prompt=[5, 6, 7, 9], max_tokens=50, stream=True)
        with pytest.raises(openai.APIError, match="not finite"):
            [chunk async for chunk in stream]

    async def compare():
        async with openai.AsyncOpenAI(base_url=f"{real.url}/v1", api_key="none", max_retries=0) as client:
            alone = [await texts(client, [seed]) for seed in (1, 2)]
            assert alone[0] != alone[1]
            assert await texts(client, [1, 2], poisoned) == [text for [text] in alone]

    engine = real.server.models["tiny"].engine._engine
    monkeypatch.setattr(engine.runner, "_kernel", None)  # the decoder in C reads the weights and calls no hooks
    hook = engine.model.model.embed_tokens.register_forward_hook(poison)
    try:
        asyncio.run(compare())
    finally:
        hook.remove()
    assert stats(real).kv_blocks_used == 0


def test_metrics_count_tokens_and_responses(real, client):
    def value(name):
        page = real.web.get("/metrics").text
        return float(re.search(rf"^openqwq_{re.escape(name)} (\S+)$", page, re.MULTILINE)[1])

    client.models.list()
    before = value("generated_tokens_total")
    client.completions.create(model="tiny", prompt="1+1=", max_tokens=5, extra_body={"ignore_eos": True})
    assert value("generated_tokens_total") - before == 5
    assert value('responses_total{path="/v1/models",status="200"}') >= 1
    assert value('time_to_first_token_seconds_bucket{le="+Inf"}') == value("time_to_first_token_seconds_count") > 0
    assert value('engine_kv_blocks_used{model="tiny"}') == 0
    assert value("tasks") > 0
    assert [m.id for m in client.models.list()] == ["tiny"]
    assert real.web.get("/version").json()["version"]


def test_sigterm_lets_running_requests_end_and_takes_no_new_ones():
    command = [sys.executable, "-m", "openqwq.cli.main", "serve", str(BASE), "--port", "0", "--served-model-name", "m"]
    environment = {**os.environ, "PYTHONPATH": str(BASE.parents[2])}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        lines = iter(process.stderr.readline, "")
        url = next(m[1] for line in lines if (m := re.search(r"(http://127.0.0.1:\d+)", line)))
        body = {"messages": USER, "stream": True, "ignore_eos": True, "max_tokens": 60}
        with httpx.Client(timeout=60) as web:
            wait_for(lambda: _answers(web, url))
            with web.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
                events = answer.iter_lines()
                next(events)
                process.send_signal(signal.SIGTERM)
                rest = [line for line in events if line.startswith("data: ")]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.stderr.close()


def _answers(web, url):
    try:
        return web.get(f"{url}/health").status_code == 200
    except httpx.HTTPError:
        return False
