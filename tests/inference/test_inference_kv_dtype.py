"""A KV cache in bfloat16 or int8: its error and size are known, and nothing but the rounding shows."""

import pytest
import torch
from inference_runs import V, ids, reference_ops, run

from openqwq.errors import UserError
from openqwq.inference import Engine, Speculation
from openqwq.kernels import REFERENCE, choose_ops
from openqwq.model import KVCache, PagedAttention, PagedChunk, YarnScaling, create_model, preset
from openqwq.model.kv_cache import round_to_int8
from openqwq.types import Prompt, SamplingParams

FREE = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=14)


@pytest.fixture(scope="module")
def model():
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "initializer_range": 0.15}
    return create_model(preset("tiny").replace(vocab_size=V, **shape), seed=1)


def make_engine(model, **options):
    return Engine(model, **{"eos_token_ids": (), "max_model_len": 96, "max_num_seqs": 6, **options})


def flat(results):
    return [completion for completions in results for completion in completions]


class RoundingAttention:
    """A slow reference: one document, with keys and values rounded as a cache would."""

    def __init__(self, length, dtype):
        self.positions, self.dtype = torch.arange(length), dtype

    def attend(self, layer, q, k, v):
        k, v = (self.round(x).repeat_interleave(q.shape[1] // k.shape[1], 1).double() for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q.double(), k) / q.shape[-1] ** 0.5
        hidden = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        return torch.einsum("hqk,khd->qhd", weights, v).flatten(1).float()

    def round(self, x):
        if self.dtype == "bfloat16":
            return x.bfloat16().float()
        scale = x.abs().amax(-1, keepdim=True) / 127
        return (x / scale).round() * scale


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("by_kernel", [True, False])
def test_logprobs_are_those_of_rounded_keys_and_values(model, dtype, by_kernel):
    requests = [(ids(40 + i, i), FREE.replace(seed=i, n=2)) for i in range(2)]
    with reference_ops(model, not by_kernel):
        results = run(make_engine(model, kv_cache_dtype=dtype, max_num_batched_tokens=29), requests)
    for (prompt, _), completions in zip(requests, results, strict=True):
        for completion in completions:
            tokens = torch.tensor([*prompt, *completion.token_ids])
            with torch.no_grad():
                table = model(tokens, context=RoundingAttention(len(tokens), dtype)).log_softmax(-1)
            expected = table[len(prompt) - 1 : -1].gather(1, tokens[len(prompt) :, None])[:, 0]
            assert completion.logprobs == pytest.approx(expected.tolist(), abs=2e-3)
            assert (torch.tensor(completion.logprobs) - expected).abs().median() < 5e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_error_and_bytes_are_as_documented(model, dtype):
    """Log-probs of the same tokens against an exact cache's: means 0.005 (bfloat16) and 0.013 (int8) were measured."""
    errors, greedy = [], FREE.replace(temperature=0.0, prompt_logprobs=0)
    for seed in range(3):
        exact, rounded = (
            make_engine(model, kv_cache_dtype=kept).run([ids(60, seed)], greedy)[0] for kept in ("auto", dtype)
        )
        pairs = zip(exact.prompt_logprobs[1:], rounded.prompt_logprobs[1:], strict=True)
        errors += [abs(one[token] - two[token]) for one, two in pairs for token in one]
    assert 0 < max(errors) < {"bfloat16": 0.06, "int8": 0.12}[dtype]
    assert sum(errors) / len(errors) < {"bfloat16": 0.008, "int8": 0.02}[dtype]
    engine, whole = make_engine(model, kv_cache_dtype=dtype), make_engine(model)
    share = engine.runner.cache.num_bytes / whole.runner.cache.num_bytes
    assert engine.pool.num_blocks == whole.pool.num_blocks
    assert share == {"bfloat16": 1 / 2, "int8": (16 + 4) / 64}[dtype]  # a head of 16 bytes and its scale


def test_less_memory_holds_more_blocks(model):
    memory = 8 * 16 * KVCache.bytes_per_token(model.config)
    blocks = [make_engine(model, kv_cache_memory=memory, kv_cache_dtype=kept).pool.num_blocks for kept in
              ("float32", "bfloat16", "int8")]  # fmt: skip
    assert blocks == [8, 16, 25]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_tokens_do_not_depend_on_chunks_batches_preemption_or_guesses(model, dtype):
    requests = [(ids(33 + 3 * i, i // 2), FREE.replace(seed=i, max_tokens=30, n=1 + i % 2)) for i in range(4)]
    alone = [make_engine(model, kv_cache_dtype=dtype).generate([Prompt(p)], own)[0] for p, own in requests]
    block = 16 * KVCache.bytes_per_token(model.config, torch.int8 if dtype == "int8" else torch.bfloat16)
    crowded = make_engine(model, kv_cache_dtype=dtype, kv_cache_memory=9 * block, max_num_batched_tokens=17)
    guessing = make_engine(model, kv_cache_dtype=dtype, speculation=Speculation(num_tokens=3, model=model))
    for engine in (crowded, guessing):
        assert [c.token_ids for c in flat(run(engine, requests))] == [c.token_ids for c in flat(alone)]
    assert crowded.stats().preemptions > 0
    assert guessing.stats().accepted_tokens > 0.9 * guessing.stats().drafted_tokens


def test_nonfinite_kv_values_are_detected_and_cleared(model):
    engine = make_engine(create_model(model.config, seed=1), kv_cache_dtype="int8", max_num_seqs=1)
    weight = engine.model.model.embed_tokens.weight
    clean = weight.detach().clone()
    with torch.no_grad():
        weight[5] = torch.nan
    [[broken]] = run(engine, [((5, 6) * 10, FREE)])
    assert "not finite" in broken.error
    with torch.no_grad():
        weight.copy_(clean)
    again, fresh = (
        run(e, [(ids(9), FREE.replace(seed=3))]) for e in (engine, make_engine(model, kv_cache_dtype="int8"))
    )
    assert flat(again)[0].token_ids == flat(fresh)[0].token_ids


@pytest.mark.parametrize("storage", [torch.int8, torch.bfloat16])
@pytest.mark.parametrize("chunk", [0, 3])
def test_kernel_and_operators_keep_and_read_the_same(storage, chunk):
    config = preset("tiny").replace(hidden_size=6 * 20, num_attention_heads=6, num_key_value_heads=2)
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2 + chunk, heads, 20, generator=random) * 3 for heads in (6, 2, 2))
    tables, positions = torch.tensor([[1, 3, 0], [4, 2, 5]], dtype=torch.int32), torch.tensor([33, 5])
    past = torch.randn(2, 6 * 2 * 16, 20, generator=random)
    results = []
    for ops in (choose_ops("cpu", torch.float32), REFERENCE):
        cache = KVCache(config, 8, 16, storage_dtype=storage)
        cache.write(0, torch.arange(6 * 2 * 16), past[0][:, None], past[1][:, None])
        chunks = [PagedChunk(0, chunk, [7])] if chunk else []
        mixed = PagedAttention(cache, tables, positions, ops=ops, longest=34, chunks=chunks).attend(0, q, k, v)
        results.append((mixed, cache.keys[0].clone(), cache.values[0].clone(), cache.num_bytes))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    assert all(torch.equal(*pair) for pair in list(zip(*results, strict=True))[1:3])
    assert all(cache_bytes < KVCache(config, 8, 16).num_bytes for *_, cache_bytes in results)


def test_int8_is_within_half_a_step():
    x = torch.cat((torch.randn(50, 7, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 7)))
    rounded, scale = round_to_int8(x)
    assert ((rounded * scale[:, None] - x).abs() <= x.abs().amax(1, keepdim=True) / 254 + 1e-6).all()
    assert rounded.abs().amax(1)[:-1].tolist() == [127] * 50 and not rounded[-1].any()


def test_incompatible_kv_cache_options_are_rejected(model):
    with pytest.raises(UserError, match="'fp8', but must be"):
        make_engine(model, kv_cache_dtype="fp8")
    half = create_model(model.config, seed=0, dtype=torch.bfloat16)
    for kept in ("float32",):
        with pytest.raises(UserError, match="saves nothing"):
            make_engine(half, kv_cache_dtype=kept)
    with pytest.raises(UserError, match="'int8', which rounds"):
        make_engine(create_model(model.config, seed=0), kv_cache_dtype="int8", batch_invariant=True)


def biased(norm, **changes):
    """A model whose key biases have this norm in four channels of each head of two of its three layers."""
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "initializer_range": 0.15}
    made = create_model(preset("tiny").replace(vocab_size=V, rope_theta=1e6, **shape, **changes), seed=1)
    with torch.no_grad():
        for layer in made.model.layers[::2]:
            heads = layer.self_attn.k_proj.bias.view(-1, made.config.head_dim)
            heads[:, (5, 6, 7, 15)] = norm / 2 * torch.tensor([1.0, -1.0, 1.0, 1.0])
            # queries that would see the biases alone are no model's: these channels count little
            layer.self_attn.q_proj.weight.view(-1, made.config.head_dim, 64)[:, (5, 6, 7, 13, 14, 15)] *= 0.02
    return made


def cache_error(model, dtype, **options):
    """Mean difference of a prompt's log-probs from an exact cache's, over chunks of some lengths."""
    errors, greedy = [], FREE.replace(temperature=0.0, prompt_logprobs=0, max_tokens=8)
    for seed in range(3):
        exact, rounded = (
            make_engine(model, kv_cache_dtype=kept, max_num_batched_tokens=23, **options).run([ids(60, seed)], greedy)[
                0
            ]
            for kept in ("auto", dtype)
        )
        pairs = zip(exact.prompt_logprobs[1:], rounded.prompt_logprobs[1:], strict=True)
        errors += [abs(one[token] - two[token]) for one, two in pairs for token in one]
    return sum(errors) / len(errors)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("by_kernel", [True, False])
def test_large_key_biases_cost_a_rounded_cache_nothing(dtype, by_kernel):
    """Without taking the biases out, int8's error at this norm is 0.8."""
    small, large = biased(1.0), biased(600.0)
    with reference_ops(small, not by_kernel), reference_ops(large, not by_kernel):
        assert cache_error(large, dtype) < 1.5 * cache_error(small, dtype) + 1e-3


def test_biases_that_are_not_large_stay_in_the_cache(model):
    assert make_engine(model, kv_cache_dtype="int8").runner.cache.offsets is None
    assert make_engine(biased(600.0)).runner.cache.offsets is None
    kept_out = make_engine(biased(600.0), kv_cache_dtype="int8").runner.cache.offsets.biases
    assert [bias is not None for bias in kept_out] == [True, False, True]


def test_kernel_and_reference_agree_where_biases_are_kept_out():
    model = biased(300.0, rope_scaling=YarnScaling(factor=2.0, original_max_position_embeddings=32))
    requests = [(ids(40 + i, i), FREE.replace(seed=i)) for i in range(3)]
    results = []
    for by_kernel in (True, False):
        with reference_ops(model, not by_kernel):
            results.append(flat(run(make_engine(model, kv_cache_dtype="int8", max_num_batched_tokens=29), requests)))
    for ours, theirs in zip(*results, strict=True):
        assert ours.token_ids == theirs.token_ids and ours.logprobs == pytest.approx(theirs.logprobs, abs=2e-3)


def test_options_incompatible_with_large_key_biases_are_rejected():
    model = biased(600.0, rope_scaling=YarnScaling(factor=2.0, original_max_position_embeddings=32))
    with pytest.raises(UserError, match="not available with `yarn_per_request`"):
        make_engine(model, kv_cache_dtype="int8", yarn_per_request=True)
    make_engine(model, yarn_per_request=True)
