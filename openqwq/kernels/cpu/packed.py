"""Products with narrow weights on a CPU: a kernel widens them as it reads them (packed.h).

Public: multiply, widen, MAX_ROWS.
Letters: M rows, N outputs, K inputs, B blocks of 128 inputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layouts import BLOCK, KINDS, PackedWeights
from .library import kernels, pointers

MAX_ROWS = 48  # from here on a matrix product of widened weights is quicker; the kernel takes 64 at most


def multiply(rows: Tensor, weights: PackedWeights, num_outputs: int) -> Tensor:
    """[M, N] of rows [M, K] in float32, M at most MAX_ROWS."""
    kind, codes, scales, zeros, groups = weights
    rows = F.pad(rows, (0, codes.shape[1] * BLOCK - rows.shape[1])).contiguous()
    out = rows.new_empty(len(rows), num_outputs)
    sizes = (len(rows), num_outputs, codes.shape[1])
    own = pointers(rows, codes, scales, zeros, out)
    kernels().linear_packed(KINDS.index(kind), groups, *own, *sizes, torch.get_num_threads())
    return out


def widen(weights: PackedWeights, out: Tensor) -> None:
    """The first panels' weights in float32 into `out` [panels, 8, B, 128]."""
    kind, codes, scales, zeros, groups = weights
    own = pointers(codes, scales, zeros, out)
    kernels().widen_packed(KINDS.index(kind), groups, *own, len(out), codes.shape[1], torch.get_num_threads())
