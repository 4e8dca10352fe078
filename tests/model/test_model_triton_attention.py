"""The GPU's attention kernels, by Triton's interpreter where there is no GPU, against a slow reference."""

import pytest
import torch

from openqwq.kernels import REFERENCE
from openqwq.model import KVCache, PagedAttention, PagedChunk, preset

pytest.importorskip("triton", reason="the GPU's kernels need Triton, by whose interpreter they are tested on a CPU")
from openqwq.kernels.triton.attention import attend_rows, num_splits
from openqwq.model.attention.gpu_parts import TritonChunks, TritonRows

H, K, D, P, LAYER = 6, 2, 16, 16, 1
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = [(torch.float32, None, 1e-5), (torch.bfloat16, None, 2e-2), (torch.bfloat16, torch.int8, 2e-2)]


def make_cache(dtype, storage):
    config = preset("tiny").replace(
        hidden_size=H * D, num_attention_heads=H, num_key_value_heads=K, num_hidden_layers=2
    )
    cache = KVCache(config, 24, P, dtype=dtype, storage_dtype=storage, device=DEVICE)
    torch.manual_seed(0)
    for number in range(24):
        rows = cache.row_index(torch.full((P,), number, device=DEVICE), torch.arange(P, device=DEVICE))
        cache.write(LAYER, rows, *(torch.randn(P, K, D, device=DEVICE).to(dtype) for _ in range(2)))
    return cache


def widened(cache, blocks):
    """Keys and values [n, K, D] of some blocks in float64, one token after another."""
    for store, scales in (
        (cache.keys[LAYER], cache.key_scales[LAYER]),
        (cache.values[LAYER], cache.value_scales[LAYER]),
    ):
        whole = store.double() if scales is None else store.double() * scales.double()[..., None]
        yield torch.cat([whole[block].transpose(0, 1) for block in blocks])


def expected(cache, blocks, q, end):
    """One query [H, D] over the first `end` tokens: [H*D]."""
    keys, values = widened(cache, blocks)
    out = []
    for head in range(H):
        own = head // (H // K)
        weights = (keys[:end, own] @ q[head].double() / D**0.5).softmax(0)
        out.append(weights @ values[:end, own])
    return torch.cat(out)


@pytest.mark.parametrize(("dtype", "storage", "tolerance"), KINDS)
@pytest.mark.parametrize("splits", [1, 4])
def test_each_row_is_mixed_over_its_own_blocks(dtype, storage, tolerance, splits):
    cache = make_cache(dtype, storage)
    tables = torch.tensor([[3, 7, 1, 22, 5, 9], [8, 0, 0, 0, 0, 0], [2, 4, 0, 0, 0, 0]], dtype=torch.int32)
    positions = torch.tensor([86, 0, -1])
    q = torch.randn(3, H, D).to(DEVICE, dtype)
    out = attend_rows(cache.layer(LAYER), q, tables.to(DEVICE), positions.to(DEVICE), splits=splits).double()
    for row in range(2):
        reference = expected(cache, tables[row].tolist(), q[row], int(positions[row]) + 1)
        torch.testing.assert_close(out[row], reference, atol=tolerance, rtol=tolerance)
    assert not out[2].any()  # a row that pads the batch


@pytest.mark.parametrize(("dtype", "storage", "tolerance"), KINDS)
def test_chunks_see_their_sequence_up_to_themselves(dtype, storage, tolerance):
    cache = make_cache(dtype, storage)
    chunks = [PagedChunk(0, 5, [6, 2]), PagedChunk(70, 19, [3, 7, 1, 22, 5, 9]), PagedChunk(15, 2, [11, 12])]
    q = torch.randn(26, H, D).to(DEVICE, dtype)
    out = TritonChunks(cache, chunks).mix(LAYER, q, q, q).double()
    token = 0
    for chunk in chunks:
        for i in range(chunk.length):
            reference = expected(cache, list(chunk.blocks), q[token], chunk.start + i + 1)
            torch.testing.assert_close(out[token], reference, atol=tolerance, rtol=tolerance)
            token += 1


def test_rows_store_their_keys_before_they_read():
    cache, other = make_cache(torch.float32, None), make_cache(torch.float32, None)
    tables = torch.tensor([[3, 7], [8, 1]], dtype=torch.int32, device=DEVICE)
    positions = torch.tensor([20, 3], device=DEVICE)
    q, k, v = (torch.randn(2, heads, D, device=DEVICE) for heads in (H, K, K))
    mixed = TritonRows(cache, tables, positions).mix(LAYER, q, k, v)
    plain = PagedAttention(other, tables, positions, longest=21, ops=REFERENCE).attend(LAYER, q, k, v)
    torch.testing.assert_close(mixed, plain, atol=1e-5, rtol=1e-5)


def test_one_row_fills_the_machine_and_many_rows_are_not_split():
    assert num_splits(8) == 64 and num_splits(1) == 64
    assert num_splits(256 * 8) == 1 and num_splits(528) == 1 and num_splits(300) == 2
