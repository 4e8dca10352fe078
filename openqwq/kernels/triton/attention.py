"""Attention over the paged cache on a GPU, in Triton.

Rows that decode: the tokens of a sequence are cut into splits, so that a single long sequence fills the machine; each
program mixes one split for all query heads of a kv head, and a second kernel joins the splits in a fixed order
(flash-decoding). Chunks: a program for 128 queries of one head walks over the chunk's blocks up to the diagonal
(arXiv:2307.08691). Keys and values are read where they lie, block by block, through the tables; of an int8 cache the
scales are applied to scores and weights. Softmax and sums are in float32.

Public: attend_rows, attend_chunks, num_splits, interpreted.
Letters: R rows, N tokens, C chunks, W blocks a table, P tokens a block, H heads, K kv heads, G = H / K, D head dim.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..layouts import CacheLayer

LOG2E = math.log2(math.e)
ROW_TILE, QUERY_TILE, KEY_TILE = 64, 128, 64
MAX_SPLITS = 64
PROGRAMS = 528  # of a decode pass, about: four for each multiprocessor of an H100 or H200


def interpreted() -> bool:
    """Whether kernels run on the CPU, in Triton's interpreter (`TRITON_INTERPRET=1`)."""
    return bool(triton.knobs.runtime.interpret)


