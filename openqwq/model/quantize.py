"""Linear layers with narrow weights: single-stream decoding waits for memory, and a quarter or an eighth of it is read.

bf16: half of float32. int8: one scale for each output channel, the largest magnitude over 127, symmetric. int4: one
scale and one zero for each group of inputs of a channel, see `round_groups`. All are rounded to nearest; activations
stay in floating point. On a CPU some rows at a time go through a C kernel that widens the weights as it reads them;
more rows multiply by some widened channels at a time; on a GPU Triton's kernels do both. Without them PyTorch's
operators widen the weights: the same numbers up to rounding, more slowly.

Letters: N outputs, K inputs, G groups of inputs, P panels of 8 outputs, B blocks of 128 inputs.

Public: PackedLinear, Quantization, pack_weight, pack_codes, quantize_weights.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .decoder import Qwen2ForCausalLM
from .native import native_kernels

Quantization = Literal["bf16", "int8", "int4"]
KINDS: tuple[Quantization, ...] = get_args(Quantization)  # in native.c's order
PANEL, BLOCK = 8, 128  # native.c's
GROUP_SIZES = (32, 64, 128)  # and multiples of 128
KERNEL_ROWS = 48  # from here on a matrix product of widened weights is quicker; native.c takes 64 at most
TILE_BYTES = {"cpu": 1 << 20, "cuda": 1 << 28}  # widened at a time: on a CPU they should stay in its cache
SPANS = (1.0, 0.95, 0.9, 0.85)  # with 1 alone, tokens of the tiny model diverge a fifth more
SLICE = 1 << 12  # outputs that are rounded at a time


class PackedLinear(nn.Module):
    """A linear layer with narrow weights, made by `pack_weight` and `pack_codes`; not for training.

    codes:  [P, B, 8, bytes of 128 weights], laid out as native.c says; outputs and inputs that pad it weigh 0.
    scales: int8 [8 P]; int4 [P, B, 8, groups of a block].
    zeros:  int4: the codes that stand for 0, laid out as the scales.
    order:  [K], where groups are not of neighbours: the layer's i-th weight is of input order[i].
    for_gpu: whether bf16 and int4 codes lie as a GPU reads them (triton_linear.py), and not as native.c does.
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

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.kind}"

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        rows = rows if self.order is None else rows[:, self.order]
        if rows.device.type == "cuda" and len(rows) and not rows.requires_grad and find_spec("triton"):
            from .triton_packed import multiply_packed  # Triton compiles for the GPU that is there

            out = multiply_packed(self, rows)
            return (out if self.bias is None else out + self.bias).view(*x.shape[:-1], self.out_features)
        self.lay_for_gpu(False)
        kernels = native_kernels() if rows.device.type == "cpu" and rows.dtype == torch.float32 else None
        if kernels is not None and 0 < len(rows) <= KERNEL_ROWS and not rows.requires_grad:
            out = self._by_kernel(kernels, rows)
        else:
            out = torch.cat([F.linear(rows, tile.to(rows.dtype)) for tile in self._tiles(kernels)], -1)
        out = out if self.bias is None else out + self.bias
        return out.unflatten(0, x.shape[:-1]) if x.ndim > 1 else out[0]

    def widened(self) -> Tensor:
        """The weights [N, K] in float32 that the layer multiplies by, their inputs in the layer's own order."""
        self.lay_for_gpu(False)
        kernels = native_kernels() if self.codes.device.type == "cpu" else None
        weight = torch.cat([tile.clone() for tile in self._tiles(kernels)])
        return weight if self.order is None else torch.empty_like(weight).index_copy_(1, self.order, weight)

    def lay_for_gpu(self, wanted: bool) -> None:
        """Lay bf16 and int4 codes as a GPU reads them, or back as native.c does; in place."""
        if self.kind == "int8" or self.for_gpu == wanted:
            return
        for panels in self.codes.split(SLICE):  # [p, B, 8, 64]: a whole layer's inputs would take eight times its room
            if self.kind == "bf16":
                halves = panels.view(torch.bfloat16)
                halves.copy_(_unpack_halves(halves) if wanted else _pack_halves(halves))
            else:
                codes = _unpack_words(panels) if self.for_gpu else _unpack_nibbles(panels)
                panels.copy_(_pack_words(codes) if wanted else _pack_nibbles(codes))
        self.for_gpu = wanted

    def _by_kernel(self, kernels: ctypes.CDLL, rows: Tensor) -> Tensor:
        rows = F.pad(rows, (0, self.codes.shape[1] * BLOCK - self.in_features)).contiguous()
        out = rows.new_empty(len(rows), self.out_features)
        pointers = [tensor.data_ptr() for tensor in (rows, self.codes, self.scales, self.zeros, out)]
        sizes = (len(rows), self.out_features, self.codes.shape[1])
        kernels.linear_packed(KINDS.index(self.kind), self.num_groups, *pointers, *sizes, torch.get_num_threads())
        return out

    @property
    def num_groups(self) -> int:
        """Groups of a block."""
        return self.scales.shape[-1] if self.kind == "int4" else 1

    def _tiles(self, kernels: ctypes.CDLL | None) -> Iterator[Tensor]:
        """The weights in float32, some outputs [n, K] at a time; a tile is valid until the next one."""
        panels, blocks = self.codes.shape[:2]
        step = max(TILE_BYTES.get(self.codes.device.type, 1 << 28) // (4 * PANEL * BLOCK * blocks), 1)
        room = self.codes.new_empty(min(step, panels), PANEL, blocks, BLOCK, dtype=torch.float32)
        for start in range(0, panels, step):
            size = min(step, panels - start)
            if kernels is None:
                tile = self._widen(slice(start, start + size)).transpose(1, 2)
            else:
                tile = room[:size]
                parts = (self.codes[start:], self._part(self.scales, start), self._part(self.zeros, start), tile)
                pointers = [tensor.data_ptr() for tensor in parts]
                threads = torch.get_num_threads()
                kernels.widen_packed(KINDS.index(self.kind), self.num_groups, *pointers, size, blocks, threads)
            tile = tile.reshape(-1, blocks * BLOCK)[: self.out_features - start * PANEL, : self.in_features]
            yield tile

    def _part(self, grid: Tensor, start: int) -> Tensor:
        """Scales or zeros from a panel on."""
        return grid[start * PANEL :] if self.kind == "int8" else grid[start:]

    def _widen(self, panels: slice) -> Tensor:
        """[p, B, 8, 128] by PyTorch's operators."""
        codes = self.codes[panels]
        if self.kind == "bf16":
            return _unpack_halves(codes.view(torch.bfloat16)).float()
        if self.kind == "int8":
            return codes.view(torch.int8) * self.scales.view(-1, 1, PANEL, 1)[panels]
        grouped = _unpack_nibbles(codes).unflatten(-1, (self.num_groups, -1))
        wide = (grouped.float() - self.zeros[panels].unsqueeze(-1)) * self.scales[panels].unsqueeze(-1)
        return wide.flatten(-2)


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
        parts.append(_panels_of_groups(codes[rows], scales[rows], zeros[rows], BLOCK // size))
    tensors = [torch.cat(column) for column in zip(*parts, strict=True)]
    return PackedLinear("int4", (codes.shape[0], num_inputs), *tensors, order=order, bias=bias)


@torch.no_grad()
def quantize_weights(model: Qwen2ForCausalLM, kind: Quantization = "int8", *, group_size: int = 64) -> None:
    """Replace every linear layer and the head by packed ones, in place; embeddings and norms stay as they are.

    A tied head becomes a layer of its own: the embedding is only ever read row by row.
    """
    if model.lm_head is None:
        model.lm_head = pack_weight(model.model.embed_tokens.weight, kind, group_size=group_size)  # type: ignore
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, pack_weight(child.weight, kind, bias=child.bias, group_size=group_size))


def _round(weight: Tensor, kind: Quantization, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales and zeros of some outputs [n, K], in panels."""
    weight = weight.float()
    none = weight.new_empty(0)
    if kind == "bf16":
        return _pack_halves(_panels(weight.bfloat16())).view(torch.uint8), none, none.byte()
    if kind == "int8":
        scale = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        codes = _panels((weight / scale[:, None]).round().to(torch.int8)).view(torch.uint8)
        return codes, F.pad(scale, (0, -len(scale) % PANEL)), none.byte()
    if group_size not in GROUP_SIZES and (group_size < BLOCK or group_size % BLOCK):
        raise ValueError(f"`group_size` is {group_size}, but must be 32, 64 or a multiple of 128")
    codes, scales, zeros = round_groups(weight, group_size)
    groups = BLOCK // min(group_size, BLOCK)
    repeats = max(group_size // BLOCK, 1)
    wanted = -(-weight.shape[1] // BLOCK) * groups
    scales, zeros = (grid.repeat_interleave(repeats, 1)[:, :wanted] for grid in (scales, zeros))
    return _panels_of_groups(codes, scales, zeros, groups)


def round_groups(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes 0 to 15 [n, K], scales [n, G] and zeros [n, G] of a weight [n, K], the last group padded by 0.

    A group's scale spans its least and its largest weight, 0 included: 0 stands for itself. Of some shares of that
    span, beyond which weights are cut off, the one with the least squared error is taken.
    """
    groups = F.pad(weight, (0, -weight.shape[1] % group_size)).unflatten(1, (-1, group_size))
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    least = torch.full_like(low, torch.inf)
    codes, scales, zeros = torch.zeros_like(groups), torch.zeros_like(low), torch.zeros_like(low)
    for span in SPANS:
        scale = (span * (high - low) / 15).clamp(min=torch.finfo(torch.float32).tiny)
        zero = (-span * low / scale).round()
        code = ((groups / scale[..., None]).round() + zero[..., None]).clamp(0, 15)
        error = ((code - zero[..., None]) * scale[..., None] - groups).square().sum(-1)
        better = error < least
        least, scales, zeros = (
            torch.where(better, new, old) for new, old in ((error, least), (scale, scales), (zero, zeros))
        )
        codes = torch.where(better[..., None], code, codes)
    return codes.flatten(1)[:, : weight.shape[1]].byte(), scales, zeros.byte()


def _panels_of_groups(codes: Tensor, scales: Tensor, zeros: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    grids = []
    for grid in (scales.float(), zeros.byte()):
        grid = F.pad(grid, (0, -grid.shape[1] % groups, 0, -len(grid) % PANEL))
        grids.append(grid.view(-1, PANEL, grid.shape[1] // groups, groups).transpose(1, 2).contiguous())
    return _pack_nibbles(_panels(codes)), grids[0], grids[1]


def _panels(values: Tensor) -> Tensor:
    """[n, K] -> [p, B, 8, 128], padded by 0."""
    padded = F.pad(values, (0, -values.shape[1] % BLOCK, 0, -len(values) % PANEL))
    return padded.view(-1, PANEL, padded.shape[1] // BLOCK, BLOCK).transpose(1, 2).contiguous()


def _pack_halves(weights: Tensor) -> Tensor:
    """[..., 128]: word w of each 16 has the weights w and 16 + w of its 32."""
    return weights.unflatten(-1, (4, 2, 16)).transpose(-1, -2).flatten(-3).contiguous()


def _unpack_halves(packed: Tensor) -> Tensor:
    return packed.unflatten(-1, (4, 16, 2)).transpose(-1, -2).flatten(-3).contiguous()


def _pack_nibbles(codes: Tensor) -> Tensor:
    """[..., 128] of 0 to 15 -> [..., 64 bytes]: byte b of word w holds the weights 32 b + w and 32 b + 16 + w."""
    low, high = codes.unflatten(-1, (4, 2, 16)).unbind(-2)
    return (low | high << 4).transpose(-1, -2).flatten(-2).contiguous()


def _unpack_nibbles(packed: Tensor) -> Tensor:
    words = packed.unflatten(-1, (16, 4)).transpose(-1, -2)
    return torch.stack((words & 15, words >> 4), -2).flatten(-3)


def _pack_words(codes: Tensor) -> Tensor:
    """[..., 128] of 0 to 15 -> [..., 64 bytes]: bits 4 i to 4 i + 3 of word w are weight 32 (w // 4) + 4 i + w % 4."""
    chunk_lane_byte_half = (*range(codes.ndim - 1), -4, -1, -3, -2)
    low, high = codes.unflatten(-1, (4, 4, 2, 4)).permute(chunk_lane_byte_half).flatten(-4, -2).unbind(-1)
    return (low | high << 4).contiguous()


def _unpack_words(packed: Tensor) -> Tensor:
    halves = torch.stack((packed & 15, packed >> 4), -1).unflatten(-2, (4, 4, 4))  # chunk, lane, byte, half
    return halves.permute(*range(packed.ndim - 1), -4, -2, -1, -3).flatten(-4)
