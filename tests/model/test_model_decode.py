"""The decoder as one C call against the module's own pass over the same cache."""

import pytest
import torch

from openqwq.model import DecodeKernel, KVCache, PagedAttention, create_model, native_kernels, preset, quantize_weights
from openqwq.model.config import YarnScaling
from openqwq.model.decode import MAX_ROWS

pytestmark = pytest.mark.skipif(native_kernels() is None, reason="needs a C compiler")

SHAPES = [
    {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 103},
    {"hidden_size": 60, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 37, "vocab_size": 50},
    {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 200, "vocab_size": 97,
     "tie_word_embeddings": False, "swish_beta": 1.7},
]  # fmt: skip


def make(shape, **changes):
    model = create_model(preset("tiny").replace(num_hidden_layers=3, initializer_range=0.2, **shape, **changes), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "norm.weight")):  # neither zeros nor ones
                parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return model


def caches(model, number):
    """Equal caches, filled with the same past."""
    made = [KVCache(model.config, 40, 16) for _ in range(number)]
    for layer in range(model.config.num_hidden_layers):
        size = made[0].keys[layer].numel() // model.config.head_dim
        past = torch.randn(2, size, 1, model.config.head_dim, generator=torch.Generator().manual_seed(layer))
        for cache in made:
            cache.write(layer, torch.arange(size), *past)
    return made


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", range(1, MAX_ROWS + 1))
@torch.no_grad()
def test_a_call_is_a_pass_of_the_module(shape, rows):
    model = make(shape)
    one, two = caches(model, 2)
    random = torch.Generator().manual_seed(rows)
    tokens = torch.randint(model.config.vocab_size, (rows,), generator=random)
    positions = torch.randint(64, (rows,), generator=random)
    tables = torch.randperm(40, generator=random)[: 4 * rows].view(rows, 4).int()
    expected = model(tokens, context=PagedAttention(one, tables, positions, longest=64))
    kernel = DecodeKernel.of(model, two)
    assert kernel.look()
    logits = kernel(tokens, positions, tables, 64, None)
    assert torch.allclose(logits, expected, atol=2e-4, rtol=2e-4)
    for first, second in zip([*one.keys, *one.values], [*two.keys, *two.values], strict=True):
        assert torch.allclose(first, second, atol=1e-4)


@torch.no_grad()
def test_guessed_tokens_of_one_row_see_each_other_and_rows_have_their_own_setting():
    model = make(SHAPES[0], rope_scaling=YarnScaling(factor=4.0, original_max_position_embeddings=64))
    one, two = caches(model, 2)
    tables = torch.tensor([[3, 1, 4], [3, 1, 4], [3, 1, 4], [7, 8, 9]], dtype=torch.int32)
    positions, tokens = torch.tensor([30, 31, 32, 40]), torch.tensor([5, 6, 7, 5])
    scaled = torch.tensor([True, True, True, False])
    expected = model(tokens, context=PagedAttention(one, tables, positions, longest=41, scaled=scaled))
    kernel = DecodeKernel.of(model, two, both_settings=True)
    assert kernel.look()
    assert torch.allclose(kernel(tokens, positions, tables, 41, scaled), expected, atol=2e-4, rtol=2e-4)
    assert not torch.allclose(kernel(tokens, positions, tables, 41, ~scaled), expected, atol=1e-2)


def test_layers_that_are_not_plain_are_left_to_the_module():
    model = make(SHAPES[0])
    cache = KVCache(model.config, 2, 16)
    kernel = DecodeKernel.of(model, cache)
    assert kernel.look()
    quantize_weights(model, "int8")
    assert not kernel.look()
    assert DecodeKernel.of(model, KVCache(model.config, 2, 16, storage_dtype=torch.int8)) is None
    assert DecodeKernel.of(create_model(model.config, seed=0, dtype=torch.bfloat16), cache) is None


@torch.no_grad()
def test_what_is_not_finite_reaches_the_logits():
    model = make(SHAPES[0])
    kernel = DecodeKernel.of(model, KVCache(model.config, 2, 16))
    for broken in (float("nan"), float("inf")):
        model.model.embed_tokens.weight[5] = broken
        assert kernel.look()
        logits = kernel(torch.tensor([5]), torch.tensor([0]), torch.tensor([[0]], dtype=torch.int32), 1, None)
        assert not logits.isfinite().all()
