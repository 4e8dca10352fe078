"""The paged cache never shows in what is sampled: small pools, chunks, shared prefixes, preemption, no C kernel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_runs import ARRIVALS, V, ids, reference_ops, run, run_arrivals

from openqwq.inference import Engine, Speculation
from openqwq.kernels import REFERENCE, choose_ops, library
from openqwq.model import KVCache, PagedAttention, PagedChunk, create_model, preset, use_ops
from openqwq.types import Prompt, SamplingParams

FREE = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=12)


@pytest.fixture(scope="module")
def model():
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.4}
    return create_model(preset("tiny").replace(vocab_size=V, **shape), seed=1)


def make_engine(model, *, num_blocks=None, **options):
    block_bytes = 16 * KVCache.bytes_per_token(model.config)
    memory = None if num_blocks is None else num_blocks * block_bytes
    return Engine(model, **{"eos_token_ids": (), "max_model_len": 96, "kv_cache_memory": memory, **options})


def token_ids(results):
    return [c.token_ids for completions in results for c in completions]


def assert_same(first, second):
    """Equal tokens, and log-probs up to rounding."""
    assert token_ids(first) == token_ids(second)
    for one, two in zip(first, second, strict=True):
        for a, b in zip(one, two, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=5e-5)


def test_preempted_samples_are_what_they_would_have_been(model):
    requests = [(ids(20 + i, i), FREE.replace(seed=i, max_tokens=50, n=1 + i % 2)) for i in range(5)]
    small = make_engine(model, num_blocks=9)
    assert_same(run(small, requests), run(make_engine(model), requests))
    assert small.stats().preemptions > 0


def test_a_prompt_in_chunks_is_the_prompt_at_once(model):
    requests = [(ids(70, i), FREE.replace(seed=i)) for i in range(3)] + [(ids(3), FREE.replace(seed=9))]
    assert_same(run(make_engine(model, max_num_batched_tokens=17), requests), run(make_engine(model), requests))


def test_a_cached_prefix_gives_what_a_cold_one_gives(model):
    prefix = ids(50)
    engine = make_engine(model)
    for i in range(3):
        request = (prefix + ids(5 + i, i), FREE.replace(seed=i, n=2))
        before = engine.stats().cached_tokens
        warm = run(engine, [request])
        assert_same(warm, run(make_engine(model, prefix_caching=False), [request]))
        assert engine.stats().cached_tokens - before >= (48 if i else 0)


def test_a_prepared_turn_is_found_in_the_cache_and_the_thoughts_are_not(model):
    prompt, thoughts, answer = ids(24), ids(40, 1), ids(20, 2)
    engine = make_engine(model, num_blocks=12)
    [[turn]] = run(engine, [((*prompt, *thoughts), FREE.replace(seed=1, max_tokens=24))])
    former = [*prompt, *thoughts, *turn.token_ids]
    idle = len(engine.pool._idle)
    history = [*prompt, *answer]
    assert engine.prepare_turn(history, former) == idle - 1 == 4  # all but the block that both begin with
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    assert not outputs and engine.pool.num_free == engine.pool.num_blocks
    cached = engine.stats().cached_tokens
    following = ((*history, *ids(7, 3)), FREE.replace(seed=2))
    assert_same(run(engine, [following]), run(make_engine(model), [following]))
    assert engine.stats().cached_tokens - cached == 32  # both whole blocks of the 44 tokens
    run(engine, [((*prompt, *thoughts), FREE.replace(seed=1))])
    assert engine.stats().cached_tokens - cached - 32 == 16


def test_background_prefill_yields_to_new_requests(model):
    engine = make_engine(model, max_num_batched_tokens=16)
    history = ids(60, 3)
    engine.prepare_turn(history)
    engine.step()
    request = ((*history, *ids(9, 4)), FREE)  # without a seed: what was computed ahead takes none of the numbers
    assert_same(run(engine, [request]), run(make_engine(model, max_num_batched_tokens=16), [request]))
    assert engine.stats().cached_tokens == 16 and not engine.has_unfinished
    engine.add_request(ids(20), FREE.replace(max_tokens=5), "runs")
    engine.prepare_turn(ids(50, 5))
    assert list(engine.scheduler.requests) == ["runs"]


def test_dropping_thinking_keeps_blocks_shared_with_other_sequences(model):
    engine = make_engine(model)
    prompt = ids(50)
    engine.add_request(prompt, FREE.replace(seed=1, max_tokens=30), "runs")
    engine.step()
    assert engine.prepare_turn((), prompt) == 0
    engine.prepare_turn(ids(10, 7))
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    assert [output.request_id for output in outputs] == ["runs"]
    assert_same([outputs[0].outputs], run(make_engine(model), [(prompt, FREE.replace(seed=1, max_tokens=30))]))


def test_new_weights_forget_the_cache_of_prompts(model):
    other = create_model(model.config, seed=2)
    engine, request = make_engine(create_model(model.config, seed=1)), (ids(40), FREE.replace(seed=1))
    run(engine, [request])
    engine.load_weights(other)
    assert_same(run(engine, [request]), run(make_engine(other), [request]))


def test_operators_without_the_c_kernel_give_the_same(model):
    requests = [(ids(30 + 9 * i, i), FREE.replace(seed=i, n=2)) for i in range(3)]
    by_default = run(make_engine(model), requests)
    with reference_ops(model):
        assert_same(run(make_engine(model, num_blocks=10), requests), by_default)


def test_kernels_leave_subnormal_numbers_on():
    library()
    smallest = float.fromhex("0x1p-1074")
    assert smallest * 1.0 > 0 and smallest + smallest == 2.0**-1073
    assert (torch.tensor([2.0**-140]) * 1.0).item() == 2.0**-140


@pytest.mark.skipif(library() is None, reason="needs a C compiler")
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 32), (6, 1, 64), (2, 2, 128), (3, 3, 20)])
def test_the_c_kernel_is_attention(heads, kv_heads, dim):
    """Against softmax(q k^T / sqrt(D)) v in float64, block by block in a shuffled order."""
    torch.manual_seed(0)
    config = preset("tiny").replace(
        hidden_size=heads * dim, num_attention_heads=heads, num_key_value_heads=kv_heads, num_hidden_layers=1
    )
    cache = KVCache(config, 12, 16)
    tables = torch.randperm(12).view(3, 4).int()
    positions = torch.tensor([0, 15, 61])
    keys, values = torch.randn(2, 3, 64, kv_heads, dim) * 3
    q, k, v = torch.randn(3, heads, dim), torch.randn(3, kv_heads, dim), torch.randn(3, kv_heads, dim)
    for row in range(3):
        places = cache.row_index(tables[row].long().repeat_interleave(16), torch.arange(64) % 16)
        cache.write(0, places, keys[row], values[row])
        keys[row, positions[row]], values[row, positions[row]] = k[row], v[row]
    mixed = (
        PagedAttention(cache, tables, positions, ops=choose_ops("cpu", torch.float32), longest=62)
        .attend(0, q, k, v)
        .view(3, heads, dim)
    )
    for row, last in enumerate(positions.tolist()):
        for head in range(heads):
            own = head // (heads // kv_heads)
            scores = keys[row, : last + 1, own].double() @ q[row, head].double() / dim**0.5
            expected = scores.softmax(0) @ values[row, : last + 1, own].double()
            assert torch.allclose(mixed[row, head].double(), expected, atol=2e-5)


def test_chunks_must_come_in_order(model):
    cache = KVCache(model.config, 4, 16)
    chunks = [PagedChunk(5, 2, [0]), PagedChunk(0, 2, [1])]
    with pytest.raises(ValueError, match="position 0"):
        PagedAttention(cache, torch.zeros(0, 4).int(), torch.zeros(0).long(), ops=model.ops, longest=1, chunks=chunks)


def test_nonfinite_values_do_not_leak_into_reused_blocks(model):
    """On PyTorch's operators, where masked positions are multiplied by zero."""
    own = create_model(model.config, seed=1)
    use_ops(own, REFERENCE)
    engine = make_engine(own, num_blocks=6, max_num_seqs=1)
    clean = engine.model.model.embed_tokens.weight.detach().clone()
    with torch.no_grad():
        engine.model.model.embed_tokens.weight[5] = torch.nan
    [[broken]] = run(engine, [((5, 6) * 20, FREE)])
    assert "not finite" in broken.error
    with torch.no_grad():
        engine.model.model.embed_tokens.weight.copy_(clean)
    request = (ids(4), FREE.replace(seed=3))
    assert_same(run(engine, [request]), run(make_engine(model), [request]))


@settings(max_examples=12, deadline=None)
@given(ARRIVALS, st.integers(6, 12), st.integers(8, 40), st.integers(1, 4), st.sampled_from(["none", "ngram", "draft"]))
def test_random_arrivals_in_tiny_pools_sample_what_they_sample_alone(
    model, requests, num_blocks, budget, max_num_seqs, guesses
):
    draft = model if guesses == "draft" else None
    engine = make_engine(
        model,
        num_blocks=num_blocks * (2 if draft else 1),  # of which the draft model takes half
        max_num_batched_tokens=budget,
        max_num_seqs=max_num_seqs,
        speculation=None if guesses == "none" else Speculation(num_tokens=3, model=draft),
    )
    outputs, prompts, params = run_arrivals(engine, requests, FREE)
    for i, output in outputs.items():
        alone = make_engine(model, prefix_caching=False).generate([Prompt(prompts[i])], params[i])
        assert token_ids([output.outputs]) == token_ids(alone)
