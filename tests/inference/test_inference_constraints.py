"""What forbids tokens: bad words against a slow search, forms that are owed behind a thinking, forms that are none."""

import json
import random
import re
import threading

import pytest
import torch

from openqwq.errors import UserError
from openqwq.inference import Engine
from openqwq.inference.constraints.bad_words import BadWords
from openqwq.inference.constraints.structured_outputs import GrammarMaker
from openqwq.model import create_model, preset
from openqwq.tokenizer import train_tokenizer
from openqwq.types import Prompt, SamplingParams, StructuredOutputs

FREE = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=80, seed=2)
TOKENIZER = train_tokenizer(["nothing to merge"], 282)
THINK = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n"
END, EOS = TOKENIZER.think_end_id, TOKENIZER.eos_token_id
FORM = StructuredOutputs(regex="(yes|no)!")
SOON = {EOS: 6.0}
"""A model that likes to end its turn, in its thinking too."""


@pytest.fixture(scope="module")
def engine():
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.3}
    model = create_model(preset("tiny").replace(vocab_size=288, max_position_embeddings=256, **shape), seed=3)
    return Engine(model, TOKENIZER, max_num_seqs=16, closing_text="\n</think>\n\n")


def complete(engine, params, text=THINK):
    return engine.generate([Prompt(tuple(TOKENIZER.encode(text)))], params)[0]


def slowly(words, written):
    """Every token that would complete a word, by trying all words."""
    return {w[-1] for w in words if len(w) == 1 or tuple(written[max(len(written) - len(w) + 1, 0) :]) == w[:-1]}


def test_bad_words_forbid_what_a_search_through_all_of_them_finds():
    draw = random.Random(0)
    for _ in range(300):
        words = [tuple(draw.randrange(4) for _ in range(draw.randrange(1, 5))) for _ in range(draw.randrange(1, 30))]
        found = BadWords(words)
        written = [draw.randrange(4) for _ in range(draw.randrange(12))]
        assert {*found.always, *found.next_of(written)} == slowly(words, written)


def test_many_bad_words_cost_a_step_no_more_than_the_longest_match():
    words = [(i, j, 7) for i in range(100) for j in range(100)]
    found = BadWords(words)
    steps = 0

    class Counted(list):
        def __reversed__(self):
            nonlocal steps
            for item in super().__reversed__():
                steps += 1
                yield item

    assert found.next_of(Counted([*range(1000), 5, 6])) == [7]
    assert steps == 3


def test_ten_thousand_bad_words_are_never_written(engine):
    words = tuple(f"{a}{b}{c}" for a in "abcdefghij" for b in "klmnopqrstuvwxyz"[:10] for c in "0123456789")
    bias = dict.fromkeys(range(256, 282), -100.0) | {i: 8.0 for word in ("ak0", "bl1") for i in TOKENIZER.encode(word)}
    free = complete(engine, FREE.replace(logit_bias=bias, n=8), "x")
    kept = complete(engine, FREE.replace(logit_bias=bias, n=8, bad_words=words), "x")
    assert any(word in sample.text for sample in free for word in words)
    assert not any(word in sample.text for sample in kept for word in words)


def test_turn_never_ends_in_the_thinking_when_a_form_is_asked_for(engine):
    params = FREE.replace(logit_bias=SOON, thinking_budget=12, n=60)
    free = complete(engine, params)
    formed = complete(engine, params.replace(structured=FORM))
    assert sum("</think>" not in sample.text for sample in free) > 30  # so there is something to keep it from
    for sample in formed:
        answer = sample.text.partition("</think>\n\n")[2] or sample.text.partition("</think>")[2]
        assert sample.finish_reason == "length" or re.fullmatch(r"(yes|no)!", answer), sample.text


def test_thinking_without_budget_runs_to_the_limit_rather_than_ending_without_the_form(engine):
    [sample] = complete(engine, FREE.replace(logit_bias={EOS: 100.0, END: -100.0}, structured=FORM, max_tokens=30))
    assert sample.finish_reason == "length" and len(sample.token_ids) == 30 and EOS not in sample.token_ids


def test_stop_token_of_the_request_waits_for_the_form_too(engine):
    likely = TOKENIZER.encode("q")[0]
    params = FREE.replace(logit_bias={likely: 9.0}, stop_token_ids=(likely,), thinking_budget=6, structured=FORM)
    [sample] = complete(engine, params)
    assert likely in sample.token_ids[:6] and sample.text.endswith(("yes!", "no!"))


def test_optional_calls_let_the_turn_end_in_the_thinking(engine):
    tool = {"name": "look", "parameters": {"type": "object"}}
    wanted = StructuredOutputs(tools=(tool,))
    [sample] = complete(engine, FREE.replace(logit_bias={EOS: 100.0}, structured=wanted))
    assert sample.token_ids == (EOS,) and sample.finish_reason == "stop"


def nested(depth):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize("depth", [150, 600, 20000])
def test_schema_nested_too_deeply_is_a_users_mistake(engine, depth):
    with pytest.raises(UserError, match=r"`structured"):
        engine.requests.prepare(FREE.replace(structured=StructuredOutputs(json=nested(depth))))


def test_schema_of_sensible_depth_is_followed(engine):
    guide = engine.requests.prepare(FREE.replace(structured=StructuredOutputs(json=nested(8))))
    assert guide.grammar.bitmask() is not None


def test_samples_of_one_grammar_go_their_own_ways():
    maker = GrammarMaker(TOKENIZER, 288, [EOS])
    made = []
    threads = [threading.Thread(target=lambda: made.append(maker.make(FORM))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = made[0], made[1]
    fresh = second.bitmask()
    first.advance(TOKENIZER.encode("ye"), 0)
    assert first.allows(TOKENIZER.encode("s")[0]) and not first.allows(TOKENIZER.encode("n")[0])
    assert second.bitmask() == fresh and second.allows(TOKENIZER.encode("n")[0])


def test_grammar_that_fails_forbids_everything_rather_than_ending_the_answer():
    grammar = GrammarMaker(TOKENIZER, 288, [EOS]).make(StructuredOutputs(json={"type": "integer"}))
    grammar.advance(TOKENIZER.encode("x"), 0)  # which it never allowed
    assert not any(grammar.bitmask())


def test_schema_answer_still_parses_behind_a_closed_thinking(engine):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    params = FREE.replace(logit_bias=SOON, thinking_budget=8, structured=StructuredOutputs(json=schema), n=20)
    for sample in complete(engine, params):
        assert sample.finish_reason == "stop"
        assert isinstance(json.loads(sample.text.rpartition("</think>")[2])["ok"], bool)


def test_masks_of_scripts_are_kept_once_for_any_order(engine):
    one = engine.requests.prepare(FREE.replace(answer_scripts=("latin", "greek")))
    two = engine.requests.prepare(FREE.replace(answer_scripts=("greek", "latin", "greek")))
    assert one.answer_mask is two.answer_mask and torch.isinf(one.answer_mask).any()
