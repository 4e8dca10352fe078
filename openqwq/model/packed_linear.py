"""A linear layer with narrow weights: decoding one sequence waits for memory, and a fraction of it is read.

Activations stay in floating point. Some rows at a time go through a kernel that widens the weights as it reads them;
more rows multiply by some widened outputs at a time. Without kernels PyTorch's operators widen the weights: the same
numbers up to rounding, more slowly.

Public: PackedLinear, pack_codes.
Letters: N outputs, K inputs, G groups of inputs, P panels of 8 outputs, B blocks of 128 inputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openqwq.kernels import choose_ops
from openqwq.kernels.layouts import (
    BLOCK,
    GROUP_SIZES,
    PANEL,
    SLICE,
    PackedWeights,
    Quantization,
    pack_halves,
    pack_nibbles,
    pack_words,
    panels_of_groups,
    unpack_halves,
    unpack_nibbles,
    unpack_words,
)

from .backend import HasOps

TILE_BYTES = {"cpu": 1 << 20, "cuda": 1 << 28}  # widened at a time: on a CPU they should stay in its cache


class PackedLinear(HasOps, nn.Module):
    """A linear layer with narrow weights, made by `pack_weight` and `pack_codes`; not for training.

    codes:  [P, B, 8, bytes of 128 weights], laid out as layouts.py says; outputs and inputs that pad it weigh 0.
    scales: int8 [8 P]; int4 [P, B, 8, groups of a block].
    zeros:  int4: the codes that stand for 0, laid out as the scales.
    order:  [K], where groups are not of neighbours: the layer's i-th weight is of input order[i].
    for_gpu: whether bf16 and int4 codes are laid out for a GPU (kernels/triton/linear.py).
    """

    for_gpu = False
    codes: Tensor
    scales: Tensor
    zeros: Tensor
    order: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        kind: Quantization,
        shape: tuple[int, int],
        codes: Tensor,
        scales: Tensor,
        zeros: Tensor,
        *,
        order: Tensor | None = None,
        bias: Tensor | None = None,
    ):
        super().__init__()
        self.kind = kind
        self.out_features, self.in_features = shape
        for name, tensor in (("codes", codes), ("scales", scales), ("zeros", zeros), ("order", order), ("bias", bias)):
            self.register_buffer(name, tensor)
        self.ops = choose_ops(codes.device, torch.float32)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.kind}"

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        rows = rows if self.order is None else rows[:, self.order]
        if self.ops.takes_packed(rows):
            self.lay_for_gpu(self.ops.packed_for_gpu)
            out = self.ops.packed_linear(rows, self.weights(), self.out_features)
        else:
            self.lay_for_gpu(False)
            out = torch.cat([F.linear(rows, tile.to(rows.dtype)) for tile in self._tiles()], -1)
        out = out if self.bias is None else out + self.bias
        return out.unflatten(0, x.shape[:-1]) if x.ndim > 1 else out[0]

    def widened(self) -> Tensor:
        """The weights [N, K] in float32 that the layer multiplies by, their inputs in the layer's own order."""
        self.lay_for_gpu(False)
        weight = torch.cat([tile.clone() for tile in self._tiles()])
        return weight if self.order is None else torch.empty_like(weight).index_copy_(1, self.order, weight)

    def lay_for_gpu(self, wanted: bool) -> None:
        """Lay bf16 and int4 codes out for a GPU, or back as layouts.py says; in place."""
        if self.kind == "int8" or self.for_gpu == wanted:
            return
        for panels in self.codes.split(SLICE):  # [p, B, 8, 64]: a whole layer's inputs would take eight times its room
            if self.kind == "bf16":
                halves = panels.view(torch.bfloat16)
                halves.copy_(unpack_halves(halves) if wanted else pack_halves(halves))
            else:
                codes = unpack_words(panels) if self.for_gpu else unpack_nibbles(panels)
                panels.copy_(pack_words(codes) if wanted else pack_nibbles(codes))
        self.for_gpu = wanted

    @property
    def num_groups(self) -> int:
        """Groups of a block."""
        return self.scales.shape[-1] if self.kind == "int4" else 1

    def _tiles(self) -> Iterator[Tensor]:
        """The weights in float32, some outputs [n, K] at a time; a tile is valid until the next one."""
        panels, blocks = self.codes.shape[:2]
        step = max(TILE_BYTES.get(self.codes.device.type, 1 << 28) // (4 * PANEL * BLOCK * blocks), 1)
        room = self.codes.new_empty(min(step, panels), PANEL, blocks, BLOCK, dtype=torch.float32)
        for start in range(0, panels, step):
            tile = self.ops.widen_panels(self.weights(start), room[: panels - start])
            yield tile.reshape(-1, blocks * BLOCK)[: self.out_features - start * PANEL, : self.in_features]

    def weights(self, start: int = 0) -> PackedWeights:
        """The tensors from a panel on, as kernels take them."""
        scales, zeros = self._part(self.scales, start), self._part(self.zeros, start)
        return PackedWeights(self.kind, self.codes[start:], scales, zeros, self.num_groups)

    def _part(self, grid: Tensor, start: int) -> Tensor:
        """Scales or zeros from a panel on."""
        return grid[start * PANEL :] if self.kind == "int8" else grid[start:]


def pack_codes(
    codes: Tensor, scales: Tensor, zeros: Tensor, *, order: Tensor | None = None, bias: Tensor | None = None
) -> PackedLinear:
    """A layer with the int4 weights (codes [N, K] - zeros) * scales, both [N, G] for G groups of equal size.

    order: [K]: weight i of a channel is of input order[i]; None: in order.
    Raises ValueError for a group size that is none of 32, 64, multiples of 128, and the whole channel.
    """
    num_inputs, num_groups = codes.shape[1], scales.shape[1]
    size = num_inputs // num_groups
    if size * num_groups != num_inputs or (num_groups > 1 and size not in GROUP_SIZES and size % BLOCK):
        raise ValueError(f"{num_inputs} inputs cannot be packed in {num_groups} groups")
    if num_groups == 1 or size > BLOCK:  # a scale for each block
        blocks = -(-min(size, num_inputs) // BLOCK)
        scales, zeros = (grid.repeat_interleave(blocks, 1) for grid in (scales, zeros))
        size = BLOCK
    parts = []
    for i in range(0, len(codes), SLICE):
        rows = slice(i, i + SLICE)
        parts.append(panels_of_groups(codes[rows], scales[rows], zeros[rows], BLOCK // size))
    tensors = [torch.cat(column) for column in zip(*parts, strict=True)]
    return PackedLinear("int4", (codes.shape[0], num_inputs), *tensors, order=order, bias=bias)
