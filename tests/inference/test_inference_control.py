"""Thinking, stops, grammars, penalties and biases, on a small random model whose tokens are single bytes.

A large bias makes a token certain: what the engine then does is known without knowing the model.
"""

import json

import pytest
import torch

from openqwq.errors import UserError
from openqwq.inference import Engine
from openqwq.inference.constraints.loop_detector import LoopDetector
from openqwq.inference.constraints.writing_systems import forbidden_tokens
from openqwq.inference.sampling.logits_processors import LogitRules
from openqwq.inference.sequence import Request
from openqwq.inference.speculative_config import Speculation
from openqwq.model import create_model, preset
from openqwq.tokenizer import parse_tool_calls, train_tokenizer
from openqwq.types import Completion, Prompt, SamplingParams, StructuredOutputs

FREE = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=40, seed=2, ignore_eos=True)
GREEDY = FREE.replace(temperature=0.0)
TOKENIZER = train_tokenizer(["nothing to merge"], 282)
THINK = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n"
END = TOKENIZER.think_end_id
CLOSING = TOKENIZER.encode("\n</think>\n\n")
A = TOKENIZER.encode("a")[0]


@pytest.fixture(scope="module")
def model():
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.3}
    return create_model(preset("tiny").replace(vocab_size=288, max_position_embeddings=256, **shape), seed=3)


def make_engine(model, **options):
    return Engine(model, TOKENIZER, **{"max_num_seqs": 4, "closing_text": "\n</think>\n\n", **options})


def complete(model, params, text=THINK, **options):
    engine = make_engine(model, **options)
    [completions] = engine.generate([Prompt(tuple(TOKENIZER.encode(text)))], params)
    assert engine.pool.num_free == engine.pool.num_blocks
    return completions[0]


@torch.no_grad()
def raw_logprobs(model, text, token_ids):
    """[T, V] of the tokens that follow a text."""
    prompt = TOKENIZER.encode(text)
    table = model(torch.tensor([[*prompt, *token_ids]]))[0].log_softmax(-1)
    return table[len(prompt) - 1 : -1]


def test_a_spent_budget_closes_the_thinking_and_the_answer_comes(model):
    done = complete(model, FREE.replace(thinking_budget=7, logit_bias={END: -100.0}))
    assert list(done.token_ids[7 : 7 + len(CLOSING)]) == CLOSING
    assert done.inserted == ((7, 7 + len(CLOSING)),)
    assert done.finish_reason == "length" and len(done.token_ids) == len(done.logprobs) == 40
    assert set(done.logprobs[7 : 7 + len(CLOSING)]) == {0.0}
    plain = complete(model, FREE.replace(thinking_budget=7))
    expected = raw_logprobs(model, THINK, plain.token_ids)
    for place in (0, 6, 7 + len(CLOSING), 39):
        assert plain.logprobs[place] == pytest.approx(expected[place, plain.token_ids[place]].item(), abs=5e-5)


def test_each_of_n_samples_has_its_own_thinking_budget(model):
    engine = make_engine(model)
    [several] = engine.generate(
        [Prompt(tuple(TOKENIZER.encode(THINK)))], FREE.replace(thinking_budget=3, n=3, max_tokens=20)
    )
    assert [c.inserted for c in several] == [((3, 3 + len(CLOSING)),)] * 3
    assert len({c.token_ids for c in several}) == 3


def test_closing_text_is_cut_at_max_tokens(model):
    done = complete(model, FREE.replace(thinking_budget=8, max_tokens=10, logit_bias={END: -100.0}))
    assert list(done.token_ids[8:]) == CLOSING[:2] and done.finish_reason == "length"


def test_a_thinking_that_ends_too_soon_goes_on_with_wait(model):
    wait = TOKENIZER.encode("\nWait")
    done = complete(model, GREEDY.replace(min_thinking_tokens=7, logit_bias={END: 100.0}, max_tokens=20))
    assert list(done.token_ids[: 2 * len(wait) + 1]) == [*wait, *wait, END]
    assert done.inserted == ((0, 5), (5, 10))
    stopped = complete(
        model,
        GREEDY.replace(min_thinking_tokens=3, logit_bias={TOKENIZER.eos_token_id: 100.0}, ignore_eos=False),
    )
    assert list(stopped.token_ids) == [*wait, TOKENIZER.eos_token_id] and stopped.finish_reason == "stop"


