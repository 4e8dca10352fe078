"""Linear layers for few rows on a GPU, in Triton: the weights are read once, as narrow as they are kept.

Two kinds of kernel. `sum`, for one row: every thread multiplies what it reads, in float32. `dot`, for some more: tiles
of weights are widened in registers and go through the matrix units. Both may cut the inputs into splits, so that a
layer with few outputs still fills the machine; the splits' results lie side by side, [S, M, N] in float32, and whoever
reads them next adds them up, in a fixed order. Which tile sizes are quickest is measured (see triton_tuning.py).

int4 on a GPU lies in words of 4 bytes: word w of a block of 128 inputs holds in its bits 4 i to 4 i + 3 the input
32 (w // 4) + 4 i + w % 4, so that neighbouring threads read neighbouring inputs. A code in the mantissa of 1 is a
float: no conversion is needed, and the code times a power of 2 comes out exactly.

Public: Weights, Tiling, multiply, widen, default_tiling.
Letters: M rows, N outputs, S splits; blocks of 128 inputs, panels of 8 outputs (quantize.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from .attention import _product, interpreted

Layout = Literal["dense", "panels", "words"]
ONE = 0x3F800000  # the bits of 1.0
MAX_ROWS = 128  # of one tile of `dot`


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a layer as the kernels read them.

    codes:  dense: [N, K]; panels: [P, B, 8, 128] numbers; words: [P, B, 8, 16] int32.
    scales: one an output (panels of int8), or [P, B, 8, groups of a block] (words); None: there are none.
    zeros:  uint8, laid out as the scales (words).
    """

    layout: Layout
    shape: tuple[int, int]
    codes: Tensor
    scales: Tensor | None = None
    zeros: Tensor | None = None

    @property
    def groups(self) -> int:
        """Groups of a block that have scales of their own."""
        return self.scales.shape[-1] if self.layout == "words" and self.scales is not None else 1


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a product is cut. outputs, inputs: of a tile; splits: of the inputs; `library`: PyTorch's own product."""

    kernel: Literal["sum", "dot", "library"]
    outputs: int = 16
    inputs: int = 512
    splits: int = 1
    warps: int = 4
    stages: int = 1


