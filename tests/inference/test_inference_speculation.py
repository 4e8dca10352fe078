"""Draft models: strict guesses change no token, standard ones no distribution, and neither leaks a block."""

import itertools
import math

import pytest
import torch

from openqwq.checkpoint.huggingface import save_model
from openqwq.errors import UserError
from openqwq.inference import LLM, Engine, Speculation
from openqwq.inference.sampling.sampler import GUESS_STREAM, Guesses, accept_or_replace, draw_uniform
from openqwq.inference.speculative_config import read_speculation
from openqwq.model import KVCache, create_model, preset
from openqwq.tokenizer import train_tokenizer
from openqwq.types import Prompt, SamplingParams

FREE = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=40, seed=2, ignore_eos=True)
GREEDY = FREE.replace(temperature=0.0)
TOKENIZER = train_tokenizer(["nothing to merge"], 282)
THINK = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n"
TEXTS = (THINK, "abcabc", "x", "12 + 12 = ")


def make_model(vocab_size, seed=3, noise=0.0, hidden=32):
    shape = {"hidden_size": hidden, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.3}
    config = preset("tiny").replace(vocab_size=vocab_size, max_position_embeddings=256, **shape)
    model = create_model(config, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += (
                noise * parameter.std() * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
            )
    return model


@pytest.fixture(scope="module")
def model():
    return make_model(288)


@pytest.fixture(scope="module")
def similar():
    """Agrees with `model` often, though not always."""
    return make_model(288, noise=0.05)


def make_engine(model, draft=None, num_tokens=4, rejection="strict", **options):
    speculation = None
    if draft is not None:
        speculation = Speculation(num_tokens=num_tokens, model=draft, rejection=rejection)
    options = {"max_num_seqs": 5, "closing_text": "\n</think>\n\n", **options}
    return Engine(model, TOKENIZER, speculation=speculation, **options)


def complete(engine, params, texts=TEXTS):
    results = engine.run([TOKENIZER.encode(text) for text in texts], params)
    assert engine.pool.num_free == engine.pool.num_blocks
    return [completion for output in results for completion in output.outputs]


def assert_same(first, second):
    for one, two in zip(first, second, strict=True):
        assert (one.token_ids, one.text, one.finish_reason) == (two.token_ids, two.text, two.finish_reason)
        assert one.inserted == two.inserted
        assert one.logprobs == pytest.approx(two.logprobs, abs=5e-5)
        assert [list(top) for top in one.top_logprobs] == [list(top) for top in two.top_logprobs]


PARAMS = [
    GREEDY,
    FREE.replace(n=2),
    FREE.replace(temperature=0.6, top_k=20, top_p=0.9, min_p=0.02),
    FREE.replace(presence_penalty=1.0, frequency_penalty=0.5, repetition_penalty=1.2),
    GREEDY.replace(repetition_penalty=1.3, logit_bias={70: 2.0, 71: -50.0}, logprobs=2),
    FREE.replace(min_tokens=9, ignore_eos=False, stop_token_ids=tuple(range(40, 90))),
    FREE.replace(stop=("a", "e")),
    FREE.replace(bad_words=("a", "b c")),
]


@pytest.mark.parametrize("params", PARAMS)
def test_strict_guesses_change_no_token(model, similar, params):
    engine = make_engine(model, similar)
    assert_same(complete(make_engine(model), params), complete(engine, params))
    stats = engine.stats()
    assert stats.drafted_tokens >= stats.accepted_tokens
    assert stats.drafted_tokens > 0


def test_thinking_is_closed_and_prolonged_in_the_middle_of_a_run(model, similar):
    budget = FREE.replace(thinking_budget=7, logit_bias={TOKENIZER.think_end_id: -100.0})
    waits = FREE.replace(min_thinking_tokens=10, logit_bias={TOKENIZER.think_end_id: 5.0})
    for params in (budget, waits):
        plain = complete(make_engine(model), params, [THINK])
        assert plain[0].inserted
        assert_same(plain, complete(make_engine(model, similar), params, [THINK]))


def test_preemption_chunks_and_shared_prefixes_keep_every_token(model, similar):
    token_bytes = KVCache.bytes_per_token(model.config) + KVCache.bytes_per_token(similar.config)
    prefix = "what they all begin with, over a block of tokens and more: "
    texts = [prefix + text for text in ("a", "bb", "ccc", "dddd")] + ["e" * 60]
    params = FREE.replace(n=2, max_tokens=70)
    options = {"max_model_len": 160, "max_num_batched_tokens": 23}
    small = make_engine(model, similar, kv_cache_memory=14 * 16 * token_bytes, **options)
    assert_same(complete(make_engine(model), params, texts), complete(small, params, texts))
    stats = small.stats()
    assert stats.preemptions > 0 and stats.cached_tokens > 0 and stats.accepted_tokens > 0


def test_a_model_that_guesses_for_itself_is_always_right(model):
    for rejection in ("strict", "standard"):
        engine = make_engine(model, model, rejection=rejection)
        engine.add_request(TOKENIZER.encode("some text"), FREE.replace(max_tokens=41))
        steps = 0
        while engine.has_unfinished:
            outputs, steps = engine.step(), steps + 1
        [output] = outputs
        assert output.num_drafted_tokens == output.num_accepted_tokens == 32
        assert steps == 9 and len(output.outputs[0].token_ids) == 41


def test_guesses_for_a_longer_prompt_use_all_of_it(model):
    """The draft model's cache is filled by chunks, forks and prefixes: a model guesses its own tokens behind them."""
    engine = make_engine(model, model, max_num_batched_tokens=17)
    for text in ("a prompt of some length, in chunks", "a prompt of some length, in parts"):
        complete(engine, GREEDY.replace(n=3, max_tokens=21), [text])
    assert engine.stats().drafted_tokens == engine.stats().accepted_tokens == 2 * 3 * 16


def test_standard_rejection_is_greedy_when_the_target_is(model, similar):
    engine = make_engine(model, similar, rejection="standard")
    assert_same(complete(make_engine(model), GREEDY), complete(engine, GREEDY))
    assert engine.stats().accepted_tokens > 0


SMALL = {"n": 2000, "max_tokens": 3, "temperature": 0.8}


@pytest.mark.parametrize("rejection", ["strict", "standard"])
@pytest.mark.parametrize(
    "cuts",
    [{}, {"top_k": 4, "top_p": 0.9}, {"min_p": 0.15}, {"presence_penalty": 1.5, "repetition_penalty": 1.4}],
)
def test_samples_have_the_targets_distribution(rejection, cuts):
    """Chi-square of three-token completions against their exact probabilities, computed by a plain forward pass."""
    model, draft = make_model(6, seed=1), make_model(6, seed=1, noise=0.3)
    params = SamplingParams(**{"top_p": 1.0, "top_k": 0, "seed": 5, **SMALL, **cuts})
    speculation = Speculation(num_tokens=2, model=draft, rejection=rejection)
    engine = Engine(model, max_num_seqs=250, max_model_len=16, eos_token_ids=(), speculation=speculation)
    prompt = (1, 4, 2)
    [completions] = engine.generate([Prompt(prompt)], params)
    counts = dict.fromkeys(itertools.product(range(6), repeat=3), 0)
    for completion in completions:
        counts[completion.token_ids] += 1
    steps = {
        ids: exact(model, prompt, ids, params) for size in range(3) for ids in itertools.product(range(6), repeat=size)
    }
    exact_logprobs = {ids: [steps[ids[:i]][token] for i, token in enumerate(ids)] for ids in counts}
    expected = {ids: params.n * math.exp(sum(logprobs)) for ids, logprobs in exact_logprobs.items()}
    for completion in completions[:20]:
        assert list(completion.logprobs) == pytest.approx(exact_logprobs[completion.token_ids], abs=1e-4)
    assert all(counts[ids] == 0 for ids, number in expected.items() if number == 0)
    cells = [(counts[ids], number) for ids, number in expected.items() if number >= 5]
    rare = [(counts[ids], number) for ids, number in expected.items() if 0 < number < 5]
    if sum(number for _, number in rare) >= 5:
        cells.append(tuple(map(sum, zip(*rare, strict=True))))
    statistic = sum((seen - number) ** 2 / number for seen, number in cells)
    freedom = len(cells) - 1
    assert statistic < freedom + 4 * math.sqrt(2 * freedom) + 4  # beyond the 0.9999 quantile
    assert 0.2 < engine.stats().accepted_tokens / engine.stats().drafted_tokens < 0.95


@torch.no_grad()
def exact(model, prompt, ids, params):
    """Log-probs of the next token under the distribution that `params` describe, written out."""
    logits = model(torch.tensor([[*prompt, *ids]]))[0, -1].double().tolist()
    for token in range(len(logits)):
        if token in prompt or token in ids:
            logits[token] *= params.repetition_penalty ** (-1 if logits[token] > 0 else 1)
        logits[token] -= params.presence_penalty * (token in ids)
    weights = [math.exp(logit / params.temperature) for logit in logits]
    order = sorted(range(len(weights)), key=lambda t: -weights[t])
    kept = order[: params.top_k] if params.top_k else order
    total, mass, nucleus = sum(weights[t] for t in kept), 0.0, []
    for t in kept:
        if mass < params.top_p * total:
            nucleus.append(t)
        mass += weights[t]
    nucleus = [t for t in nucleus if weights[t] >= params.min_p * weights[order[0]]]
    total = sum(weights[t] for t in nucleus)
    return [math.log(weights[t] / total) if t in nucleus else -math.inf for t in range(len(weights))]


def test_rejection_keeps_as_many_guesses_as_any_scheme_can():
    """The share of guesses that stay is the overlap of the two distributions, and the tokens follow the target's."""
    p, q, number = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.1, 0.3, 0.2, 0.4]), 200_000
    keys, positions = torch.randint(2**62, (number,), generator=torch.Generator().manual_seed(1)), torch.zeros(number)
    positions = positions.long()
    guesses = torch.searchsorted(q.cumsum(0), draw_uniform(keys ^ GUESS_STREAM, positions), right=True).clamp(max=3)
    tokens = torch.zeros(number, 1, dtype=torch.int64)
    every = Guesses(torch.arange(number), guesses, q.expand(number, 4))
    accept_or_replace(tokens, p.expand(number, 4), keys, positions, every)
    share = torch.bincount(tokens[:, 0], minlength=4) / number
    assert torch.allclose(share, p, atol=5e-3)
    assert abs((tokens[:, 0] == guesses).double().mean().item() - 0.6) < 5e-3