def test_thinking_can_be_closed_from_outside(model):
    engine = make_engine(model)
    engine.add_request(TOKENIZER.encode(THINK), FREE.replace(logit_bias={END: -100.0}), "a")
    for _ in range(4):
        engine.step()
    assert engine.close_thinking("a") and not engine.close_thinking("a") and not engine.close_thinking("b")
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    [done] = outputs[0].outputs
    assert list(done.token_ids[4 : 4 + len(CLOSING)]) == CLOSING and len(done.token_ids) == 40


def test_a_closing_that_does_not_fit_is_left_out_and_a_waiting_sample_answers_at_once(model):
    engine = make_engine(model, max_num_seqs=1)
    params = FREE.replace(logit_bias={END: -100.0}, max_tokens=len(CLOSING) + 2)
    engine.add_request(TOKENIZER.encode(THINK), params.replace(n=2), "a")
    engine.step()
    engine.step()
    assert engine.close_thinking("a")  # the second sample; the first has no room
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    first, second = outputs[0].outputs
    assert not first.inserted and second.inserted == ((0, len(CLOSING)),)
    assert len(first.token_ids) == len(second.token_ids) == len(CLOSING) + 2


def test_a_loop_closes_the_thinking_and_ends_the_answer(model):
    done = complete(model, GREEDY.replace(max_repeats=3, logit_bias={A: 100.0}, max_tokens=100))
    assert done.inserted == ((24, 24 + len(CLOSING)),)
    assert done.finish_reason == "repetition" and len(done.token_ids) == 48 + len(CLOSING)


def test_stop_strings_wait_for_the_answer(model):
    params = GREEDY.replace(stop=("aaa",), logit_bias={A: 100.0})
    done = complete(model, params.replace(thinking_budget=6))
    assert done.text == "aaaaaa\n</think>\n\n" and done.finish_reason == "stop"
    assert list(done.token_ids[-3:]) == [A] * 3
    assert complete(model, params, "no thinking: ").text == ""


def go_on(model, params, written):
    """The completion of what was written so far, letter by letter: its tags are none of the tokenizer's own."""
    token_ids = tuple(TOKENIZER.encode(letter)[0] for letter in written)
    assert END not in token_ids
    so_far = Completion(
        text=written,
        token_ids=token_ids,
        logprobs=(0.0,) * len(token_ids),
        policy_versions=(0,) * len(token_ids),
        finish_reason="abort",
    )
    engine = make_engine(model)
    engine.add_request(TOKENIZER.encode(THINK), params, so_far=[so_far])
    while not (outputs := engine.step()):
        pass
    return outputs[0].outputs[0]


@pytest.mark.parametrize("written", ["a</think", "a</think>"])
def test_a_closing_tag_spelled_out_of_letters_ends_the_thinking_too(model, written):
    bias = {TOKENIZER.encode(">")[0]: 100.0}
    params = GREEDY.replace(logit_bias=bias, thinking_budget=15, stop=(">>>",))
    done = go_on(model, params, written)
    assert (done.text, done.finish_reason, done.inserted) == ("a</think>", "stop", ())
    form = params.replace(stop=(), ignore_eos=False, structured=StructuredOutputs(choice=("yes",)))
    assert go_on(model, form, written).text == "a</think>yes"


def test_a_spelled_closing_tag_that_comes_too_soon_is_taken_back(model):
    params = GREEDY.replace(logit_bias={TOKENIZER.encode(">")[0]: 100.0}, min_thinking_tokens=20, max_tokens=22)
    assert go_on(model, params, "a</think").text == "a</think\nWait" + ">" * 9


@pytest.mark.parametrize("text", ["hello ", THINK])
def test_answers_follow_their_schema(model, text):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "x": {"enum": [1, 22]}}}
    schema |= {"required": ["ok", "x"], "additionalProperties": False}
    wanted = StructuredOutputs(json=schema)
    budget = 5 if text is THINK else None
    done = complete(model, FREE.replace(structured=wanted, thinking_budget=budget, ignore_eos=False), text)
    thoughts, _, answer = done.text.rpartition("</think>")
    assert bool(thoughts) == (text is THINK) and done.finish_reason == "stop"
    value = json.loads(answer)
    assert isinstance(value["ok"], bool) and value["x"] in (1, 22)


