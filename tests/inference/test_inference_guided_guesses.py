"""Guesses for samples under grammars, bad words and scripts: the same tokens as without guesses, in fewer steps."""

import json

import pytest
import torch

from openqwq.inference import Engine, Speculation
from openqwq.inference.constraints.structured_outputs import GrammarMaker, Guide
from openqwq.model import create_model, preset
from openqwq.tokenizer import train_tokenizer
from openqwq.types import SamplingParams, StructuredOutputs

FREE = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=60, seed=2)
TOKENIZER = train_tokenizer(["nothing to merge"], 282)
THINK = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n"
END = TOKENIZER.think_end_id
SCHEMA = {"type": "object", "properties": {"name": {"enum": ["ann", "bob"]}, "age": {"type": "integer"}}}
SCHEMA |= {"required": ["name", "age"], "additionalProperties": False}
JSON = StructuredOutputs(json=SCHEMA)
TOOL = {"name": "look", "parameters": {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"]}}
TOOL["parameters"]["additionalProperties"] = False


@pytest.fixture(scope="module")
def model():
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.3}
    return create_model(preset("tiny").replace(vocab_size=288, max_position_embeddings=256, **shape), seed=3)


@pytest.fixture(scope="module")
def similar(model):
    """Agrees with `model` often, though not always."""
    other = create_model(model.config, seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.05 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return other


def complete(model, params, texts, speculation=None):
    """Completions, the engine's counts and the number of its steps."""
    engine = Engine(model, TOKENIZER, max_num_seqs=5, closing_text="\n</think>\n\n", speculation=speculation)
    for i, text in enumerate(texts):
        engine.add_request(TOKENIZER.encode(text), params, str(i))
    outputs, steps = {}, 0
    while engine.has_unfinished:
        outputs |= {output.request_id: output.outputs for output in engine.step()}
        steps += 1
    assert engine.pool.num_free == engine.pool.num_blocks
    return [c for i in range(len(texts)) for c in outputs[str(i)]], engine.stats(), steps


call = TOKENIZER.token_id("<tool_call>")
PARAMS = {
    "json": FREE.replace(structured=JSON, n=2),
    "json greedy": FREE.replace(structured=JSON, temperature=0.0, logprobs=2),
    "regex": FREE.replace(structured=StructuredOutputs(regex="(abc|abd){4}[0-9]+")),
    "choice": FREE.replace(structured=StructuredOutputs(choice=("absolutely", "abnormal"))),
    "tools": FREE.replace(structured=StructuredOutputs(tools=(TOOL,)), logit_bias={call: 8.0}, max_tokens=90),
    "a tool": FREE.replace(structured=StructuredOutputs(tools=(TOOL,), require_tool=True), max_tokens=90),
    "bad words": FREE.replace(bad_words=("a", "b c"), ignore_eos=True),
    "scripts": FREE.replace(answer_scripts=("latin",), thinking_scripts=("greek", "latin"), ignore_eos=True),
    "thinks": FREE.replace(structured=JSON, thinking_budget=9, logit_bias={END: 3.0}, max_tokens=80),
    "thinks on": FREE.replace(structured=JSON, min_thinking_tokens=6, logit_bias={END: 6.0}, max_tokens=80),
    "penalties": FREE.replace(structured=JSON, presence_penalty=1.0, repetition_penalty=1.2),
}


@pytest.mark.parametrize("name", PARAMS)
@pytest.mark.parametrize("guesser", ["lookup", "draft", "itself"])
def test_strict_guesses_change_no_token(model, similar, name, guesser):
    params = PARAMS[name]
    texts = (THINK,) if name.startswith("thinks") else (THINK, "abcabcabc", 'x {"name": "ann", "age": 1')
    draft = {"lookup": None, "draft": similar, "itself": model}[guesser]
    plain, _, _ = complete(model, params, texts)
    guessed, stats, _ = complete(model, params, texts, Speculation(num_tokens=4, model=draft))
    for one, two in zip(plain, guessed, strict=True):
        assert (one.token_ids, one.finish_reason, one.inserted) == (two.token_ids, two.finish_reason, two.inserted)
        assert one.logprobs == pytest.approx(two.logprobs, abs=5e-5)
        assert [list(top) for top in one.top_logprobs] == [list(top) for top in two.top_logprobs]
    if params.structured == JSON and not name.startswith("thinks"):
        assert stats.accepted_tokens > 0


def test_what_a_schema_spells_is_guessed_and_taken(model):
    """Only the name and the number are the model's choice; one token is one byte."""
    params = FREE.replace(structured=JSON, logit_bias=dict.fromkeys(range(256, 282), -50.0))
    [done], stats, steps = complete(model, params, ["x"], Speculation(num_tokens=32))
    value = json.loads(done.text)
    assert stats.accepted_tokens >= len('{"name": "') - 1 + len('", "age": ') - 1
    assert steps <= len(done.token_ids) - stats.accepted_tokens + 1 and set(value) == {"name", "age"}


def test_standard_rejection_keeps_to_the_schema(model, similar):
    for seed in range(4):
        params = FREE.replace(structured=JSON, seed=seed, max_tokens=90)
        done, _, _ = complete(model, params, ["x"], Speculation(num_tokens=3, model=similar, rejection="standard"))
        if done[0].finish_reason == "stop":
            assert set(json.loads(done[0].text)) == {"name", "age"}
        else:
            assert done[0].text.startswith('{"name": "')


def test_looking_ahead_masks_as_if_the_guesses_had_been_sampled_and_leaves_no_trace():
    maker = GrammarMaker(TOKENIZER, 288, sorted(TOKENIZER.eos_token_ids))
    text = '{"name": "bob", "age": 12}'
    ids = TOKENIZER.encode(text)
    guide = Guide(grammar=maker.make(JSON), thinking=True, end_id=END)
    thoughts = TOKENIZER.encode("ab")
    guide.mask(torch.zeros(288), thoughts)
    draft = [END, *ids]
    ahead = torch.zeros(len(draft), 288)
    guide.mask_ahead(ahead, range(len(draft)), thoughts, draft)
    for i in range(len(draft)):
        known = [*thoughts, *draft[: i + 1]]
        one = Guide(grammar=maker.make(JSON), answer_start=len(thoughts) + 1)
        expected = torch.zeros(288)
        one.mask(expected, known)
        assert torch.equal(ahead[i], expected) and expected.isinf().any()
    assert guide.thinking and guide.answer_start == 0
    guide.thinking, guide.answer_start = False, 3
    after = torch.zeros(288)
    guide.mask(after, [*thoughts, END])
    assert torch.equal(after, ahead[0])
    wrong = torch.zeros(3, 288)
    guide.mask_ahead(wrong, range(3), [*thoughts, END], TOKENIZER.encode("{x}"))
    assert wrong[0].isinf().any() and not wrong[1:].isinf().any()
