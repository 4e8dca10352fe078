"""The next turn of a conversation: what of it is computed before it comes."""

from pathlib import Path

import pytest
from serve_support import FakeEngine, running, wait_for

from openqwq.serve import ServedModel
from openqwq.serve.load import load_served_model

BASE = Path(__file__).parents[2] / "recipes" / "base" / "tiny"
USER = {"role": "user", "content": "2+3?"}
MORE = {"role": "user", "content": "sure?"}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": [3, "é"]}}\n</tool_call>'
TOOL = {"name": "add", "parameters": {"type": "object"}}


class PreparingEngine(FakeEngine):
    """Notes what is to be prepared."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        self.prepared = []

    async def prepare_turn(self, history_ids, former_ids, max_tokens):
        self.prepared.append((list(history_ids), list(former_ids), max_tokens))
        return 0


@pytest.fixture(scope="module")
def engine(tokenizer):
    return PreparingEngine(tokenizer)


@pytest.fixture
def client(engine, tokenizer):
    engine.prepared.clear()
    model = ServedModel(name="m", engine=engine, tokenizer=tokenizer, max_model_len=2048, vocab_size=1024)
    with running([model]) as live, live.client() as made:
        yield made


def chat(client, turns, **options):
    tools = [{"type": "function", "function": TOOL}]
    answer = client.chat.completions.create(model="m", messages=turns, tools=tools, **options).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "5"} for call in answer.tool_calls or ()]
    return [*turns, answer, *(results or [MORE])]


def respond(client, turns):
    answer = client.responses.create(model="m", input=turns, tools=[{"type": "function", **TOOL}])
    calls = [item.call_id for item in answer.output if item.type == "function_call"]
    results = [{"type": "function_call_output", "call_id": call, "output": "5"} for call in calls]
    return [*turns, *answer.output, *(results or [MORE])]


@pytest.mark.parametrize("form", [chat, respond])
@pytest.mark.parametrize("text", ["It is 5.\n", f"Let me add.\n{CALL}", CALL], ids=["text", "both", "call"])
def test_what_is_computed_ahead_is_how_the_next_prompt_begins(client, engine, form, text):
    engine.text = f"two and three\n</think>\n\n{text}"
    turns = form(client, [USER])
    wait_for(lambda: engine.prepared)
    prompt, params, _ = engine.requests[-1]
    [(history, former, max_tokens)] = engine.prepared
    assert former == [*prompt, *engine.tokenizer.encode(engine.text), engine.tokenizer.eos_token_id]
    assert max_tokens == params.max_tokens
    form(client, turns)
    following = engine.requests[-1][0]
    assert following[: len(history)] == history and len(following) > len(history)
    assert "two and three" not in engine.tokenizer.decode(history)
    assert len(engine.tokenizer.decode(history)) > len(engine.tokenizer.decode(prompt)) + len(text) // 2


def test_nothing_is_prepared_where_it_is_not_known_what_follows(client, engine):
    engine.text = "on and on"
    chat(client, [USER], max_tokens=2)  # no answer
    engine.text = "hm</think>yes"
    chat(client, [USER], n=2)
    client.completions.create(model="m", prompt="1+1=")
    engine.pause_s = 0.05
    stream = client.chat.completions.create(model="m", messages=[USER], stream=True)
    next(iter(stream))
    stream.close()
    engine.pause_s = 0.0
    chat(client, [USER])
    wait_for(lambda: engine.prepared)
    assert len(engine.prepared) == 1


def test_the_real_engine_finds_the_former_answer_in_its_cache():
    with running([load_served_model(BASE, "tiny", max_num_seqs=2)]) as live, live.client() as client:
        front = live.server.models["tiny"].engine

        def ask(turns, **body):
            extra = {"thinking_budget": 40, "min_thinking_tokens": 40, **body}
            return client.chat.completions.create(model="tiny", messages=turns, seed=1, extra_body=extra)

        first = ask([USER], structured_outputs={"regex": "[0-9]{90}"})
        answer = first.choices[0].message
        assert len(answer.content) == 90 and answer.reasoning_content
        wait_for(lambda: not live.server.tasks)
        wait_for(lambda: not front._engine.has_unfinished)
        history = [USER, {"role": "assistant", "content": answer.content}]
        tokenizer = live.server.models["tiny"].tokenizer
        length = len(tokenizer.encode_chat(history, add_generation_prompt=False))
        second = ask([*history, MORE])
        assert length - 16 <= second.usage.prompt_tokens_details.cached_tokens <= length
        assert front.stats().preemptions == 0