@pytest.mark.parametrize("vocab_size", [282, 300])
def test_a_draft_model_with_another_padding_of_the_vocabulary_is_used(model, vocab_size):
    engine = make_engine(model, make_model(vocab_size))
    assert_same(complete(make_engine(model), FREE), complete(engine, FREE))
    assert engine.stats().drafted_tokens > 0


def test_weights_that_are_not_finite_in_the_draft_model_cost_guesses_only(model):
    broken = make_model(288)
    with torch.no_grad():
        broken.model.norm.weight[:] = torch.nan
    for rejection in ("strict", "standard"):
        engine = make_engine(model, broken, rejection=rejection)
        assert_same(complete(make_engine(model), GREEDY), complete(engine, GREEDY))


def test_llm_takes_vllms_speculative_config(tmp_path):
    for name, size in (("model", 282), ("other", 284)):
        save_model(make_model(size), tmp_path / name)
        train_tokenizer(["merges " * 50], size).save(tmp_path / name)
    draft = {"model": str(tmp_path / "model"), "num_speculative_tokens": 3}
    llm = LLM(tmp_path / "model", max_num_seqs=2, speculative_config=draft)
    [output] = llm.generate("abc", GREEDY)
    assert output.num_accepted_tokens == output.num_drafted_tokens > 0
    ngram = LLM(tmp_path / "model", max_num_seqs=2, speculative_config={"method": "ngram", "num_speculative_tokens": 3})
    assert ngram.generate("abc", GREEDY)[0].outputs[0].token_ids == output.outputs[0].token_ids
    with pytest.raises(UserError, match="another vocabulary"):
        LLM(tmp_path / "model", speculative_config=draft | {"model": str(tmp_path / "other")})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_speculative_token": 3}, "no key `num_speculative_token`"),
        ({"method": "eagle", "model": "m", "num_speculative_tokens": 3}, "must be 'ngram' or 'draft_model'"),
        ({"method": "ngram", "model": "m", "num_speculative_tokens": 3}, "for no other"),
        ({"model": "m"}, "a whole number"),
        ({"model": "m", "num_speculative_tokens": 2, "rejection_sample_method": "block"}, "'strict' or 'standard'"),
    ],
)
def test_invalid_speculative_config_is_rejected(config, message):
    with pytest.raises(UserError, match=message):
        read_speculation(config)
    with pytest.raises(UserError, match="1 to 32"):
        Speculation(num_tokens=0)
