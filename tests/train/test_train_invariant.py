"""The batch-invariant mode: the sampler's log-probs are the trainer's, bit for bit, whatever runs together."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openqwq.config import LoRAConfig, RLStage
from openqwq.errors import UserError
from openqwq.inference import Engine, Speculation
from openqwq.kernels import library
from openqwq.kernels.cpu.invariant import linear, rms_norm, rotate, swiglu, token_logprobs
from openqwq.model import (
    create_model,
    load_model,
    quantize_weights,
    set_batch_invariant,
)
from openqwq.rollout import make_rollout
from openqwq.tokenizer import Tokenizer
from openqwq.train.optim.update import policy_logprobs
from openqwq.train.packing import Sample, pack, rollout_sample
from openqwq.train.policy import invariance
from openqwq.types import Message, Problem, Prompt, SamplingParams

pytestmark = pytest.mark.skipif(library() is None, reason="needs a C compiler")
BASE = Path(__file__).parents[2] / "recipes" / "base" / "tiny"
PROBLEM = Problem(id="p", source="s", kind="math", messages=(Message("user", "1"),), verifier="same_digit")
TEXTS = ("12 + 34 + 5", "What is 13 * 27?", "gcd of 24 and 36", "Write a function that adds two numbers")


def samples_of(prompts, groups):
    return [
        Sample(
            token_ids=[*prompt.token_ids, *c.token_ids],
            loss_mask=[0] * len(prompt.token_ids) + [1] * len(c.token_ids),
            rollout_logprobs=[0.0] * len(prompt.token_ids) + list(c.logprobs),
        )
        for prompt, completions in zip(prompts, groups, strict=True)
        for c in completions
    ]


def largest_mismatch(model, samples, *, temperature, tokens_per_microbatch=16384):
    batches = pack(samples, [1.0] * len(samples), tokens_per_microbatch=tokens_per_microbatch)
    with torch.no_grad():
        found = [policy_logprobs(model, b, temperature=temperature)[0] - b.rollout_logprobs for b in batches]
    assert sum(map(len, found)) > 200
    return float(torch.cat(found).abs().max())


@pytest.fixture(scope="module")
def base():
    model = load_model(BASE, dtype=torch.float32)
    set_batch_invariant(model, True)
    tokenizer = Tokenizer.load(BASE)
    prompts = [Prompt(tuple(tokenizer.encode_chat((Message("user", text),)))) for text in TEXTS]
    return model, tokenizer, prompts


ENGINES = {
    "plain": {"prefix_caching": False},
    "prefix cache, few rows": {"max_num_seqs": 5},
    "chunks of the prompt": {"max_num_batched_tokens": 16, "max_num_seqs": 3},
    "prompt lookup": {"speculation": Speculation(num_tokens=3)},
    "preemption": {"kv_cache_memory": 2**20, "max_model_len": 128},
}


@pytest.mark.skipif(not BASE.is_dir(), reason="the base model is not in this checkout")
@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES)
def test_sampler_and_trainer_agree_to_the_last_bit(base, options):
    model, tokenizer, prompts = base
    engine = Engine(model, tokenizer, **options)
    params = SamplingParams(n=4, temperature=1.2, top_p=1.0, top_k=0, max_tokens=30, seed=3)
    groups = engine.generate(prompts, params)
    again = engine.generate(prompts, params)  # now with the prompts in the cache, where there is one
    assert [c.logprobs for g in again for c in g] == [c.logprobs for g in groups for c in g]
    samples = samples_of(prompts, groups)
    for tokens in (16384, 200):
        assert largest_mismatch(model, samples, temperature=1.2, tokens_per_microbatch=tokens) == 0.0
    random.Random(0).shuffle(samples)
    assert largest_mismatch(model, samples, temperature=1.2, tokens_per_microbatch=512) == 0.0


@pytest.mark.skipif(not BASE.is_dir(), reason="the base model is not in this checkout")
def test_a_thinking_budget_masks_the_text_that_it_puts_in_and_the_rest_agrees(base):
    model, tokenizer, prompts = base
    engine = Engine(model, tokenizer, closing_text="\n</think>\n\n")
    params = SamplingParams(n=8, temperature=1.0, top_p=1.0, top_k=0, max_tokens=24, seed=3, thinking_budget=7)
    samples, masked = [], 0
    for prompt, completions in zip(prompts, engine.generate(prompts, params), strict=True):
        for completion in completions:
            rollout = make_rollout(PROBLEM, prompt, completion)
            put_in = [place for start, end in completion.inserted for place in range(start, end)]
            assert [place for place, trained in enumerate(rollout.loss_mask) if not trained] == put_in
            masked += len(put_in)
            samples.append(rollout_sample(rollout, 1.0))
    assert masked > 20
    assert largest_mismatch(model, samples, temperature=1.0) == 0.0


def test_gradients_are_those_of_the_plain_mode(world):
    samples = [
        Sample(token_ids=[i % 16 for i in range(k, 3 * k)], loss_mask=[0] + [1] * (2 * k - 1)) for k in range(3, 14)
    ]
    found = []
    for on in (False, True):
        model = world.model()
        set_batch_invariant(model, on)
        for batch in pack(samples, [1.0] * len(samples), tokens_per_microbatch=60):
            logprobs, entropies = policy_logprobs(model, batch, temperature=0.7, entropy_gradient=True)
            (logprobs + 0.1 * entropies).sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    plain, invariant = found
    assert max(float(g.abs().max()) for g in plain.values()) > 1
    for name, grad in plain.items():
        torch.testing.assert_close(invariant[name], grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [5, 16, 24, 256, 300])
def test_kernels_compute_what_their_names_say_and_no_row_depends_on_others(size):
    draw = torch.Generator().manual_seed(size)
    x, up = torch.randn(2, 41, size, generator=draw) * 3
    weight, bias = torch.randn(37, size, generator=draw), torch.randn(37, generator=draw)
    gain, targets = torch.rand(size, generator=draw), torch.randint(size, (41,), generator=draw)
    exact = x.double()
    cases = {
        "linear": (lambda a, b, t: linear(a, weight, bias), exact @ weight.double().T + bias.double()),
        "norm": (
            lambda a, b, t: rms_norm(a, gain, 1e-6),
            exact / (exact.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain.double(),
        ),
        "swiglu": (lambda a, b, t: swiglu(a, b, 1.7), exact * (1.7 * exact).sigmoid() * up.double()),
        "log-probs": (
            lambda a, b, t: token_logprobs(a, t)[0],
            exact.log_softmax(-1).gather(1, targets[:, None])[:, 0],
        ),
    }
    for name, (function, expected) in cases.items():
        whole = function(x, up, targets)
        torch.testing.assert_close(whole.double(), expected, rtol=2e-6, atol=2e-5, msg=name)
        for start, end in ((0, 1), (3, 5), (7, 20), (40, 41), (1, 41)):
            rows = slice(start, end)
            assert torch.equal(function(x[rows], up[rows], targets[rows]), whole[rows]), name


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(3, 5, 7), (300, 77, 37), (41, 192, 24)])
def test_slopes_of_the_kernels_are_those_of_the_operators(rows, inputs, outputs):
    draw = torch.Generator().manual_seed(rows)
    shapes = ((rows, inputs), (rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))
    x, up, weight, bias, grad = (torch.randn(shape, generator=draw) for shape in shapes)

    def slopes(function, *tensors):
        inputs = [t.clone().requires_grad_() for t in tensors]
        return torch.autograd.grad((function(*inputs) * grad.to(tensors[0])).sum(), inputs)

    exact = [t.double() for t in (x, up, weight, bias)]
    ours = slopes(lambda a, b, w, c: linear(swiglu(a, b, 1.7), w, c), x, up, weight, bias)
    plain = slopes(lambda a, b, w, c: (a * (1.7 * a).sigmoid() * b) @ w.T + c, *exact)
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("rows", "heads", "dim"), [(3, 1, 6), (70, 3, 32), (41, 2, 80)])
def test_norms_and_turns_and_their_slopes_are_those_of_the_operators(rows, heads, dim):
    draw = torch.Generator().manual_seed(dim)
    x, grad = (torch.randn(rows, heads, dim, generator=draw) for _ in range(2))
    gain, angles = torch.rand(dim, generator=draw), torch.randn(rows, 1, dim // 2, generator=draw)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat((-angles.sin(), angles.sin()), -1)

    def plain_norm(a, w):
        return a / (a.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w

    def plain_turn(a):
        low, high = a.chunk(2, -1)
        return torch.cat((low * angles.cos() - high * angles.sin(), high * angles.cos() + low * angles.sin()), -1)

    pairs = [
        (lambda a, w: rms_norm(a, w, 1e-6), plain_norm, (x, gain)),
        (lambda a: rotate(a, cos, sin), plain_turn, (x,)),
    ]
    for ours, plain, tensors in pairs:
        mine = [t.clone().requires_grad_() for t in tensors]
        theirs = [t.double().requires_grad_() for t in tensors]
        out, exact = ours(*mine), plain(*theirs)
        torch.testing.assert_close(out.double(), exact, rtol=1e-6, atol=1e-6)
        found = torch.autograd.grad((out * grad).sum(), mine)
        wanted = torch.autograd.grad((exact * grad.double()).sum(), theirs)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=2e-5)


def test_the_sampler_of_the_mode_is_the_decoder_that_is_one_call(world, monkeypatch):
    model = world.model()
    engine = Engine(model, eos_token_ids=(), batch_invariant=True)
    monkeypatch.setattr(type(model.model), "forward", None)
    [[completion]] = engine.generate([Prompt((3, 4, 5))], SamplingParams(max_tokens=4, top_p=1.0, top_k=0))
    assert len(completion.token_ids) == 4


def test_what_cannot_be_invariant_is_refused_with_the_reason(world):
    with pytest.raises(UserError, match=r"torch\.float64"):
        set_batch_invariant(create_model(world.CONFIG, seed=0, dtype=torch.float64), True)
    model = world.model()
    quantize_weights(model)
    with pytest.raises(UserError, match="quantized"):
        Engine(model, world.HexTokenizer(), batch_invariant=True)


@pytest.mark.parametrize("fields", [{}, {"lora": LoRAConfig(rank=2)}], ids=["whole", "adapters"])
def test_a_stage_in_the_mode_logs_no_mismatch_at_all_and_leaves_the_mode(world, tmp_path, fields):
    mode = {"max_completion_tokens": 9, "temperature": 0.8, "tokens_per_microbatch": 50, "batch_invariant": "on"}
    model, _ = world.train_rl(tmp_path, world.stage(**mode, **fields))
    rows = world.rows(tmp_path)
    assert sum(row["updates"] for row in rows) >= 2
    assert {row["mismatch_max"] for row in rows if row["updates"]} == {0.0}
    assert not model.batch_invariant and not model.model.layers[0].mlp.down_proj.ops.invariant


def test_log_probs_that_are_off_by_a_bit_end_a_run_in_the_mode(world, tmp_path):
    class OffByABit(Engine):
        def generate(self, prompts, params):
            groups = super().generate(prompts, params)
            return [[replace(c, logprobs=(c.logprobs[0] - 1e-6, *c.logprobs[1:])) for c in own] for own in groups]

    model, stage = world.model(), world.stage(batch_invariant="on", reward="random")
    engine = OffByABit(model, world.HexTokenizer(), max_num_seqs=64)
    with pytest.raises(RuntimeError, match=r"sampler and trainer are up to .*e-0[67] apart"):
        world.train_rl(tmp_path, stage, model=model, engine=engine)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_stage_says_what_keeps_it_from_the_mode_or_refuses(world, monkeypatch, caplog):
    monkeypatch.setattr("openqwq.kernels.ops.missing_reason", lambda: "no C compiler was found (cc, gcc or clang)")
    model = world.model()
    with pytest.raises(UserError, match="no C compiler"), invariance(model, RLStage(batch_invariant="on")):
        pass
    with invariance(model, RLStage(batch_invariant="auto")):
        assert not model.batch_invariant
    assert "no C compiler" in caplog.text