def test_answers_follow_a_choice_and_a_regex(model):
    params = FREE.replace(ignore_eos=False, n=1)
    texts = {
        complete(model, params.replace(structured=StructuredOutputs(choice=("yes", 'n"o')), seed=i), "x").text
        for i in range(8)
    }
    assert texts == {"yes", 'n"o'}
    assert len(complete(model, params.replace(structured=StructuredOutputs(regex="[0-9]{3}")), "x").text) == 3


TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"]}}
TOOL["parameters"]["additionalProperties"] = False


def test_tool_calls_follow_their_schema_wherever_they_come(model):
    call = TOKENIZER.token_id("<tool_call>")
    free = complete(model, FREE.replace(structured=StructuredOutputs(tools=(TOOL,)), logit_bias={call: 9.0}), "x")
    _, calls, _ = parse_tool_calls(free.text)
    assert calls and calls[0].name == "f" and calls[0].arguments["x"] in (1, 2)
    wanted = StructuredOutputs(tools=(TOOL,), require_tool=True)
    forced = complete(model, FREE.replace(structured=wanted, ignore_eos=False, max_tokens=90), "x")
    text, calls, errors = parse_tool_calls(forced.text)
    assert len(calls) == 1 and not text.strip() and not errors and forced.finish_reason == "stop"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"structured": StructuredOutputs(json={"type": "nope"})}, "nope"),
        ({"structured": StructuredOutputs(json="{")}, "not JSON"),
        ({"structured": StructuredOutputs(json={"type": object})}, "not JSON"),
        ({"structured": StructuredOutputs(json="[3]")}, "is an object"),
        ({"structured": StructuredOutputs(tools=(3,))}, "no name"),
        ({"structured": StructuredOutputs(choice=("a", 1))}, "are texts"),
        ({"structured": StructuredOutputs(regex=3)}, "are texts"),
        ({"structured": StructuredOutputs(regex="(a")}, "unclosed"),
        ({"structured": StructuredOutputs()}, "exactly one"),
        ({"structured": StructuredOutputs(regex="a", choice=("b",))}, "exactly one"),
        ({"thinking_budget": 3}, "ends inside a thinking"),
        ({"answer_scripts": ("klingon",)}, "answer_scripts"),
        ({"logit_bias": {288: 1.0}}, "logit_bias"),
        ({"min_tokens": 41}, "min_tokens"),
        ({"max_repeats": 1}, "max_repeats"),
    ],
)
def test_invalid_constraint_fails_only_its_own_request(model, params, message):
    engine = make_engine(model)
    with pytest.raises(UserError, match=message):
        engine.add_request(TOKENIZER.encode("x"), FREE.replace(**params))
    assert not engine.has_unfinished


def test_a_schema_may_be_empty_and_one_choice_a_text(model):
    params = FREE.replace(ignore_eos=False, logit_bias={TOKENIZER.eos_token_id: 50.0})
    anything = complete(model, params.replace(structured=StructuredOutputs(json={})), "x")
    json.loads(anything.text)
    assert complete(model, params.replace(structured=StructuredOutputs(choice="yes")), "x").text == "yes"


def test_constraint_that_forbids_every_token_is_reported(model):
    params = FREE.replace(structured=StructuredOutputs(regex="[а-я]+"), answer_scripts=("latin",))
    done = complete(model, params, "x")
    assert done.finish_reason == "abort" and "leaves no token" in done.error


def test_bad_words_are_never_written(model):
    params = FREE.replace(max_tokens=60, logit_bias=dict.fromkeys(range(256, 288), -100.0))
    free = complete(model, params, "x")
    ascii_at = next(i for i in range(50) if all(33 <= ord(c) < 127 for c in free.text[i : i + 2]))
    pair = free.text[ascii_at : ascii_at + 2]
    single = free.text[ascii_at]
    assert pair not in complete(model, params.replace(bad_words=(pair,)), "x").text
    assert single not in complete(model, params.replace(bad_words=(single,)), "x").text