@triton.jit
def _places(n, k, n_in, PANELS: tl.constexpr):
    """Where the weights of outputs n and inputs k lie, [n, k]."""
    if PANELS:
        rows = (n // 8).to(tl.int64) * (tl.cdiv(n_in, 128) * 1024) + n % 8 * 128
        columns = k // 128 * 1024 + k % 128
    else:
        rows = n.to(tl.int64) * n_in
        columns = k
    return rows[:, None] + columns[None, :]


@triton.jit(do_not_specialize=["splits"])
def _sum_kernel(
    x, weight, scales, out, n_out, n_in, splits, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
    STAGES: tl.constexpr, PANELS: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    n, split = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS), tl.program_id(1)
    share = tl.cdiv(tl.cdiv(n_in, INPUTS), splits) * INPUTS
    acc = tl.zeros([OUTPUTS, INPUTS], tl.float32)
    for first in tl.range(split * share, tl.minimum(split * share + share, n_in), INPUTS, num_stages=STAGES):
        k = first + tl.arange(0, INPUTS)
        own = tl.load(x + k, mask=k < n_in, other=0.0).to(tl.float32)
        wanted = (n < n_out)[:, None] & (k < n_in)[None, :]
        w = tl.load(weight + _places(n, k, n_in, PANELS), mask=wanted, other=0, eviction_policy="evict_first")
        acc += w.to(tl.float32) * own[None, :]
    y = tl.sum(acc, 1)
    if SCALED:
        y *= tl.load(scales + n, mask=n < n_out, other=0.0)
    tl.store(out + split * n_out + n, y, mask=n < n_out)


@triton.jit(do_not_specialize=["rows", "splits"])
def _dot_kernel(
    x, weight, scales, out, rows, n_out, n_in, splits, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
    STAGES: tl.constexpr, ROWS: tl.constexpr, PANELS: tl.constexpr, SCALED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    n, split = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS), tl.program_id(1)
    m = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    share = tl.cdiv(tl.cdiv(n_in, INPUTS), splits) * INPUTS
    acc = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for first in tl.range(split * share, tl.minimum(split * share + share, n_in), INPUTS, num_stages=STAGES):
        k = first + tl.arange(0, INPUTS)
        own = tl.load(x + m[None, :] * n_in + k[:, None], mask=(m < rows)[None, :] & (k < n_in)[:, None], other=0.0)
        wanted = (n < n_out)[:, None] & (k < n_in)[None, :]
        w = tl.load(weight + _places(n, k, n_in, PANELS), mask=wanted, other=0)
        if SCALED:
            w = w.to(tl.float32)
        acc += _product(w.to(own.dtype), own, WIDE)
    if SCALED:
        acc *= tl.load(scales + n, mask=n < n_out, other=0.0)[:, None]
    at = (split * rows + m).to(tl.int64)[None, :] * n_out + n[:, None]
    tl.store(out + at, acc, mask=(n < n_out)[:, None] & (m < rows)[None, :])


@triton.jit
def _code(words, i: tl.constexpr, one):
    """The codes in bits 4 i to 4 i + 3 of words, as floats: in the mantissa of 1, then stretched, which is exact.

    one: the bits of 1.0 in a register: with two constants, the compiler would need two instructions to set the bits.
    """
    place: tl.constexpr = 4 * i - 12 if i > 4 else 4 * i
    bits = ((words >> 12 if i > 4 else words) & (15 << place)) | one
    unit: tl.constexpr = 1 << (23 - place)
    return bits.to(tl.float32, bitcast=True) * unit - unit


@triton.jit(do_not_specialize=["splits", "one"])
def _sum_words_kernel(
    x, words, scales, zeros, out, n_out, n_in, splits, one, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
    STAGES: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Tiles are [groups, outputs, words]: neighbouring threads then have other groups, and each the x that it needs."""
    n, split = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS), tl.program_id(1)
    WORDS: tl.constexpr = 16 // GROUPS
    STEP: tl.constexpr = INPUTS // 128 * GROUPS
    blocks = tl.cdiv(n_in, 128)
    share = tl.cdiv(tl.cdiv(n_in, INPUTS), splits) * STEP
    acc = tl.zeros([STEP, OUTPUTS], tl.float32)
    word = tl.arange(0, WORDS)
    panel = (n // 8).to(tl.int64) * blocks
    for first in tl.range(split * share, tl.minimum(split * share + share, blocks * GROUPS), STEP, num_stages=STAGES):
        group = first + tl.arange(0, STEP)
        block, inner = group // GROUPS, group % GROUPS * WORDS
        live = (block < blocks)[:, None] & (n < n_out)[None, :]
        at = (block * 128 + inner)[:, None] + (panel * 128 + n % 8 * 16)[None, :]
        w = tl.load(words + at[:, :, None] + word[None, None, :], mask=live[:, :, None], other=0,
                    eviction_policy="evict_first")  # fmt: skip
        own_word = inner[:, None] + word[None, :]
        k = block[:, None] * 128 + own_word // 4 * 32 + own_word % 4
        mixed = tl.zeros([STEP, OUTPUTS, WORDS], tl.float32)
        whole = tl.zeros([STEP, WORDS], tl.float32)
        for i in tl.static_range(8):
            own = tl.load(x + k + 4 * i, mask=k + 4 * i < n_in, other=0.0).to(tl.float32)
            whole += own
            mixed += _code(w, i, one) * own[:, None, :]
        grid = (block * (8 * GROUPS) + group % GROUPS)[:, None] + (panel * (8 * GROUPS) + n % 8 * GROUPS)[None, :]
        scale = tl.load(scales + grid, mask=live, other=0.0)
        zero = tl.load(zeros + grid, mask=live, other=0).to(tl.float32)
        acc += scale * (tl.sum(mixed, 2) - zero * tl.sum(whole, 1)[:, None])
    tl.store(out + split * n_out + n, tl.sum(acc, 0), mask=n < n_out)


@triton.jit
def _word_grid(words, scales, zeros, n, block, n_out, blocks, GROUPS: tl.constexpr):
    """Words [n, 16] of one block, and their scales and zeros, [n, 1] where one is for all."""
    word, live = tl.arange(0, 16), (n < n_out)[:, None]
    panel = (n // 8).to(tl.int64) * blocks + block
    w = tl.load(words + (panel * 128 + n % 8 * 16)[:, None] + word[None, :], mask=live, other=0)
    part = tl.arange(0, 1) if GROUPS == 1 else word // (16 // GROUPS)
    grid = (panel * (8 * GROUPS) + n % 8 * GROUPS)[:, None] + part[None, :]
    return w, tl.load(scales + grid, mask=live, other=0.0), tl.load(zeros + grid, mask=live, other=0).to(tl.float32)


@triton.jit(do_not_specialize=["rows", "splits", "one"])
def _dot_words_kernel(
    x, words, scales, zeros, out, rows, n_out, n_in, splits, one, OUTPUTS: tl.constexpr,
    STAGES: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    n, split = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS), tl.program_id(1)
    m, word = tl.program_id(2) * ROWS + tl.arange(0, ROWS), tl.arange(0, 16)
    blocks = tl.cdiv(n_in, 128)
    share = tl.cdiv(blocks, splits)
    acc = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for block in tl.range(split * share, tl.minimum(split * share + share, blocks), num_stages=STAGES):
        w, scale, zero = _word_grid(words, scales, zeros, n, block, n_out, blocks, GROUPS)
        k = block * 128 + word // 4 * 32 + word % 4
        for i in tl.static_range(8):
            at, live = k + 4 * i, (m < rows)[None, :] & (k + 4 * i < n_in)[:, None]
            own = tl.load(x + m[None, :] * n_in + at[:, None], mask=live, other=0.0)
            wide = _code(w, i, one) * scale - zero * scale
            acc += _product(wide.to(own.dtype), own, WIDE)
    at = (split * rows + m).to(tl.int64)[None, :] * n_out + n[:, None]
    tl.store(out + at, acc, mask=(n < n_out)[:, None] & (m < rows)[None, :])


@triton.jit(do_not_specialize=["one"])
def _widen_words_kernel(words, scales, zeros, out, n_out, n_in, one, OUTPUTS: tl.constexpr, GROUPS: tl.constexpr):
    n, block, word = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS), tl.program_id(1), tl.arange(0, 16)
    w, scale, zero = _word_grid(words, scales, zeros, n, block, n_out, tl.cdiv(n_in, 128), GROUPS)
    k = block * 128 + word // 4 * 32 + word % 4
    for i in tl.static_range(8):
        at = n.to(tl.int64)[:, None] * n_in + (k + 4 * i)[None, :]
        wide = _code(w, i, one) * scale - zero * scale
        tl.store(out + at, wide.to(out.dtype.element_ty), mask=(n < n_out)[:, None] & (k + 4 * i < n_in)[None, :])


@triton.jit
def _widen_panels_kernel(
    codes, scales, out, n_out, n_in, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, SCALED: tl.constexpr
):  # fmt: skip
    n, k = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS), tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    wanted = (n < n_out)[:, None] & (k < n_in)[None, :]
    w = tl.load(codes + _places(n, k, n_in, True), mask=wanted, other=0).to(tl.float32)
    if SCALED:
        w *= tl.load(scales + n, mask=n < n_out, other=0.0)[:, None]
    at = n.to(tl.int64)[:, None] * n_in + k[None, :]
    tl.store(out + at, w.to(out.dtype.element_ty), mask=wanted)


def default_tiling(weights: Weights, rows: int) -> Tiling:
    """What is taken where nothing was measured."""
    if rows == 1:
        return Tiling("sum", outputs=8, inputs=1024, warps=1 if weights.layout == "words" else 4)
    return Tiling("dot", outputs=64, inputs=128, stages=3)


def multiply(x: Tensor, weights: Weights, out: Tensor, tiling: Tiling) -> None:
    """x [M, K] by the weights into out [S, M, N], S the tiling's splits: float32 (`library`: x's dtype)."""
    (rows, n_in), n_out = x.shape, weights.shape[0]
    if tiling.kernel == "library":
        torch.mm(x, weights.codes.T, out=out[0])
        return
    scaled = weights.scales is not None
    scales = weights.scales if scaled else weights.codes
    sizes = {"OUTPUTS": tiling.outputs, "STAGES": tiling.stages, "num_warps": tiling.warps}
    programs = triton.cdiv(n_out, tiling.outputs), tiling.splits
    if tiling.kernel == "sum":
        assert rows == 1
        if weights.layout == "words":
            _sum_words_kernel[programs](
                x, weights.codes, scales, weights.zeros, out, n_out, n_in, tiling.splits, ONE,
                INPUTS=tiling.inputs, GROUPS=weights.groups, **sizes,
            )  # fmt: skip
        else:
            _sum_kernel[programs](
                x, weights.codes, scales, out, n_out, n_in, tiling.splits, INPUTS=tiling.inputs,
                PANELS=weights.layout == "panels", SCALED=scaled, **sizes,
            )  # fmt: skip
        return
    tile = min(max(triton.next_power_of_2(rows), 16), MAX_ROWS)
    grid = (*programs, triton.cdiv(rows, tile))
    wide = x.dtype == torch.float32 or interpreted()
    if weights.layout == "words":
        _dot_words_kernel[grid](
            x, weights.codes, scales, weights.zeros, out, rows, n_out, n_in, tiling.splits, ONE,
            ROWS=tile, GROUPS=weights.groups, WIDE=wide, **sizes,
        )  # fmt: skip
    else:
        _dot_kernel[grid](
            x, weights.codes, scales, out, rows, n_out, n_in, tiling.splits, INPUTS=tiling.inputs, ROWS=tile,
            PANELS=weights.layout == "panels", SCALED=scaled, WIDE=wide, **sizes,
        )  # fmt: skip


def widen(weights: Weights, dtype: torch.dtype) -> Tensor:
    """The weights [N, K] as numbers of `dtype`."""
    n_out, n_in = weights.shape
    if weights.layout == "dense":
        return weights.codes.to(dtype)
    out = torch.empty(n_out, n_in, dtype=dtype, device=weights.codes.device)
    if weights.layout == "words":
        programs = triton.cdiv(n_out, 32), triton.cdiv(n_in, 128)
        _widen_words_kernel[programs](
            weights.codes, weights.scales, weights.zeros, out, n_out, n_in, ONE, OUTPUTS=32, GROUPS=weights.groups
        )
        return out
    scales = weights.codes if weights.scales is None else weights.scales
    programs = triton.cdiv(n_out, 32), triton.cdiv(n_in, 128)
    _widen_panels_kernel[programs](
        weights.codes, scales, out, n_out, n_in, OUTPUTS=32, INPUTS=128, SCALED=weights.scales is not None
    )
    return out