def num_splits(programs: int) -> int:
    """Splits of each of `programs` (row, kv head) pairs: a power of 2."""
    wanted = -(-PROGRAMS // max(programs, 1))
    return min(1 << max(wanted - 1, 0).bit_length(), MAX_SPLITS)


@triton.jit
def _product(a, b, WIDE: tl.constexpr):
    """Matrix product, summed in float32. WIDE: of float32 operands, without rounding them."""
    return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee") if WIDE else tl.dot(a, b)


@triton.jit
def _fold(
    q, acc, peak, total, low, high, positions, limit, table, keys, values, key_scales, value_scales, head, scale,
    K: tl.constexpr, P: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, TILE: tl.constexpr,
    MASKED: tl.constexpr, SCALED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Take the tokens low to high (a multiple of TILE apart, or MASKED) into running sums of queries q [M, D_PAD].

    MASKED: query m sees tokens up to positions[m], and none from `limit` on.
    """
    d = tl.arange(0, D_PAD)
    for first in tl.range(low, high, TILE):
        t = first + tl.arange(0, TILE)
        live = t < limit
        block = tl.load(table + t // P, mask=live, other=0).to(tl.int64)
        place = (block * K + head) * P + t % P
        wanted = live[:, None] & (d < D)[None, :]
        k = tl.load(keys + place[:, None] * D + d[None, :], mask=wanted, other=0)
        if SCALED:  # integers by way of float32: exact, and the interpreter knows no other way to bfloat16
            k = k.to(tl.float32)
        score = _product(q, tl.trans(k.to(q.dtype)), WIDE) * scale
        if SCALED:
            score *= tl.load(key_scales + place, mask=live, other=0.0)[None, :]
        if MASKED:
            score = tl.where(live[None, :] & (t[None, :] <= positions[:, None]), score, float("-inf"))
        higher = tl.maximum(peak, tl.max(score, 1))
        weight = tl.exp2(score - higher[:, None])
        shrink = tl.exp2(peak - higher)
        total = total * shrink + tl.sum(weight, 1)
        if SCALED:
            weight *= tl.load(value_scales + place, mask=live, other=0.0)[None, :]
        v = tl.load(values + place[:, None] * D + d[None, :], mask=wanted, other=0)
        if SCALED:
            v = v.to(tl.float32)
        acc = acc * shrink[:, None] + _product(weight.to(q.dtype), v.to(q.dtype), WIDE)
        peak = higher
    return acc, peak, total


@triton.jit
def _rows_kernel(
    q, keys, values, key_scales, value_scales, tables, positions, out, partial, peaks, totals, scale, width,
    K: tl.constexpr, P: tl.constexpr, G: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr, TILE: tl.constexpr,
    G_PAD: tl.constexpr, D_PAD: tl.constexpr, SCALED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(positions + row).to(tl.int32) + 1
    share = tl.cdiv(tl.cdiv(length, TILE), SPLITS) * TILE
    low, high = split * share, tl.minimum(split * share + share, length)
    g, d = tl.arange(0, G_PAD), tl.arange(0, D_PAD)
    heads = row * K * G + head * G + g
    inside = (g < G)[:, None] & (d < D)[None, :]
    query = tl.load(q + heads[:, None] * D + d[None, :], mask=inside, other=0.0)
    peak, total = tl.full([G_PAD], float("-inf"), tl.float32), tl.zeros([G_PAD], tl.float32)
    acc = tl.zeros([G_PAD, D_PAD], tl.float32)
    last = tl.zeros([G_PAD], tl.int32) + (length - 1)
    table = tables + row.to(tl.int64) * width
    acc, peak, total = _fold(
        query, acc, peak, total, low, high, last, high, table, keys, values, key_scales, value_scales, head, scale,
        K, P, D, D_PAD, TILE, True, SCALED, WIDE,
    )  # fmt: skip
    if SPLITS == 1:
        mixed = acc / tl.where(total > 0, total, 1.0)[:, None]
        tl.store(out + heads[:, None] * D + d[None, :], mixed.to(out.dtype.element_ty), mask=inside)
    else:
        slot = heads * SPLITS + split
        tl.store(peaks + slot, peak, mask=g < G)
        tl.store(totals + slot, total, mask=g < G)
        tl.store(partial + slot[:, None] * D + d[None, :], acc, mask=inside & (total > 0)[:, None])


@triton.jit
def _join_kernel(
    partial, peaks, totals, out, D: tl.constexpr, SPLITS: tl.constexpr, D_PAD: tl.constexpr
):  # fmt: skip
    """One row and head: its splits, weighed by how large their scores were."""
    head = tl.program_id(0)
    slot, d = head * SPLITS + tl.arange(0, SPLITS), tl.arange(0, D_PAD)
    peak, total = tl.load(peaks + slot), tl.load(totals + slot)
    used = total > 0
    weight = tl.exp2(peak - tl.max(tl.where(used, peak, -1e30), 0))  # 0 for a split that has seen nothing
    wanted = used[:, None] & (d < D)[None, :]
    acc = tl.load(partial + slot[:, None] * D + d[None, :], mask=wanted, other=0.0)
    norm = tl.sum(weight * total, 0)
    mixed = tl.sum(acc * weight[:, None], 0) / tl.where(norm > 0, norm, 1.0)
    tl.store(out + head * D + d, mixed.to(out.dtype.element_ty), mask=d < D)


@triton.jit
def _chunks_kernel(
    q, keys, values, key_scales, value_scales, tables, tiles, chunks, out, scale, width,
    K: tl.constexpr, P: tl.constexpr, G: tl.constexpr, D: tl.constexpr, QUERIES: tl.constexpr, TILE: tl.constexpr,
    D_PAD: tl.constexpr, SCALED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """QUERIES tokens of one chunk and head. tiles: (chunk, first token); chunks: (start, length, row of token 0)."""
    head, tile = tl.program_id(0), tl.program_id(1)
    chunk, first = tl.load(tiles + tile * 2), tl.load(tiles + tile * 2 + 1)
    start, length, offset = (
        tl.load(chunks + chunk * 3),
        tl.load(chunks + chunk * 3 + 1),
        tl.load(chunks + chunk * 3 + 2),
    )
    i, d = first + tl.arange(0, QUERIES), tl.arange(0, D_PAD)
    inside = (i < length)[:, None] & (d < D)[None, :]
    at = ((offset + i).to(tl.int64) * (K * G) + head)[:, None] * D + d[None, :]
    query = tl.load(q + at, mask=inside, other=0.0)
    peak, total = tl.full([QUERIES], float("-inf"), tl.float32), tl.zeros([QUERIES], tl.float32)
    acc = tl.zeros([QUERIES, D_PAD], tl.float32)
    clear = (start + first) // TILE * TILE  # tokens before this are seen by every query of the tile
    limit = tl.minimum(start + first + QUERIES, start + length)
    table = tables + chunk.to(tl.int64) * width
    acc, peak, total = _fold(
        query, acc, peak, total, 0, clear, start + i, limit, table, keys, values, key_scales, value_scales,
        head // G, scale, K, P, D, D_PAD, TILE, False, SCALED, WIDE,
    )  # fmt: skip
    acc, peak, total = _fold(
        query, acc, peak, total, clear, limit, start + i, limit, table, keys, values, key_scales, value_scales,
        head // G, scale, K, P, D, D_PAD, TILE, True, SCALED, WIDE,
    )  # fmt: skip
    mixed = acc / total[:, None]
    tl.store(out + at, mixed.to(out.dtype.element_ty), mask=inside)


class SplitBuffers:
    """What the splits of a pass leave for the join: made once for the largest pass."""

    def __init__(self, slots: int, head_dim: int, device: torch.device):
        self.partial = torch.empty(slots, head_dim, dtype=torch.float32, device=device)
        self.peaks = torch.empty(slots, dtype=torch.float32, device=device)
        self.totals = torch.empty_like(self.peaks)


def attend_rows(
    store: CacheLayer,
    q: Tensor,
    tables: Tensor,
    positions: Tensor,
    *,
    splits: int | None = None,
    out: Tensor | None = None,
    buffers: SplitBuffers | None = None,
) -> Tensor:
    """q [R, H, D] mixed over the cached tokens up to `positions` [R], that included: [R, H*D].

    A row at position -1 sees nothing and comes back as zeros. tables: [R, W] int32.
    """
    rows, heads, dim = q.shape
    keys, kv_heads = store.keys, store.keys.shape[1]
    splits = splits or num_splits(rows * kv_heads)
    out = torch.empty(rows, heads * dim, dtype=q.dtype, device=q.device) if out is None else out
    if buffers is None:
        buffers = SplitBuffers(rows * heads * splits if splits > 1 else 1, dim, q.device)
    scaled, wide = _reading(store, q.dtype)
    pad = max(triton.next_power_of_2(dim), 16)
    group = max(triton.next_power_of_2(heads // kv_heads), 16)
    _rows_kernel[rows, kv_heads, splits](
        q, keys, store.values, *_scales(store), tables, positions,
        out, buffers.partial, buffers.peaks, buffers.totals, dim**-0.5 * LOG2E, tables.stride(0),
        K=kv_heads, P=keys.shape[2], G=heads // kv_heads, D=dim, SPLITS=splits, TILE=ROW_TILE,
        G_PAD=group, D_PAD=pad, SCALED=scaled, WIDE=wide, num_warps=4, num_stages=2 if wide else 3,
    )  # fmt: skip
    if splits > 1:
        _join_kernel[rows * heads,](
            buffers.partial, buffers.peaks, buffers.totals, out, D=dim, SPLITS=splits, D_PAD=pad, num_warps=4
        )
    return out


def attend_chunks(
    store: CacheLayer, q: Tensor, tables: Tensor, tiles: Tensor, chunks: Tensor, *, query_tile: int
) -> Tensor:
    """q [N, H, D] of chunks end to end, each token mixed over its own sequence up to itself: [N, H*D].

    tables: [C, W] int32; chunks: [C, 3] int32 (start, length, row of the first token); tiles: [T, 2] int32
    (chunk, first token within it), each of `query_tile` tokens.
    """
    _, heads, dim = q.shape
    keys, kv_heads = store.keys, store.keys.shape[1]
    out = torch.empty(len(q), heads * dim, dtype=q.dtype, device=q.device)
    scaled, wide = _reading(store, q.dtype)
    _chunks_kernel[heads, len(tiles)](
        q, keys, store.values, *_scales(store), tables, tiles, chunks, out,
        dim**-0.5 * LOG2E, tables.stride(0),
        K=kv_heads, P=keys.shape[2], G=heads // kv_heads, D=dim, QUERIES=query_tile,
        TILE=KEY_TILE // 2 if wide else KEY_TILE,
        D_PAD=max(triton.next_power_of_2(dim), 16), SCALED=scaled, WIDE=wide,
        num_warps=8 if query_tile > 64 else 4, num_stages=1 if wide else 3,
    )  # fmt: skip
    return out


def _reading(store: CacheLayer, dtype: torch.dtype) -> tuple[bool, bool]:
    """Whether there are scales, and whether products are of float32 operands."""
    return store.key_scales is not None, dtype == torch.float32 or interpreted()


def _scales(store: CacheLayer) -> tuple[Tensor, Tensor]:
    """Scales of keys and values; without any, something to point at."""
    keys, values = store.key_scales, store.value_scales
    return (store.keys, store.values) if keys is None or values is None else (keys, values)
