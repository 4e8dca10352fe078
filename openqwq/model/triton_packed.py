"""Packed layers (quantize.py) on a GPU: their codes as Triton's kernels read them, and products with any rows.

Few rows multiply by the codes as they are; more by weights that are widened first, which costs little beside the
product.

Public: packed_weights, multiply_packed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .quantize import PackedLinear
from .triton_linear import MAX_ROWS, Weights, default_tiling, multiply, widen


def packed_weights(layer: PackedLinear) -> Weights:
    """The layer's own tensors as the kernels read them; codes are laid anew, in place, the first time."""
    layer.lay_for_gpu(True)
    shape = layer.out_features, layer.in_features
    if layer.kind == "bf16":
        return Weights("panels", shape, layer.codes.view(torch.bfloat16))
    if layer.kind == "int8":
        return Weights("panels", shape, layer.codes.view(torch.int8), layer.scales)
    return Weights("words", shape, layer.codes.view(torch.int32), layer.scales, layer.zeros)


def multiply_packed(layer: PackedLinear, x: Tensor) -> Tensor:
    """[M, N] of rows x [M, K], in x's dtype; the layer's order and bias are the caller's business."""
    weights = packed_weights(layer)
    if len(x) > MAX_ROWS:
        return F.linear(x, widen(weights, x.dtype))
    tiling = default_tiling(weights, len(x))
    out = torch.empty(tiling.splits, len(x), layer.out_features, device=x.device)
    multiply(x.contiguous(), weights, out, tiling)
    return out.sum(0).to(x.dtype)
