"""Weight-only int8: a quarter of float32's memory traffic, which is what single-stream decoding waits for.

Each output channel has one scale, the largest magnitude over 127 (symmetric, round to nearest). Activations stay in
floating point. A few rows at a time go through a C kernel that widens the weights as it reads them; many rows, and
machines without the kernel, widen some channels at a time and multiply as usual.

Public: quantize_weights, Int8Linear.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .native import native_kernels
from .qwen2 import Qwen2ForCausalLM

KERNEL_ROWS = 4  # from here on a matrix product of widened weights is quicker
TILE_BYTES = 1 << 20  # widened channels at a time: they should stay in the processor's cache


class Int8Linear(nn.Module):
    """A linear layer with int8 weights [N, K] and a scale [N] for each of its N channels; not for training."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        """weight: [N, K] in floating point, rounded here."""
        super().__init__()
        scale = weight.detach().float().abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (weight.detach().float() / scale[:, None]).round().to(torch.int8))
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        kernels = native_kernels() if rows.device.type == "cpu" and rows.dtype == torch.float32 else None
        if kernels is not None and len(rows) < KERNEL_ROWS:
            rows = rows.contiguous()
            out = rows.new_empty(len(rows), len(self.weight))
            pointers = [tensor.data_ptr() for tensor in (rows, self.weight, self.scale, out)]
            kernels.linear_int8(*pointers, len(rows), *self.weight.shape, torch.get_num_threads())
        else:
            out = self._by_tiles(rows)
        out = out if self.bias is None else out + self.bias
        return out.unflatten(0, x.shape[:-1]) if x.ndim > 1 else out[0]

    def _by_tiles(self, rows: Tensor) -> Tensor:
        size = max(TILE_BYTES // (4 * self.weight.shape[1]), 1)
        tiles = zip(self.weight.split(size), self.scale.split(size), strict=True)
        return torch.cat([F.linear(rows, tile.to(rows.dtype)) * scale.to(rows.dtype) for tile, scale in tiles], -1)


@torch.no_grad()
def quantize_weights(model: Qwen2ForCausalLM) -> None:
    """Replace every linear layer and the head by int8 ones, in place; embeddings and norms stay as they are.

    A tied head becomes a layer of its own: the embedding is only ever read row by row.
    """
    if model.lm_head is None:
        model.lm_head = Int8Linear(model.model.embed_tokens.weight)  # type: ignore[assignment]
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child.weight, child.bias))
