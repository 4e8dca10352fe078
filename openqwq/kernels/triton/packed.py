"""Products with narrow weights on a GPU: their codes as the Triton kernels read them, with any number of rows.

Few rows multiply by the codes as they are; more by weights that are widened first, which costs little compared with the
product.

Public: packed_weights, multiply_packed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layouts import PackedWeights
from .linear import MAX_ROWS, Weights, default_tiling, multiply, widen


def packed_weights(packed: PackedWeights, shape: tuple[int, int]) -> Weights:
    """A layer's own tensors as the kernels read them. shape: [N, K]; bf16 and int4 codes laid out for a GPU."""
    kind, codes, scales, zeros, _ = packed
    if kind == "bf16":
        return Weights("panels", shape, codes.view(torch.bfloat16))
    if kind == "int8":
        return Weights("panels", shape, codes.view(torch.int8), scales)
    return Weights("words", shape, codes.view(torch.int32), scales, zeros)


def multiply_packed(x: Tensor, weights: Weights) -> Tensor:
    """[M, N] of rows x [M, K], in x's dtype."""
    if len(x) > MAX_ROWS:
        return F.linear(x, widen(weights, x.dtype))
    tiling = default_tiling(weights, len(x))
    out = torch.empty(tiling.splits, len(x), weights.shape[0], device=x.device)
    multiply(x.contiguous(), weights, out, tiling)
    return out.sum(0).to(x.dtype)