def test_letters_of_other_scripts_are_forbidden(model):
    ids = {letter: TOKENIZER.encode(letter) for letter in "aé1жλ中あ"}
    latin = set(forbidden_tokens(("latin",), 288, TOKENIZER.token_bytes))
    assert {letter: own[0] in latin for letter, own in ids.items()} == dict(
        zip("aé1жλ中あ", [False, False, False, True, True, True, True], strict=True)
    )
    han = set(forbidden_tokens(("han",), 288, TOKENIZER.token_bytes))
    assert ids["a"][0] in han and ids["1"][0] not in han and ids["中"][0] not in han
    done = complete(model, FREE.replace(answer_scripts=("cyrillic",), thinking_budget=10, max_tokens=80))
    thoughts, _, answer = done.text.partition("</think>")
    assert any(c.isascii() and c.isalpha() for c in thoughts)
    assert not any(c.isascii() and c.isalpha() for c in answer)


def test_end_tokens_wait_for_the_least_length(model):
    bias = {TOKENIZER.eos_token_id: 100.0}
    done = complete(model, FREE.replace(ignore_eos=False, min_tokens=4, logit_bias=bias), "x")
    assert len(done.token_ids) == 5 and done.finish_reason == "stop"


def test_stop_strings_wait_for_the_least_length(model):
    params = GREEDY.replace(stop="aa", min_tokens=5, logit_bias={A: 100.0})
    done = complete(model, params, "x")
    assert (done.text, len(done.token_ids), done.finish_reason) == ("aaaaa", 7, "stop")
    thought = complete(model, params.replace(thinking_budget=2, min_tokens=2 + len(CLOSING) + 1))
    assert thought.text == "aa\n</think>\n\na" and len(thought.token_ids) == 2 + len(CLOSING) + 3


def test_top_and_prompt_logprobs_are_those_of_the_plain_forward(model):
    text = "some prompt that is longer than one block"
    engine = make_engine(model, max_num_batched_tokens=18)
    params = FREE.replace(logprobs=3, prompt_logprobs=2, top_k=1, n=2, max_tokens=5)
    engine.add_request(TOKENIZER.encode(text), params)
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    [output] = outputs
    for completion in output.outputs:
        expected = raw_logprobs(model, text, completion.token_ids)
        for place, (token, top) in enumerate(zip(completion.token_ids, completion.top_logprobs, strict=True)):
            best = expected[place].topk(3)
            assert list(top)[:3] == best.indices.tolist() and token in top
            assert list(top.values())[:3] == pytest.approx(best.values.tolist(), abs=5e-5)
    prompt = TOKENIZER.encode(text)
    expected = raw_logprobs(model, text[0], prompt[1:])
    assert output.prompt_logprobs[0] is None and len(output.prompt_logprobs) == len(prompt)
    for token, row, top in zip(prompt[1:], expected, output.prompt_logprobs[1:], strict=True):
        assert top[token] == pytest.approx(row[token].item(), abs=5e-5)
        assert len(top) in (2, 3) and max(top.values()) == pytest.approx(row.max().item(), abs=5e-5)


def test_penalties_by_hand():
    params = SamplingParams(repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25)
    request = Request("a", (0, 3), params, 0, frozenset(), 9)
    sequence, other = request.sequences[0], Request("b", (0, 1), SamplingParams(), 0, frozenset(), 9).sequences[0]
    sequence.row, other.row, sequence.token_ids = 1, 0, [2, 2]
    rules = LogitRules(2, 4, torch.device("cpu"))
    rules.write([other, sequence])
    rules.focus([other, sequence])
    logits = torch.tensor([[1.0, -1.0, 2.0, 3.0]]).repeat(2, 1)
    rules.apply(logits, torch.tensor([0, 2]))
    assert logits[0].tolist() == [1.0, -1.0, 2.0, 3.0]
    assert logits[1].tolist() == [0.5, -1.0, 2.0 / 2 - 2 * 0.5 - 0.25, 1.5]
    rules.count(torch.tensor([1, 1]))
    logits = torch.tensor([[1.0, -1.0, 2.0, 3.0]]).repeat(2, 1)
    rules.apply(logits, torch.tensor([1, 3]))
    assert logits[1].tolist() == [0.5, -2.0 - 0.5 - 0.25, -0.25, 1.5]


