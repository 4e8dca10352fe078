"""Rollouts under top-p, top-k and min-p: log-probs are those of the cut distribution, in sampler and trainer alike."""

import math
from pathlib import Path

import pytest
import torch

from openqwq.config import CorrectionConfig
from openqwq.inference import Engine, Speculation
from openqwq.kernels import library
from openqwq.model import load_model, set_batch_invariant
from openqwq.rollout import make_rollout
from openqwq.tokenizer import Tokenizer
from openqwq.train.experience.rollout_file import Replay, RolloutFile
from openqwq.train.optim.logprobs import chunked_logprobs
from openqwq.train.optim.update import policy_logprobs
from openqwq.train.packing import pack, rollout_sample
from openqwq.types import Message, Problem, Prompt, SamplingParams

BASE = Path(__file__).parents[2] / "recipes" / "base" / "tiny"
PROBLEM = Problem(id="p", source="s", kind="math", messages=(Message("user", "1"),), verifier="same_digit")
TEXTS = ("12 + 34 + 5", "What is 13 * 27?", "gcd of 24 and 36", "Write a function that adds two numbers")
needs_base = pytest.mark.skipif(not BASE.is_dir(), reason="the base model is not in this checkout")
needs_compiler = pytest.mark.skipif(library() is None, reason="needs a C compiler")
CUTS = {
    "top-p": {"top_p": 0.8, "top_k": 0},
    "top-k": {"top_p": 1.0, "top_k": 7},
    "all three": {"top_p": 0.95, "top_k": 40, "min_p": 0.02},
}


def slow_cut(hidden, weight, targets, kept, temperature):
    """Log-probs and entropies of softmax over each row's own ids, in float64, differentiable."""
    logprobs, entropies = [], []
    for row, target, ids in zip(hidden, targets.tolist(), kept, strict=True):
        ids = list(ids) or list(range(len(weight)))
        table = (row @ weight[ids].T / temperature).log_softmax(-1)
        logprobs.append(table[ids.index(target)])
        entropies.append(-(table.exp() * table).sum())
    return torch.stack(logprobs), torch.stack(entropies)


@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
def test_log_probs_and_gradients_are_over_the_kept_ids_alone(chunk_tokens):
    draw = torch.Generator().manual_seed(2)
    hidden, weight = torch.randn(7, 5, generator=draw), torch.randn(11, 5, generator=draw)
    targets = torch.tensor([3, 0, 10, 4, 4, 7, 1])
    kept = [(3, 8), (), (10,), (1, 2, 4, 9), tuple(range(10)), (), (1, 0)]
    outer, inner = torch.randn(2, 7, generator=draw)
    inputs = [t.double().requires_grad_() for t in (hidden, weight)]
    expected = slow_cut(*inputs, targets, kept, 0.7)
    slopes = torch.autograd.grad((expected[0] * outer + expected[1] * inner).sum(), inputs)
    hidden.requires_grad_(), weight.requires_grad_()
    ragged = torch.tensor([len(ids) for ids in kept]), torch.tensor([i for ids in kept for i in ids])
    found = chunked_logprobs(
        hidden, weight, targets, temperature=0.7, chunk_tokens=chunk_tokens, entropy_gradient=True, kept=ragged
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=0)
    ours = torch.autograd.grad((found[0] * outer + found[1] * inner).sum(), (hidden, weight))
    for mine, theirs in zip(ours, slopes, strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def base():
    tokenizer = Tokenizer.load(BASE)
    prompts = [Prompt(tuple(tokenizer.encode_chat((Message("user", text),)))) for text in TEXTS]
    return {dtype: load_model(BASE, dtype=dtype) for dtype in (torch.float32, torch.float64)}, tokenizer, prompts


# The mode's bits; rounding in float32; and in float64, where only the last softmax rounds, the same function.
BOUNDS = pytest.mark.parametrize(
    ("invariant", "dtype", "bound"),
    [
        pytest.param(True, torch.float32, 0.0, marks=needs_compiler),
        (False, torch.float32, 5e-5),
        (False, torch.float64, 3e-6),
    ],
)


def rollouts_of(base, cuts, invariant, dtype, **options):
    """The model in that mode, and 16 rollouts of at most 40 tokens."""
    models, tokenizer, prompts = base
    model = models[dtype]
    set_batch_invariant(model, invariant)
    params = SamplingParams(n=4, temperature=1.2, max_tokens=40, seed=3, kept_ids=True, **cuts)
    if options.pop("budget", False):
        params = params.replace(thinking_budget=11)
    groups = Engine(model, tokenizer, **options).generate(prompts, params)
    return model, [make_rollout(PROBLEM, p, c) for p, own in zip(prompts, groups, strict=True) for c in own]


def mismatches(model, samples, tokens=16384):
    batches = pack(samples, [1.0] * len(samples), tokens_per_microbatch=tokens)
    with torch.no_grad():
        found = [policy_logprobs(model, b, temperature=1.2)[0] - b.rollout_logprobs for b in batches]
    assert sum(map(len, found)) > 100
    return torch.cat(found).abs()


def assert_alike(model, samples, bound, tokens=16384):
    """Within the bound; one token in a hundred may be as far off again, which the base's large scores make it."""
    found = mismatches(model, samples, tokens)
    assert found.quantile(0.99) <= bound and found.max() <= 2 * bound


@needs_base
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
@BOUNDS
def test_sampler_and_trainer_renormalise_alike(base, cuts, invariant, dtype, bound):
    model, rollouts = rollouts_of(base, cuts, invariant, dtype)
    samples = [rollout_sample(rollout, 1.0) for rollout in rollouts]
    assert_alike(model, samples, bound)
    assert_alike(model, samples, bound, tokens=150)
    uncut = [rollout_sample(r, 1.0) for r in rollouts]
    for sample in uncut:
        object.__setattr__(sample, "kept_ids", ())
    assert mismatches(model, uncut).max() > 0.02  # the log of the mass that the cuts left


ENGINES = {
    "prompt lookup": {"speculation": Speculation(num_tokens=3)},
    "few rows, chunks, no prefix cache": {
        "max_num_seqs": 3,
        "max_num_batched_tokens": 16,
        "prefix_caching": False,
    },
    "preemption": {"kv_cache_memory": 2**20, "max_model_len": 128},
    "thinking budget": {"budget": True, "closing_text": "\n</think>\n\n"},
}


@needs_base
@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES)
@BOUNDS
def test_kept_ids_stay_with_their_tokens_whatever_the_engine_does(base, options, invariant, dtype, bound):
    model, rollouts = rollouts_of(base, CUTS["all three"], invariant, dtype, **options)
    for rollout in rollouts:
        assert len(rollout.kept_ids) == len(rollout.completion_ids)
        for token, ids, sampled in zip(rollout.completion_ids, rollout.kept_ids, rollout.loss_mask, strict=True):
            assert (token in ids and len(ids) <= 40) if sampled else ids == ()
    assert ("budget" in options) == any(0 in rollout.loss_mask for rollout in rollouts)
    assert_alike(model, [rollout_sample(rollout, 1.0) for rollout in rollouts], bound)


