"""The decoder as one C call against the module's own pass over the same cache."""

import pytest
import torch

from openqwq.kernels import library
from openqwq.model import (
    CpuFusedDecoder,
    KVCache,
    PagedAttention,
    create_model,
    preset,
    quantize_weights,
)
from openqwq.model.attention.context import PagedChunk
from openqwq.model.attention.paged import as_rows
from openqwq.model.config import YarnScaling
from openqwq.model.lora import add_lora, merge_lora

pytestmark = pytest.mark.skipif(library() is None, reason="needs a C compiler")

SHAPES = [
    {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 103},
    {"hidden_size": 60, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 37, "vocab_size": 50},
    {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 200, "vocab_size": 97,
     "tie_word_embeddings": False, "swish_beta": 1.7},
]  # fmt: skip
PACKED = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 256}
NUM_BLOCKS = 160


def make(shape, **changes):
    model = create_model(preset("tiny").replace(num_hidden_layers=3, initializer_range=0.2, **shape, **changes), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "norm.weight")):  # neither zeros nor ones
                parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return model


def caches(model, number):
    """Equal caches, filled with the same past."""
    made = [KVCache(model.config, NUM_BLOCKS, 16) for _ in range(number)]
    for layer in range(model.config.num_hidden_layers):
        size = made[0].keys[layer].numel() // model.config.head_dim
        past = torch.randn(2, size, 1, model.config.head_dim, generator=torch.Generator().manual_seed(layer))
        for cache in made:
            cache.write(layer, torch.arange(size), *past)
    return made


def check_a_call(model, rows):
    """Tokens of sequences of their own."""
    random = torch.Generator().manual_seed(rows)
    positions = torch.randint(64, (rows,), generator=random)
    check_tokens(model, positions, torch.randperm(NUM_BLOCKS, generator=random)[: 4 * rows].view(rows, 4).int(), rows)


def check_tokens(model, positions, tables, num_logits):
    """Logits, and what is in the cache after it, against the module's own pass."""
    one, two = caches(model, 2)
    tokens = torch.randint(model.config.vocab_size, (len(positions),), generator=torch.Generator().manual_seed(0))
    longest = int(positions.max()) + 1
    expected = model(tokens, context=PagedAttention(one, tables, positions, ops=model.ops, longest=longest))[
        :num_logits
    ]
    kernel = CpuFusedDecoder.of(model, two)
    assert kernel.bind_weights()
    logits = kernel(tokens, positions, tables, longest, None, num_logits)
    assert logits.shape == expected.shape
    assert torch.allclose(logits, expected, atol=1e-4, rtol=1e-4)
    for first, second in zip([*one.keys, *one.values], [*two.keys, *two.values], strict=True):
        assert torch.allclose(first, second, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [*range(1, 9), 12, 16, 37])
@torch.no_grad()
def test_a_call_is_a_pass_of_the_module(shape, rows):
    check_a_call(make(shape), rows)


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("rows", [1, 2, 5, 37])
@torch.no_grad()
def test_a_call_is_a_pass_of_a_packed_module(kind, rows):
    model = make(PACKED)
    quantize_weights(model, kind)
    check_a_call(model, rows)


@pytest.mark.parametrize("shape", [*SHAPES, {**PACKED, "vocab_size": 70}])
@pytest.mark.parametrize("num_logits", [0, 5, 210])
@torch.no_grad()
def test_many_tokens_of_some_sequences_are_a_pass_of_the_module(shape, num_logits):
    check_tokens(make(shape), *prompts([70, 3, 20, 9, 1, 107]), num_logits)


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
@torch.no_grad()
def test_many_tokens_are_a_pass_of_a_packed_module(kind):
    model = make({**PACKED, "intermediate_size": 640})  # more inputs than are taken at a time
    quantize_weights(model, kind)
    check_tokens(model, *prompts([50, 13]), 63)


def prompts(lengths):
    """Positions and tables of some tokens each of as many sequences, which have some already."""
    past = [17 * n % 40 for n in range(len(lengths))]
    positions = [start + n for start, length in zip(past, lengths, strict=True) for n in range(length)]
    blocks = torch.randperm(NUM_BLOCKS, generator=torch.Generator().manual_seed(0)).int().view(-1, 10)
    tables = blocks[: len(lengths)].repeat_interleave(torch.tensor(lengths), 0)
    return torch.tensor(positions), tables


