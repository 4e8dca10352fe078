"""Attention windows: what a token sees is what the mask says, whatever runs beside it, and the rest is really freed."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_runs import ARRIVALS, V, ids, reference_ops, run, run_arrivals

from openqwq.errors import UserError
from openqwq.inference import LLM, Engine, Speculation
from openqwq.inference.cache.windowed_pool import WindowedPool
from openqwq.inference.windows import choose_windows, read_window
from openqwq.model import (
    AttentionMass,
    AttentionWindows,
    CpuFusedDecoder,
    KVCache,
    PagedAttention,
    PagedChunk,
    PageMap,
    WindowedAttention,
    bands_of,
    create_model,
    measure_attention_mass,
    preset,
)
from openqwq.model.attention.windows import Band
from openqwq.types import Prompt, SamplingParams

FREE = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=40)
BASE = Path(__file__).parents[2] / "recipes" / "base" / "tiny"
WINDOWS = AttentionWindows((32, None, 16), sinks=16)


@pytest.fixture(scope="module")
def model():
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "initializer_range": 0.4}
    return create_model(preset("tiny").replace(vocab_size=V, **shape), seed=1)


def make_engine(model, windows=WINDOWS, *, num_pages=None, **options):
    memory = None if num_pages is None else num_pages * 16 * KVCache.bytes_per_token(model.config) // 3
    defaults = {"eos_token_ids": (), "max_model_len": 160, "max_num_seqs": 6, "kv_cache_memory": memory}
    return Engine(model, attention_windows=windows, **(defaults | options))


def token_ids(results):
    return [c.token_ids for completions in results for c in completions]


class MaskedAttention:
    """A slow reference: one document under an explicit mask for each layer, in float64."""

    def __init__(self, length, windows):
        self.positions, self.windows = torch.arange(length), windows

    def attend(self, layer, q, k, v):
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1).double() for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q.double(), k) / q.shape[-1] ** 0.5
        i, j = torch.meshgrid(self.positions, self.positions, indexing="ij")
        hidden, window = j > i, self.windows.layers[layer]
        if window is not None:
            hidden |= (i // 16 - j // 16 >= -(-window // 16)) & (j // 16 >= -(-self.windows.sinks // 16))
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        return torch.einsum("hqk,khd->qhd", weights, v).flatten(1).float()


def assert_masked(model, windows, requests, results):
    for (prompt, _), completions in zip(requests, results, strict=True):
        for completion in completions:
            tokens = torch.tensor([*prompt, *completion.token_ids])
            with torch.no_grad():
                table = model(tokens, context=MaskedAttention(len(tokens), windows)).log_softmax(-1)
            expected = table[len(prompt) - 1 : -1].gather(1, tokens[len(prompt) :, None])[:, 0]
            assert completion.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    "windows", [WINDOWS, AttentionWindows((16, 16, 16), 0), AttentionWindows((48, None, 48), 20)], ids=str
)
@pytest.mark.parametrize("by_kernel", [True, False])
def test_logprobs_are_those_under_an_explicit_mask(model, windows, by_kernel):
    requests = [(ids(n, n), FREE.replace(seed=n, n=2)) for n in (5, 70, 100)]
    for budget in (8192, 37):
        with reference_ops(model, not by_kernel):
            engine = make_engine(model, windows, max_num_batched_tokens=budget)
            results = run(engine, requests)
        assert_masked(model, windows, requests, results)


def test_the_windows_change_what_is_sampled(model):
    """Otherwise the other tests could not fail."""
    requests = [(ids(70), FREE.replace(seed=3))]
    assert token_ids(run(make_engine(model), requests)) != token_ids(run(make_engine(model, None), requests))


def test_a_long_chunk_is_mixed_run_by_run(model, monkeypatch):
    monkeypatch.setattr("openqwq.model.attention.windows.QUERIES_AT_ONCE", 24)
    requests = [(ids(110), FREE.replace(seed=1))]
    assert_masked(model, WINDOWS, requests, run(make_engine(model), requests))


@pytest.mark.parametrize("by_kernel", [True, False])
def test_windows_that_hide_nothing_are_full_attention_bit_for_bit(model, by_kernel, monkeypatch):
    monkeypatch.setattr(CpuFusedDecoder, "of", lambda *_, **__: None)  # which rounds in another order
    requests = [(ids(30 + 20 * i, i), FREE.replace(seed=i, n=2)) for i in range(3)]
    wide = AttentionWindows((160, None, 144), 16)
    for budget in (8192, 37):
        with reference_ops(model, not by_kernel):
            one, two = (make_engine(model, windows, max_num_batched_tokens=budget) for windows in (None, wide))
            results = zip(run(one, requests), run(two, requests), strict=True)
        for full, windowed in results:
            assert [(c.token_ids, c.logprobs) for c in full] == [(c.token_ids, c.logprobs) for c in windowed]


def test_rows_and_chunks_of_one_pass_equal_full_attention_bit_for_bit(model):
    cache, full = (KVCache(model.config, 12, 16) for _ in range(2))
    pages = PageMap([Band((0, 1, 2), 1, 3)], 12, torch.device("cpu"))
    pages.assignments += [(0, block, (block + 5) % 12) for block in range(12)]
    pages.update()
    torch.manual_seed(0)
    tables, positions = torch.tensor([[1, 2, 3, 4]], dtype=torch.int32), torch.tensor([63])
    places = full.row_index(torch.arange(12).repeat_interleave(16), torch.arange(192) % 16)
    for layer in range(3):
        keys, values = torch.randn(2, 192, 2, 8)
        full.write(layer, places, keys, values)
        for old, new in ((full.keys, cache.keys), (full.values, cache.values)):
            new[layer][(torch.arange(12) + 5) % 12] = old[layer]
    chunks = [PagedChunk(0, 20, [5, 6]), PagedChunk(17, 30, [7, 8, 9])]
    q, k, v = torch.randn(51, 4, 8), torch.randn(51, 2, 8), torch.randn(51, 2, 8)
    one = PagedAttention(full, tables, positions, ops=model.ops, longest=64, chunks=chunks)
    two = WindowedAttention(cache, pages, tables, positions, ops=model.ops, longest=64, chunks=chunks)
    assert torch.equal(one.positions, two.positions)
    for layer in range(3):
        assert torch.equal(one.attend(layer, q, k, v), two.attend(layer, q, k, v))


def test_bands_have_equally_many_layers():
    mixed = AttentionWindows((100, None, 112, 16, None), 17)  # 100 and 112 tokens are 7 blocks
    alone = [Band((0,), 2, 7), Band((2,), 2, 7), Band((1,)), Band((4,)), Band((3,), 2, 1)]
    assert bands_of(mixed, 16) == alone
    assert bands_of(AttentionWindows((64, None) * 4, 16), 16) == [Band((0, 2, 4, 6), 1, 4), Band((1, 3, 5, 7))]


def test_blocks_outside_every_window_are_freed(model):
    """159 tokens are 10 blocks: all for one layer, for the others the first, the window and one that is begun."""
    engine = make_engine(model, max_num_seqs=1, max_num_batched_tokens=16)
    run(engine, [(ids(40), FREE.replace(seed=1, max_tokens=119))])
    page_bytes = 2 * 16 * 2 * 8 * 4  # keys and values of 16 tokens, 2 heads of 8 numbers
    assert engine.runner.block_bytes == page_bytes
    stats = engine.stats()
    assert stats.kv_bytes_used == 0 and stats.kv_bytes_most == (10 + (1 + 2) + (1 + 1)) * page_bytes
    whole = make_engine(model, None, max_num_seqs=1)
    run(whole, [(ids(40), FREE.replace(seed=1, max_tokens=119))])
    assert whole.stats().kv_bytes_most == 10 * 3 * page_bytes


def test_tokens_that_the_chunks_end_does_not_see_get_no_page(model):
    engine = make_engine(model, AttentionWindows((16, 16, 16), 16), max_num_seqs=1)
    run(engine, [(ids(130), FREE.replace(seed=1, max_tokens=4))])
    assert engine.stats().kv_bytes_most == 2 * engine.runner.block_bytes  # all layers in one band


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "int8"])
def test_tokens_do_not_depend_on_batches_preemption_or_guesses(model, dtype):
    requests = [(ids(17 + 3 * i, i // 2), FREE.replace(seed=i, max_tokens=90, n=1 + i % 2)) for i in range(4)]
    requests.append((ids(80), FREE.replace(seed=5)))
    alone = [make_engine(model, kv_cache_dtype=dtype).generate([Prompt(p)], own)[0] for p, own in requests]
    bytes_kept = {"auto": 1.0, "bfloat16": 0.5, "int8": 12 / 32}[dtype]
    crowded = make_engine(model, kv_cache_dtype=dtype, num_pages=int(31 * bytes_kept + 1), max_num_batched_tokens=17)
    guessing = make_engine(model, kv_cache_dtype=dtype, speculation=Speculation(num_tokens=3))
    for engine in (crowded, guessing):
        assert token_ids(run(engine, requests)) == token_ids(alone)
    assert crowded.stats().preemptions > 0


def test_a_conversation_goes_on_where_it_ended(model):
    engine = make_engine(model)
    prompt = ids(60)
    [[turn]] = run(engine, [(prompt, FREE.replace(seed=1, max_tokens=30))])
    longer = (*prompt, *turn.token_ids, *ids(9, 4))
    warm = run(engine, [(longer, FREE.replace(seed=2, max_tokens=20))])
    assert engine.stats().cached_tokens == 80  # of 89 computed tokens
    assert token_ids(warm) == token_ids(run(make_engine(model), [(longer, FREE.replace(seed=2, max_tokens=20))]))
    assert token_ids(run(engine, [(prompt, FREE.replace(seed=1, max_tokens=30))])) == [turn.token_ids]


def test_samples_of_a_group_share_the_prompts_pages(model):
    """4 * 16 + 1 prompt tokens: 4 whole blocks for one layer, 1 + 1 and 1 + 2 for the others; and each sample's own."""
    engine = make_engine(model)
    run(engine, [(ids(65), FREE.replace(seed=1, n=4, max_tokens=10))])
    assert engine.stats().kv_bytes_most <= (4 + 3 + 2 + 4 * 3) * engine.runner.block_bytes
    assert engine.stats().cached_tokens == 3 * 64


