"""Rounding a model's linear layers to bf16, int8 or int4 (kernels/layouts.py).

Public: pack_weight, quantize_weights.
Letters: N outputs, K inputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openqwq.kernels.layouts import (
    BLOCK,
    GROUP_SIZES,
    PANEL,
    SLICE,
    Quantization,
    pack_halves,
    panels,
    panels_of_groups,
    round_groups,
)

from .backend import use_ops
from .decoder import Decoder
from .packed_linear import PackedLinear


@torch.no_grad()
def pack_weight(
    weight: Tensor, kind: Quantization, *, bias: Tensor | None = None, group_size: int = 64
) -> PackedLinear:
    """A layer with the weight [N, K] rounded.

    group_size: of int4, inputs that share a scale: 32, 64, 128 or a multiple of it.
    """
    parts = [_round(part, kind, group_size) for part in weight.detach().split(SLICE)]
    codes, scales, zeros = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    shape = (weight.shape[0], weight.shape[1])
    return PackedLinear(kind, shape, codes, scales, zeros, bias=None if bias is None else bias.detach().clone())


@torch.no_grad()
def quantize_weights(model: Decoder, kind: Quantization = "int8", *, group_size: int = 64) -> None:
    """Replace every linear layer and the head by quantized ones, in place; embeddings and norms stay as they are.

    A tied head becomes a layer of its own: the embedding is only ever read row by row.
    """
    if model.lm_head is None:
        model.lm_head = pack_weight(model.model.embed_tokens.weight, kind, group_size=group_size)  # type: ignore
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, pack_weight(child.weight, kind, bias=child.bias, group_size=group_size))
    use_ops(model, model.ops)


def _round(weight: Tensor, kind: Quantization, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales and zeros of some outputs [n, K], in panels."""
    weight = weight.float()
    none = weight.new_empty(0)
    if kind == "bf16":
        return pack_halves(panels(weight.bfloat16())).view(torch.uint8), none, none.byte()
    if kind == "int8":
        scale = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        codes = panels((weight / scale[:, None]).round().to(torch.int8)).view(torch.uint8)
        return codes, F.pad(scale, (0, -len(scale) % PANEL)), none.byte()
    if group_size not in GROUP_SIZES and (group_size < BLOCK or group_size % BLOCK):
        raise ValueError(f"`group_size` is {group_size}, but must be 32, 64 or a multiple of 128")
    codes, scales, zeros = round_groups(weight, group_size)
    groups = BLOCK // min(group_size, BLOCK)
    repeats = max(group_size // BLOCK, 1)
    wanted = -(-weight.shape[1] // BLOCK) * groups
    scales, zeros = (grid.repeat_interleave(repeats, 1)[:, :wanted] for grid in (scales, zeros))
    return panels_of_groups(codes, scales, zeros, groups)