@pytest.mark.parametrize("rows", [11, 37])
@torch.no_grad()
def test_threads_share_the_work(rows):
    model, threads = make(SHAPES[0]), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        check_a_call(model, rows)
        check_tokens(model, *prompts([50, 13]), rows)
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def test_chunks_are_rows_that_see_each_other_and_logits_are_of_the_first_rows_only():
    model = make(SHAPES[0])
    one, two = caches(model, 2)
    tables, positions = torch.tensor([[3, 1, 0]], dtype=torch.int32), torch.tensor([30])
    chunks = [PagedChunk(0, 20, [4, 5]), PagedChunk(17, 15, [7, 8])]
    tokens = torch.arange(36) % model.config.vocab_size
    context = PagedAttention(one, tables, positions, ops=model.ops, longest=31, chunks=chunks)
    expected = model(tokens, context=context)
    kernel = CpuFusedDecoder.of(model, two)
    assert kernel.bind_weights()
    all_tables, all_positions, _ = as_rows(tables, positions, chunks)
    logits = kernel(tokens, all_positions, all_tables, 64, None, 1)
    assert logits.shape == (1, model.config.vocab_size)
    assert torch.allclose(logits, expected[:1], atol=2e-4, rtol=2e-4)
    for first, second in zip([*one.keys, *one.values], [*two.keys, *two.values], strict=True):
        assert torch.allclose(first, second, atol=1e-4)


@torch.no_grad()
def test_guessed_tokens_of_one_row_see_each_other_and_rows_have_their_own_setting():
    model = make(SHAPES[0], rope_scaling=YarnScaling(factor=4.0, original_max_position_embeddings=64))
    one, two = caches(model, 2)
    tables = torch.tensor([[3, 1, 4], [3, 1, 4], [3, 1, 4], [7, 8, 9]], dtype=torch.int32)
    positions, tokens = torch.tensor([30, 31, 32, 40]), torch.tensor([5, 6, 7, 5])
    scaled = torch.tensor([True, True, True, False])
    expected = model(tokens, context=PagedAttention(one, tables, positions, ops=model.ops, longest=41, scaled=scaled))
    kernel = CpuFusedDecoder.of(model, two, both_settings=True)
    assert kernel.bind_weights()
    assert torch.allclose(kernel(tokens, positions, tables, 41, scaled), expected, atol=2e-4, rtol=2e-4)
    assert not torch.allclose(kernel(tokens, positions, tables, 41, ~scaled), expected, atol=1e-2)


def test_layers_that_are_not_plain_are_left_to_the_module():
    model = make(SHAPES[0])
    kernel = CpuFusedDecoder.of(model, KVCache(model.config, 2, 16))
    assert kernel.bind_weights()
    add_lora(model, rank=2, alpha=4.0, targets=["q_proj"], seed=0)
    assert not kernel.bind_weights()
    merge_lora(model)
    assert kernel.bind_weights()
    quantize_weights(model, "int8")  # inputs that do not fill blocks
    assert not kernel.bind_weights()
    assert CpuFusedDecoder.of(model, KVCache(model.config, 2, 16, storage_dtype=torch.int8)) is None
    bfloat16 = create_model(model.config, seed=0, dtype=torch.bfloat16)
    assert CpuFusedDecoder.of(bfloat16, KVCache(model.config, 2, 16, dtype=torch.bfloat16)) is None


@torch.no_grad()
def test_weights_that_are_exchanged_are_found_again():
    model, other = make(SHAPES[0]), make(SHAPES[0])
    kernel = CpuFusedDecoder.of(model, KVCache(model.config, 2, 16))
    inputs = torch.tensor([5]), torch.tensor([0]), torch.tensor([[0]], dtype=torch.int32), 1, None
    assert kernel.bind_weights()
    before = kernel(*inputs).clone()
    other.model.layers[1].mlp.up_proj.weight.mul_(3)
    model.model.layers[1].mlp.up_proj = other.model.layers[1].mlp.up_proj
    assert kernel.bind_weights()
    assert not torch.allclose(kernel(*inputs), before, atol=1e-3)


@torch.no_grad()
def test_what_is_not_finite_reaches_the_logits():
    model = make(SHAPES[0])
    kernel = CpuFusedDecoder.of(model, KVCache(model.config, 2, 16))
    for broken in (float("nan"), float("inf")):
        model.model.embed_tokens.weight[5] = broken
        assert kernel.bind_weights()
        logits = kernel(torch.tensor([5]), torch.tensor([0]), torch.tensor([[0]], dtype=torch.int32), 1, None)
        assert not logits.isfinite().all()