some_windows = st.builds(
    AttentionWindows,
    st.tuples(*[st.one_of(st.none(), st.sampled_from([16, 32, 64]))] * 3),
    st.sampled_from([0, 16, 32]),
)


@settings(max_examples=12, deadline=None)
@given(ARRIVALS, some_windows, st.integers(34, 70), st.integers(8, 90), st.integers(1, 4), st.booleans())
def test_random_arrivals_in_tiny_pools_sample_what_they_sample_alone(
    model, requests, windows, num_pages, budget, max_num_seqs, guesses
):
    engine = make_engine(
        model,
        windows,
        num_pages=num_pages + 1,
        max_num_batched_tokens=budget,
        max_num_seqs=max_num_seqs,
        speculation=Speculation(num_tokens=3) if guesses else None,
    )
    outputs, prompts, params = run_arrivals(engine, requests, FREE)
    for i, output in outputs.items():
        alone = make_engine(model, windows, prefix_caching=False).generate([Prompt(prompts[i])], params[i])
        assert token_ids([output.outputs]) == token_ids(alone)
    engine.pool.reset()
    assert_nothing_leaks(engine.pool)


def assert_nothing_leaks(pool: WindowedPool):
    assert sorted(pool._free_pages) == list(range(1, pool.num_blocks + 1))
    assert not any(pool._pages) and not any(pool._users) and not any(pool._holders)


