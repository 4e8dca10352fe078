"""The GPU's fused layers and linear kernels, by Triton's interpreter where there is no GPU, against PyTorch."""

import pytest
import torch
import torch.nn.functional as F

from openqwq.kernels.reference import rotate
from openqwq.model import KVCache, preset
from openqwq.model.quantize import pack_weight
from openqwq.model.rope import RotaryEmbedding

pytest.importorskip("triton", reason="the GPU's kernels need Triton, by whose interpreter they are tested on a CPU")
from openqwq.kernels.triton.layers import add_norm, gate, turn_and_store
from openqwq.kernels.triton.linear import Tiling, Weights, multiply, widen
from openqwq.kernels.triton.packed import multiply_packed, packed_weights

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = (72, 320)  # outputs, inputs: neither fills its last tile
TILINGS = {
    1: [Tiling("sum", outputs=16, inputs=256), Tiling("sum", outputs=8, inputs=128, splits=2, stages=3)],
    3: [Tiling("dot", outputs=32, inputs=64, splits=2, stages=2), Tiling("dot", outputs=64, inputs=128)],
}


def layers(kind, group_size):
    torch.manual_seed(0)
    weight = torch.randn(SHAPE)
    if kind == "dense":
        return Weights("dense", SHAPE, weight.to(DEVICE)), weight
    layer = pack_weight(weight, kind, group_size=group_size)
    wide = layer.widened()
    return gpu_weights(layer.to(DEVICE)), wide


def gpu_weights(layer):
    """The layer's own tensors, laid out for a GPU."""
    layer.lay_for_gpu(True)
    return packed_weights(layer.weights(), SHAPE)


@pytest.mark.parametrize(("kind", "group_size"), [("dense", 0), ("bf16", 0), ("int8", 0), ("int4", 32), ("int4", 128)])
@pytest.mark.parametrize("rows", TILINGS)
def test_products_of_narrow_weights_are_those_of_the_widened_ones(kind, group_size, rows):
    weights, wide = layers(kind, group_size)
    x = torch.randn(rows, SHAPE[1])
    for tiling in TILINGS[rows]:
        out = torch.full((tiling.splits, rows, SHAPE[0]), torch.nan, device=DEVICE)
        multiply(x.to(DEVICE), weights, out, tiling)
        torch.testing.assert_close(out.sum(0).cpu(), x @ wide.T, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("kind", "group_size"), [("bf16", 0), ("int8", 0), ("int4", 64), ("int4", 256)])
def test_widened_weights_are_the_layers(kind, group_size):
    weights, wide = layers(kind, group_size)
    torch.testing.assert_close(widen(weights, torch.float32).cpu(), wide, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 5, 140])
def test_a_packed_layer_multiplies_any_number_of_rows(rows):
    torch.manual_seed(0)
    layer = pack_weight(torch.randn(SHAPE), "int4", group_size=64)
    wide, x = layer.widened(), torch.randn(rows, SHAPE[1])
    out = multiply_packed(x.to(DEVICE), gpu_weights(layer.to(DEVICE))).cpu()
    torch.testing.assert_close(out, x @ wide.T, atol=1e-4, rtol=1e-5)
    assert layer.for_gpu
    torch.testing.assert_close(layer.widened().cpu(), wide)  # laid back as it was


def test_add_norm_adds_the_splits_to_the_residual_and_normalises():
    torch.manual_seed(0)
    residual, parts, weight = torch.randn(3, 40), torch.randn(2, 3, 40), torch.rand(40)
    own, out = residual.clone().to(DEVICE), torch.empty(3, 40, device=DEVICE)
    add_norm(own, parts.to(DEVICE), weight.to(DEVICE), 1e-6, out)
    torch.testing.assert_close(own.cpu(), residual + parts.sum(0))
    torch.testing.assert_close(out.cpu(), F.rms_norm(residual + parts.sum(0), (40,), weight, 1e-6))
    add_norm(own, None, weight.to(DEVICE), 1e-6, out)
    torch.testing.assert_close(own.cpu(), residual + parts.sum(0))


def test_gate_is_swiglu():
    torch.manual_seed(0)
    parts = torch.randn(2, 3, 2 * 24)
    out = torch.empty(3, 24, device=DEVICE)
    gate(parts.to(DEVICE), 1.5, out)
    gates, ups = parts.sum(0).split(24, -1)
    torch.testing.assert_close(out.cpu(), gates * torch.sigmoid(1.5 * gates) * ups, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("storage", [None, torch.int8])
def test_queries_are_turned_and_keys_and_values_stored(storage):
    torch.manual_seed(0)
    heads, kv_heads, dim = 4, 2, 8
    config = preset("tiny").replace(
        hidden_size=heads * dim, num_attention_heads=heads, num_key_value_heads=kv_heads, num_hidden_layers=1
    )
    own, other = (KVCache(config, 6, 16, storage_dtype=storage, device=DEVICE) for _ in range(2))
    size = (heads + 2 * kv_heads) * dim
    parts, bias = torch.randn(2, 3, size, device=DEVICE), torch.randn(size, device=DEVICE)
    positions = torch.tensor([17, 3, -1], device=DEVICE)
    tables = torch.tensor([[4, 2], [5, 0], [0, 0]], dtype=torch.int32, device=DEVICE)
    rotary = RotaryEmbedding(config)(positions, torch.float32)
    q = torch.empty(3, heads, dim, device=DEVICE)
    turn_and_store(parts, bias, rotary, q, own.layer(0), tables, positions)
    whole = (parts.sum(0) + bias).unflatten(-1, (-1, dim))
    turned = rotate(whole[:, : heads + kv_heads], *rotary)
    torch.testing.assert_close(q, turned[:, :heads], atol=1e-5, rtol=1e-5)
    rows = other.row_index(torch.tensor([2, 5], device=DEVICE), torch.tensor([1, 3], device=DEVICE))
    other.write(0, rows, turned[:2, heads:], whole[:2, heads + kv_heads :])
    loose = {"atol": 1, "rtol": 0} if storage else {"atol": 1e-5, "rtol": 1e-5}
    for mine, reference in ((own.keys[0], other.keys[0]), (own.values[0], other.values[0])):
        torch.testing.assert_close(mine.float(), reference.float(), **loose)
        assert (mine != 0).any(-1).sum() == 2 * kv_heads
