"""How narrow weights lie in memory: their rounding, panels of outputs, and the codes of bf16, int8 and int4.

bf16: half of float32. int8: one scale for each output channel, the largest magnitude over 127, symmetric. int4: one
scale and one zero for each group of inputs of a channel, see `round_groups`. All are rounded to nearest.

Public: Quantization, KINDS, CacheLayer, PackedWeights, round_groups, panels, panels_of_groups, and pairs of pack and
unpack functions.
Letters: N outputs, K inputs, G groups of inputs, P panels of 8 outputs, B blocks of 128 inputs.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Quantization = Literal["bf16", "int8", "int4"]
KINDS: tuple[Quantization, ...] = get_args(Quantization)  # in packed.h's order
PANEL, BLOCK = 8, 128  # packed.h's
GROUP_SIZES = (32, 64, 128)  # and multiples of 128
SPANS = (1.0, 0.95, 0.9, 0.85)  # with 1 alone, tokens of the tiny model diverge a fifth more
TINY = 2.0**-100  # the scale of a row of zeros, whose inverse is finite
SLICE = 1 << 12  # outputs that are rounded at a time


class CacheLayer(NamedTuple):
    """Keys and values of one layer of a paged cache: each [blocks, K, P, D], with scales [blocks, K, P] if int8.

    key_offset: [K, D], which keys are kept without: turned by each one's position, it is added as they are read.
    angles:     cosine and signed sine, [M, 2, D], of every position that is read; with `key_offset` only.
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None
    key_offset: Tensor | None = None
    angles: Tensor | None = None


class PackedWeights(NamedTuple):
    """Narrow weights of a layer, or of its last panels, as a kernel reads them.

    codes: [P, B, 8, bytes of 128 weights]. scales: int8 [8 P]; int4 [P, B, 8, groups]. zeros: int4, as the scales.
    groups: of a block of 128 inputs.
    """

    kind: Quantization
    codes: Tensor
    scales: Tensor
    zeros: Tensor
    groups: int


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


def panels_of_groups(codes: Tensor, scales: Tensor, zeros: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes in panels, and scales and zeros [P, B, 8, groups of a block], of int4 codes [n, K]."""
    grids = []
    for grid in (scales.float(), zeros.byte()):
        grid = F.pad(grid, (0, -grid.shape[1] % groups, 0, -len(grid) % PANEL))
        grids.append(grid.view(-1, PANEL, grid.shape[1] // groups, groups).transpose(1, 2).contiguous())
    return pack_nibbles(panels(codes)), grids[0], grids[1]


def panels(values: Tensor) -> Tensor:
    """[n, K] -> [p, B, 8, 128], padded by 0."""
    padded = F.pad(values, (0, -values.shape[1] % BLOCK, 0, -len(values) % PANEL))
    return padded.view(-1, PANEL, padded.shape[1] // BLOCK, BLOCK).transpose(1, 2).contiguous()


def pack_halves(weights: Tensor) -> Tensor:
    """[..., 128]: word w of each 16 has the weights w and 16 + w of its 32."""
    return weights.unflatten(-1, (4, 2, 16)).transpose(-1, -2).flatten(-3).contiguous()


def unpack_halves(packed: Tensor) -> Tensor:
    """What `pack_halves` was given."""
    return packed.unflatten(-1, (4, 16, 2)).transpose(-1, -2).flatten(-3).contiguous()


def pack_nibbles(codes: Tensor) -> Tensor:
    """[..., 128] of 0 to 15 -> [..., 64 bytes]: byte b of word w holds the weights 32 b + w and 32 b + 16 + w."""
    low, high = codes.unflatten(-1, (4, 2, 16)).unbind(-2)
    return (low | high << 4).transpose(-1, -2).flatten(-2).contiguous()


def unpack_nibbles(packed: Tensor) -> Tensor:
    """What `pack_nibbles` was given."""
    words = packed.unflatten(-1, (16, 4)).transpose(-1, -2)
    return torch.stack((words & 15, words >> 4), -2).flatten(-3)


def pack_words(codes: Tensor) -> Tensor:
    """[..., 128] of 0 to 15 -> [..., 64 bytes]: bits 4 i to 4 i + 3 of word w are weight 32 (w // 4) + 4 i + w % 4."""
    chunk_lane_byte_half = (*range(codes.ndim - 1), -4, -1, -3, -2)
    low, high = codes.unflatten(-1, (4, 4, 2, 4)).permute(chunk_lane_byte_half).flatten(-4, -2).unbind(-1)
    return (low | high << 4).contiguous()


def unpack_words(packed: Tensor) -> Tensor:
    """What `pack_words` was given."""
    halves = torch.stack((packed & 15, packed >> 4), -1).unflatten(-2, (4, 4, 4))  # chunk, lane, byte, half
    return halves.permute(*range(packed.ndim - 1), -4, -2, -1, -3).flatten(-4)