def test_mass_is_what_is_counted_one_weight_at_a_time(model):
    """Against the weights of each head in a plain forward, summed in Python."""
    weights = {}

    class Recorder(MaskedAttention):
        def attend(self, layer, q, k, v):
            keys = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
            scores = torch.einsum("qhd,khd->hqk", q.double(), keys.double()) / q.shape[-1] ** 0.5
            hidden = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
            weights[layer] = scores.masked_fill(hidden, float("-inf")).softmax(-1).tolist()
            return super().attend(layer, q, k, v)

    documents = [ids(70, 1), ids(100, 2)]
    found = measure_attention_mass(model, documents, sinks=16)
    held = torch.zeros(3, 4, 2)  # layers, heads, windows of one block and of two
    for document in documents:
        with torch.no_grad():
            model(torch.tensor(document), context=Recorder(len(document), AttentionWindows((None,) * 3)))
        for layer, head, i in itertools.product(range(3), range(4), range(len(document) // 2, len(document))):
            row = weights[layer][head][i]
            for w in (1, 2):
                held[layer, head, w - 1] += sum(row[j] for j in range(i + 1) if j < 16 or i // 16 - j // 16 < w)
    held /= 35 + 50
    assert found.num_tokens == 85 and found.sinks == 16
    assert torch.allclose(torch.tensor(found.held), held.mean(1), atol=1e-5)
    assert torch.allclose(torch.tensor(found.least), held.amin(1), atol=1e-5)


def test_windows_are_the_narrowest_that_hold_the_mass(tmp_path):
    held = ((0.5, 0.9, 0.95), (0.99, 0.995, 1.0), (0.1, 0.2, 0.3))
    mass = AttentionMass(held=held, least=((0.4, 0.8, 0.9), *held[1:]), sinks=16, num_tokens=1)
    assert mass.windows(0.9) == AttentionWindows((32, 16, None), 16)
    assert mass.windows(0.95) == AttentionWindows((48, 16, None), 16)
    assert mass.windows(0.9, heads="each") == AttentionWindows((48, 16, None), 16)
    assert AttentionMass.load(mass.save(tmp_path)) == mass
    with pytest.raises(UserError, match="above 0"):
        mass.windows(1.5)


def test_windows_are_chosen_as_they_are_asked_for(model, tmp_path):
    assert choose_windows(read_window("tokens=64,sinks=0"), model) == AttentionWindows((64, 64, 64), 0)
    mass = measure_attention_mass(model, [ids(100)])
    mass.save(tmp_path)
    wanted = mass.windows(0.6)
    assert choose_windows(read_window("mass=0.6"), model, folder=tmp_path) == wanted
    assert choose_windows(read_window("mass=0.6,heads=each"), model, folder=tmp_path) == mass.windows(0.6, heads="each")
    assert choose_windows(read_window({"mass": 0.6, "measured": tmp_path / "attention_mass.json"}), model) == wanted
    (tmp_path / "text.txt").write_text("abc")
    for bad, message in {
        "tokens=64,mass=0.9": "either `tokens` or `mass`",
        "sinks=3": "either `tokens` or `mass`",
        "tokens=many": "whole numbers",
        "width=3": "no key 'width'",
        "tokens=64,text=a": "need no text",
        "mass=0.9": "no measurement",
        "mass=0.9,heads=some": "'together' or 'each'",
        "mass=0.9,measured=nowhere.json": "no measurement",
        f"mass=0.9,measured={tmp_path}/text.txt": "is not a measurement",
        f"mass=0.9,text={tmp_path}/text.txt": "has none",
    }.items():
        with pytest.raises(UserError, match=message):
            choose_windows(read_window(bad), model)


def test_llm_measures_on_a_text(tmp_path):
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 40)
    plain, windowed = (
        LLM("tiny", tokenizer=BASE, max_num_seqs=1, max_model_len=300, kv_cache_memory=2**27, **options)
        for options in ({}, {"attention_window": f"mass=0.9,text={tmp_path}/text.txt"})
    )
    assert plain.engine.runner.pages is None
    layers = [layer for band in windowed.engine.runner.pages.bands for layer in band.layers]
    assert sorted(layers) == list(range(windowed.engine.model.config.num_hidden_layers))


def test_what_cannot_be_is_refused(model):
    for windows, message in ((AttentionWindows((16,)), "1 layers, but the model has 3"), (WINDOWS, "draft model")):
        with pytest.raises(UserError, match=message):
            make_engine(model, windows, speculation=Speculation(num_tokens=2, model=model))
    with pytest.raises(UserError, match="attention windows"):
        make_engine(create_model(model.config, seed=1), batch_invariant=True)
    with pytest.raises(UserError, match="one sequence of `max_model_len` needs"):
        make_engine(model, num_pages=12)
    with pytest.raises(UserError, match="at least 1 token"):
        AttentionWindows((0,))