def test_the_kept_mass_is_what_top_p_says(world):
    model = world.model()
    params = SamplingParams(n=16, temperature=1.0, top_p=0.7, top_k=0, max_tokens=5, seed=1, kept_ids=True)
    (completions,) = world.engine(model).generate([Prompt((1, 2))], params)
    for c in completions:
        for place, ids in enumerate(c.kept_ids):
            probs = model(torch.tensor([[1, 2, *c.token_ids[:place]]]))[0, -1].softmax(-1).detach()
            mass = sorted((float(probs[i]) for i in ids), reverse=True)
            assert sum(mass) >= 0.7 - 1e-5 and sum(mass[:-1]) < 0.7 + 1e-5
            assert c.logprobs[place] == pytest.approx(math.log(float(probs[c.token_ids[place]]) / sum(mass)), abs=1e-5)


@pytest.mark.parametrize("mode", ["turns", "overlapped", "replayed"])
def test_truncated_sampling_logs_a_mismatch_below_5e_5(world, tmp_path, mode):
    cuts = {"top_p": 0.8, "top_k": 9, "min_p": 0.01, "reward": "random", "max_completion_tokens": 9, "steps": 2}
    late = {"max_staleness": 2, "correction": CorrectionConfig(mode="truncate")} if mode == "overlapped" else {}
    stage = world.stage(**cuts, **late)
    options = {}
    if mode == "replayed":
        collector = world.collector(tmp_path, stage, world.engine(world.model()))
        RolloutFile(tmp_path / "r.jsonl", {}).append(collector.collect(0))
        stage = world.stage(**cuts | {"steps": 1})
        options["replay"] = Replay(tmp_path / "r.jsonl", stage)
    world.train_rl(tmp_path, stage, **options)
    first = world.rows(tmp_path)[0]
    assert first["updates"] and first["mismatch_max"] < 5e-5
    assert 0 < first["entropy"] < math.log(9)


def test_a_second_update_compares_within_the_same_ids(world, tmp_path):
    """The kept ids are those of the sampling: a token never leaves its own distribution when the policy moves."""
    stage = world.stage(top_k=3, reward="random", updates_per_batch=2, learning_rate=0.05, steps=2)
    world.train_rl(tmp_path, stage)
    rows = world.rows(tmp_path)
    assert all(row["updates"] == 2 and math.isfinite(row["loss"]) and row["grad_norm"] < 100 for row in rows)
