"""Key biases that are kept out of a cache that rounds.

A key is R_t (W x + b), turned by its position t. Qwen2.5's small models have biases b with norms of several hundred
beside numbers of about 1: rounded together, nothing is left of W x (8 bits with one scale a token and head). So the
cache rounds R_t W x alone, and R_t b is added when keys are read: in the pairs of channels with a large bias, which are
few in real models. Any vector would do for b: the biases are copied once for a cache, and later changes of them are
rounded like the rest.

Public: KeyOffsets.
Letters: N tokens, K kv heads, D head dim, M positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openqwq.kernels.reference import rotate

from .decoder import Decoder

# Numbers of W x are about 1 to 10: a smaller bias costs less than one of int8's 7 bits, and nothing is to be gained.
LARGE_BIAS = 4.0
STEP = 1024  # positions whose angles are computed at a time


class KeyOffsets:
    """The large key biases of a model's layers, [K, D] each, and the angles that turn them."""

    def __init__(self, biases: list[Tensor | None], model: Decoder):
        self.biases = biases
        self._rotary = model.model.rotary
        self._angles = torch.empty(0, 2, model.config.head_dim, device=model.device)

    @classmethod
    def of(cls, model: Decoder) -> KeyOffsets | None:
        """None where no layer has a large bias."""
        config = model.config
        if not config.attention_bias or config.qk_norm:  # no bias, or a norm over head dim takes its size away
            return None
        biases: list[Tensor | None] = []
        for layer in model.model.layers:
            bias = layer.self_attn.k_proj.bias.detach().float()  # type: ignore[union-attr, operator]
            biases.append(_large_pairs(bias.view(-1, config.head_dim)))
        return cls(biases, model) if any(bias is not None for bias in biases) else None

    def angles(self, num_positions: int) -> Tensor:
        """Cosine and signed sine, [M, 2, D], of at least so many positions."""
        if num_positions > len(self._angles):
            positions = torch.arange(-(-num_positions // STEP) * STEP, device=self._angles.device)
            self._angles = torch.cat(self._rotary(positions, torch.float32), 1)
        return self._angles

    def turned(self, layer: int, positions: Tensor) -> Tensor | None:
        """The layer's biases at positions [N]: [N, K, D] in float32; None where its biases are not large."""
        bias = self.biases[layer]
        if bias is None:
            return None
        cos, signed_sin = self._rotary(positions, torch.float32)
        return rotate(bias.expand(len(positions), -1, -1), cos, signed_sin)


def _large_pairs(bias: Tensor) -> Tensor | None:
    """A layer's bias [K, D] in the rotary pairs where it is large, 0 elsewhere; None where it is large nowhere."""
    pairs = bias.unflatten(-1, (2, -1))  # [K, 2, D/2]
    large = pairs.abs().amax(-2, keepdim=True) >= LARGE_BIAS
    return (pairs * large).flatten(-2).contiguous() if large.any() else None
