"""Rotary position embedding (arXiv:2104.09864), rotate-half form, with YaRN (arXiv:2309.00071) and
Llama 3's scaling.

YaRN is static, as the config says, unless an attention context says which tokens are of documents that need it.

Letters: N tokens, H heads, D head dim.

Angles are computed from the positions at every forward pass instead of being read from a table: no bound on the
length, no buffer that a dtype cast could damage, and the layers share one pair of cos and sin.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .config import DecoderConfig
from .rope_settings import Llama3Scaling, YarnScaling


def inverse_frequencies(config: DecoderConfig) -> list[float]:
    """Radians per position of each of the D/2 rotary pairs, the config's scaling applied."""
    dim = config.head_dim
    plain = [config.rope_theta ** (-2 * i / dim) for i in range(dim // 2)]
    yarn = config.rope_scaling
    if yarn is None:
        return plain
    if isinstance(yarn, Llama3Scaling):
        return [_llama3_frequency(frequency, yarn) for frequency in plain]
    low, high = _ramp_bounds(config, yarn)
    kept = [1 - min(max((i - low) / (high - low), 0.0), 1.0) for i in range(dim // 2)]
    return [keep * f + (1 - keep) * f / yarn.factor for f, keep in zip(plain, kept, strict=True)]


def attention_factor(config: DecoderConfig) -> float:
    """What cos and sin are multiplied by; 1 without YaRN. Attention logits grow by its square."""
    yarn = config.rope_scaling
    if not isinstance(yarn, YarnScaling):
        return 1.0
    return 0.1 * math.log(yarn.factor) + 1 if yarn.attention_factor is None else yarn.attention_factor


def _llama3_frequency(frequency: float, scaling: Llama3Scaling) -> float:
    """Kept, divided by the factor, or between, by its wavelength as a share of the trained context."""
    wavelength = 2 * math.pi / frequency
    rotations = scaling.original_max_position_embeddings / wavelength
    if rotations > scaling.high_freq_factor:
        return frequency
    if rotations < scaling.low_freq_factor:
        return frequency / scaling.factor
    smooth = (rotations - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def _ramp_bounds(config: DecoderConfig, yarn: YarnScaling) -> tuple[float, float]:
    """Pairs below the first bound keep their frequency, pairs above the second are fully interpolated."""

    def pair_with_rotations(rotations: float) -> float:
        ratio = yarn.original_max_position_embeddings / (rotations * 2 * math.pi)
        return config.head_dim * math.log(ratio) / (2 * math.log(config.rope_theta))

    low = max(math.floor(pair_with_rotations(yarn.beta_fast)), 0)
    high = min(math.ceil(pair_with_rotations(yarn.beta_slow)), config.head_dim - 1)
    return low, high if high > low else low + 0.001  # an empty ramp would divide by zero


class RotaryEmbedding:
    """Cos and sin for given positions. Holds no tensor of the module tree: casts and `to_empty` cannot touch it."""

    _TABLE = 1024  # positions

    def __init__(self, config: DecoderConfig):
        self._frequencies = inverse_frequencies(config)
        self._plain_frequencies = inverse_frequencies(config.replace(rope_scaling=None))
        self._factor = attention_factor(config)
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._tables: list[tuple[Tensor, Tensor]] = []

    def __call__(
        self, positions: Tensor, dtype: torch.dtype, scaled: Tensor | None = None, *, from_tables: bool = False
    ) -> tuple[Tensor, Tensor]:
        """(cos, signed sin), each [N, 1, D], for positions [N]; the angles are float32 whatever the dtype.

        scaled: [N] whether each token is turned as YaRN says, or plainly; None: all as the config says.
        from_tables: read from tables that are computed once and in one size, as batch invariance needs (then `scaled`
        must be None): a cosine may differ in its last bit with its place in the tensor that it is computed in.
        The sign of rotate-half is folded into the sine: its first half is negated.
        """
        if from_tables:
            assert scaled is None
            return self._from_tables(positions, dtype)
        frequencies, plain = self._frequency_tensors(positions.device)
        factor: float | Tensor = self._factor
        if scaled is not None:
            frequencies = torch.where(scaled[:, None], frequencies, plain)
            factor = torch.where(scaled[:, None], self._factor, 1.0)
        angles = positions[:, None].float() * frequencies  # [N, D/2]
        cos, sin = angles.cos() * factor, angles.sin() * factor
        return torch.cat((cos, cos), -1)[:, None].to(dtype), torch.cat((-sin, sin), -1)[:, None].to(dtype)

    def _from_tables(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        for table in range(len(self._tables), int(positions.max()) // self._TABLE + 1):
            self._tables.append(self(torch.arange(table * self._TABLE, (table + 1) * self._TABLE), dtype))
        cos, sin = (torch.cat(column) if len(column) > 1 else column[0] for column in zip(*self._tables, strict=True))
        return cos.index_select(0, positions), sin.index_select(0, positions)

    def _frequency_tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._on_device:
            both = torch.tensor([self._frequencies, self._plain_frequencies], dtype=torch.float32, device=device)
            self._on_device[device] = (both[0], both[1])
        return self._on_device[device]