def test_biases_come_before_penalties_as_in_vllm():
    params = SamplingParams(repetition_penalty=2.0, presence_penalty=0.25, logit_bias={0: 3.0, 1: -4.0, 2: -3.0})
    sequence = Request("a", (0, 1), params, 0, frozenset(), 9).sequences[0]
    sequence.row, sequence.token_ids = 0, [2]
    rules = LogitRules(1, 4, torch.device("cpu"))
    rules.write([sequence])
    rules.focus([sequence])
    logits = torch.tensor([[1.0, 2.0, 2.0, 3.0]])
    rules.apply(logits, torch.tensor([1]))
    assert logits[0].tolist() == [(1 + 3) / 2, (2 - 4) * 2, (2 - 3) * 2 - 0.25, 3.0]


def test_penalties_follow_their_rows_when_others_end(model):
    prompts = [Prompt(tuple(TOKENIZER.encode(text))) for text in ("ab", "cd", "ef")]
    params = [FREE.replace(max_tokens=4), FREE.replace(max_tokens=9, presence_penalty=2.0)]
    params.append(FREE.replace(max_tokens=30, frequency_penalty=2.0, repetition_penalty=1.5))
    together = make_engine(model, max_num_seqs=3).generate(prompts, params)
    for prompt, own, [completion] in zip(prompts, params, together, strict=True):
        [[alone]] = make_engine(model).generate([prompt], own)
        assert alone.token_ids == completion.token_ids
    [[never_twice]] = make_engine(model).generate(
        prompts[:1], GREEDY.replace(repetition_penalty=1e6, frequency_penalty=2.0)
    )
    assert len(set(never_twice.token_ids)) == 40


@pytest.mark.parametrize("params", [GREEDY, FREE, FREE.replace(temperature=0.5, top_k=5), GREEDY.replace(stop=("aa",))])
def test_prompt_lookup_changes_no_token(model, params):
    prompts = [Prompt(tuple(TOKENIZER.encode(text * 5))) for text in ("abc", "xyzzy ", "q", "12")]
    params = params.replace(max_tokens=60, n=2)
    plain = make_engine(model).generate(prompts, params)
    engine = make_engine(model, speculation=Speculation(num_tokens=4))
    guessed = engine.generate(prompts, params)
    for one, two in zip(plain, guessed, strict=True):
        for a, b in zip(one, two, strict=True):
            assert a.token_ids == b.token_ids and a.text == b.text and a.finish_reason == b.finish_reason
            assert a.logprobs == pytest.approx(b.logprobs, abs=5e-5)
    stats = engine.stats()
    assert stats.drafted_tokens > 0 and stats.generated_tokens == sum(len(c.token_ids) for r in guessed for c in r)
    assert engine.pool.num_free == engine.pool.num_blocks


def test_prompt_lookup_takes_several_tokens_a_step(model):
    engine = make_engine(model, speculation=Speculation(num_tokens=5))
    engine.add_request(TOKENIZER.encode("a" * 20), GREEDY.replace(thinking_budget=None, max_tokens=41))
    steps = 0
    with torch.no_grad():
        weight = engine.model.model.embed_tokens.weight
        kept = weight.clone()
        weight[A] *= 50  # "a" follows "a" for certain
    while engine.has_unfinished:
        [*outputs] = engine.step()
        steps += 1
    with torch.no_grad():
        weight.copy_(kept)
    assert len(set(outputs[0].outputs[0].token_ids)) == 1
    assert steps <= 9 and engine.stats().accepted_tokens >= 32


def test_loops_are_patterns_without_a_gap_or_lines_that_come_back():
    def first_alarm(tokens, max_repeats):
        detector = LoopDetector(max_repeats, lambda token: token == 0)
        return next((i + 1 for i, token in enumerate(tokens) if detector.push(token)), None)

    assert first_alarm([1, 2, 3, 4, 5, 6, 7, 8, 9, 10] * 9, 3) == 30
    assert first_alarm([1] * 99, 3) == 24
    assert first_alarm(list(range(1, 200)), 2) is None
    line = [1, 2, 3, 4, 5, 6, 0]
    others = [[10 * i + j for j in range(1, 8)] + [0] for i in range(1, 9)]
    text = [token for other in others for token in line + other]
    assert first_alarm(text, 4) == 3 * 15 + 7
    assert first_alarm([token for other in others for token in other], 2) is None
