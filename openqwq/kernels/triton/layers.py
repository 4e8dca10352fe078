"""What stands between the products of a decoding layer, on a GPU: each step one kernel, in Triton.

The inputs are products as triton_linear.py leaves them, splits [S, M, N] in float32: the kernels add them up as they
read. The residual stream is kept in float32.

Public: add_norm, turn_and_store, gate.
Letters: M rows, S splits, C hidden size, I intermediate size, H heads, K kv heads, P tokens a block, D head dim.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..layouts import TINY, CacheLayer

HALF_WAY = tl.constexpr(12582912.0)  # 1.5 * 2^23: added and taken away again, a float32 is rounded to the nearest
SMALLEST = tl.constexpr(TINY)


@triton.jit(do_not_specialize=["rows"])
def _add_norm_kernel(
    residual, parts, weight, out, rows, size, eps, SPLITS: tl.constexpr, SIZE_PAD: tl.constexpr
):  # fmt: skip
    row, i = tl.program_id(0), tl.arange(0, SIZE_PAD)
    live = i < size
    x = tl.load(residual + row * size + i, mask=live, other=0.0)
    for split in tl.static_range(SPLITS):
        x += tl.load(parts + (split * rows + row) * size + i, mask=live, other=0.0).to(tl.float32)
    if SPLITS > 0:
        tl.store(residual + row * size + i, x, mask=live)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / size + eps)
    y = x * scale * tl.load(weight + i, mask=live, other=0.0).to(tl.float32)
    tl.store(out + row * size + i, y.to(out.dtype.element_ty), mask=live)


@triton.jit
def _projected(parts, bias, row, rows, size, at, live, SPLITS: tl.constexpr):
    """Some of a row's outputs of q, k and v together, the bias added."""
    x = tl.load(bias + at, mask=live, other=0.0).to(tl.float32)
    for split in tl.static_range(SPLITS):
        x += tl.load(parts + (split * rows + row) * size + at, mask=live, other=0.0).to(tl.float32)
    return x


@triton.jit
def _keep(store, scales, place, x, i, live, D: tl.constexpr, SCALED: tl.constexpr):
    """Store one head's numbers of one token, rounded as the cache does."""
    if SCALED:
        scale = tl.maximum(tl.max(tl.abs(x), 0), SMALLEST) * (1.0 / 127.0)
        y = x * (1.0 / scale)
        rounded = (y + HALF_WAY) - HALF_WAY
        tl.store(scales + place, scale)
        tl.store(store + place * D + i, tl.where(rounded == rounded, rounded, 0.0).to(tl.int8), mask=live)
    else:
        tl.store(store + place * D + i, x.to(store.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize=["rows"])
def _turn_and_store_kernel(
    parts, bias, cos, signed_sin, q, keys, values, key_scales, value_scales, tables, positions, rows, width,
    H: tl.constexpr, K: tl.constexpr, P: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, SPLITS: tl.constexpr,
    SCALED: tl.constexpr,
):  # fmt: skip
    """One row and head, of q, k or v in turn."""
    row, head, i = tl.program_id(0), tl.program_id(1), tl.arange(0, D_PAD)
    live, size = i < D, (H + 2 * K) * D
    x = _projected(parts, bias, row, rows, size, head * D + i, live, SPLITS)
    position = tl.load(positions + row).to(tl.int32)
    if head < H + K:
        other = _projected(parts, bias, row, rows, size, head * D + (i + D // 2) % D, live, SPLITS)
        x = x * tl.load(cos + row * D + i, mask=live, other=0.0)
        x += other * tl.load(signed_sin + row * D + i, mask=live, other=0.0)
    if head < H:
        tl.store(q + (row * H + head) * D + i, x.to(q.dtype.element_ty), mask=live)
    elif position >= 0:
        block = tl.load(tables + row.to(tl.int64) * width + position // P).to(tl.int64)
        place = (block * K + (head - H) % K) * P + position % P
        x = x.to(q.dtype.element_ty).to(tl.float32)  # what is kept is what the model's dtype holds
        if head < H + K:
            _keep(keys, key_scales, place, x, i, live, D, SCALED)
        else:
            _keep(values, value_scales, place, x, i, live, D, SCALED)


@triton.jit(do_not_specialize=["rows"])
def _gate_kernel(parts, out, rows, size, beta, SPLITS: tl.constexpr, TILE: tl.constexpr):
    row, i = tl.program_id(0), tl.program_id(1) * TILE + tl.arange(0, TILE)
    live = i < size
    gate, up = tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.float32)
    for split in tl.static_range(SPLITS):
        own = parts + (split * rows + row).to(tl.int64) * 2 * size
        gate += tl.load(own + i, mask=live, other=0.0).to(tl.float32)
        up += tl.load(own + size + i, mask=live, other=0.0).to(tl.float32)
    y = gate / (1.0 + tl.exp(-beta * gate)) * up
    tl.store(out + row.to(tl.int64) * size + i, y.to(out.dtype.element_ty), mask=live)


def add_norm(residual: Tensor, parts: Tensor | None, weight: Tensor, eps: float, out: Tensor) -> None:
    """residual [M, C] += the sum of parts [S, M, C]; out [M, C] = its RMS norm times the weight."""
    rows, size = residual.shape
    _add_norm_kernel[rows,](
        residual, residual if parts is None else parts, weight, out, rows, size, eps,
        SPLITS=0 if parts is None else len(parts), SIZE_PAD=triton.next_power_of_2(size),
        num_warps=16 if size > 2048 else 4,
    )  # fmt: skip


def turn_and_store(
    parts: Tensor,
    bias: Tensor,
    rotary: tuple[Tensor, Tensor],
    q: Tensor,
    store: CacheLayer,
    tables: Tensor,
    positions: Tensor,
) -> None:
    """q [M, H, D], turned, from the products [S, M, (H + 2 K) D]; keys, turned, and values into the cache.

    rotary: cos and signed sin, [M, 1, D] in float32. A row at position -1 stores nothing.
    """
    rows, heads, dim = q.shape
    keys, values, *scales = store[:4]
    _turn_and_store_kernel[rows, heads + 2 * keys.shape[1]](
        parts, bias, *rotary, q, keys, values, *(keys if own is None else own for own in scales), tables, positions,
        rows, tables.stride(0),
        H=heads, K=keys.shape[1], P=keys.shape[2], D=dim, D_PAD=triton.next_power_of_2(dim), SPLITS=len(parts),
        SCALED=scales[0] is not None, num_warps=1,
    )  # fmt: skip


def gate(parts: Tensor, beta: float, out: Tensor) -> None:
    """out [M, I] = gate * sigmoid(beta gate) * up from the products [S, M, 2 I], gates first."""
    rows, size = out.shape
    tile = 512
    _gate_kernel[rows, triton.cdiv(size, tile)](parts, out, rows, size, beta, SPLITS=len(parts), TILE=tile, num_warps=4)
