"""Attention within documents that lie end to end: training and plain forward passes.

Public: PackedAttention.
Letters: R rows, H heads, K kv heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openqwq.kernels import Documents, Ops


class PackedAttention:
    """Documents of the given lengths lie end to end; each token sees its own document up to itself.

    shared: documents that begin alike share rows, see `Documents`. Lengths are host numbers, so that a compiled layer
    sees constants.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        shared: tuple[Tensor, Tensor] | None = None,
        *,
        ops: Ops,
        device: torch.device | str = "cpu",
    ):
        self._documents, self._ops = Documents(lengths, shared, device=device), ops
        self.positions = self._documents.positions

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[R, H*D] from rotated q [R, H, D], k and v [R, K, D]; the layer's number does not matter."""
        return self._ops.attend_documents(q, k, v, self._documents)
