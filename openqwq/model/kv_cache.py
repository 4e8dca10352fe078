"""The keys and values of past tokens in slots: each a sequence, or a block of one (paged.py).

Letters: L layers, S slots, K kv heads, M max length, D head dim.

A cache may round what it keeps: to bfloat16, or to int8 with one scale for each token and head (the largest magnitude
over 127). Large key biases are kept out of it (key_offsets.py). Whoever mixes reads the rounded values, those of the
same pass too, so that results do not depend on how a sequence was cut into passes.

The cache does not know how long a sequence is: whoever runs the sequences does, and hands the positions to the
attention context. A slot is reused without being cleared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from openqwq.kernels import CacheLayer, use_large_pages
from openqwq.kernels.layouts import TINY

from .config import DecoderConfig

if TYPE_CHECKING:
    from .key_offsets import KeyOffsets

SCALE_DTYPE = torch.float32


class KVCache:
    """`keys[layer]` and `values[layer]`, each [S, K, M, D]; `group_size` query heads share a kv head.

    dtype:         of the keys and values that come and are read.
    storage_dtype: what they are kept in: `dtype` (None), bfloat16, or int8 with `key_scales` and `value_scales`
                   [S, K, M] a layer.
    offsets:       the key biases that are kept out, turned by position; set before anything is written. None: none are.
    Zeros at the start: what lies beyond a sequence's length is masked, but must be finite.
    """

    def __init__(
        self,
        config: DecoderConfig,
        num_slots: int,
        max_length: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        storage_dtype: torch.dtype | None = None,
    ):
        self.dtype, self.storage_dtype = dtype, storage_dtype or dtype
        shape = (config.num_hidden_layers, num_slots, config.num_key_value_heads, max_length, config.head_dim)
        self.num_slots, self.max_length = num_slots, max_length
        self.group_size = config.num_attention_heads // config.num_key_value_heads
        self._keys, self._values = (_zeros(shape, device, self.storage_dtype) for _ in range(2))
        self.keys, self.values = self._keys.unbind(0), self._values.unbind(0)
        self._stores = [self._keys, self._values]
        self.offsets: KeyOffsets | None = None
        self.key_scales: Sequence[Tensor | None] = [None] * len(self.keys)
        self.value_scales: Sequence[Tensor | None] = [None] * len(self.keys)
        if self.storage_dtype == torch.int8:
            scales = [_zeros(shape[:-1], device, SCALE_DTYPE) for _ in range(2)]
            self.key_scales, self.value_scales = (each.unbind(0) for each in scales)
            self._stores += scales

    def layer(self, number: int, num_positions: int = 0) -> CacheLayer:
        """One layer's keys and values, as kernels take them, which read tokens at so many positions."""
        stored = self.keys[number], self.values[number], self.key_scales[number], self.value_scales[number]
        bias = None if self.offsets is None else self.offsets.biases[number]
        return CacheLayer(*stored) if bias is None else CacheLayer(*stored, bias, self.offsets.angles(num_positions))  # type: ignore[union-attr]

    @property
    def rounds(self) -> bool:
        """Whether what is read is not what was written."""
        return self.storage_dtype != self.dtype

    @property
    def num_bytes(self) -> int:
        """Of keys, values and scales together."""
        return sum(store.numel() * store.element_size() for store in self._stores)

    @staticmethod
    def bytes_per_token(config: DecoderConfig, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of one token's keys and values over all layers, kept in `dtype`."""
        head_bytes = config.head_dim * dtype.itemsize + (SCALE_DTYPE.itemsize if dtype == torch.int8 else 0)
        return 2 * config.num_hidden_layers * config.num_key_value_heads * head_bytes

    def row_index(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Where tokens at (slot, position), both [N], lie in a layer seen as [S*K*M, D] rows: [N*K]."""
        num_kv_heads = self._keys.shape[2]
        heads = torch.arange(num_kv_heads, device=slots.device)
        return ((slots[:, None] * num_kv_heads + heads) * self.max_length + positions[:, None]).flatten()

    def write(self, layer: int, rows: Tensor, keys: Tensor, values: Tensor, positions: Tensor | None = None) -> None:
        """Store keys and values [N, K, D] of one layer at `row_index`'s rows; positions [N] in their sequences.

        The positions are needed where key biases are kept out.
        """
        if (turned := self.turned(layer, positions)) is not None:
            keys = keys.float() - turned
        for store, scales, new in (
            (self.keys[layer], self.key_scales[layer], keys),
            (self.values[layer], self.value_scales[layer], values),
        ):
            new = new.reshape(-1, store.shape[-1])
            if scales is not None:
                new, scale = round_to_int8(new)
                scales.view(-1).index_copy_(0, rows, scale)
            store.view(-1, store.shape[-1]).index_copy_(0, rows, new.to(store.dtype))

    def turned(self, layer: int, positions: Tensor | None) -> Tensor | None:
        """What the keys of a layer at positions [N] are kept without, [N, K, D]; None: nothing."""
        if self.offsets is None:
            return None
        assert positions is not None
        return self.offsets.turned(layer, positions)

    def keys_as_read(self, layer: int, keys: Tensor, positions: Tensor) -> Tensor:
        """Keys [N, K, D] of a layer, at positions [N], as they are read after they were written."""
        if (turned := self.turned(layer, positions)) is None:
            return self.as_read(keys)
        return (self.as_read(keys.float() - turned).float() + turned).to(self.dtype)

    def as_read(self, x: Tensor) -> Tensor:
        """Keys or values [N, K, D] as they are read after they were written."""
        if not self.rounds:
            return x
        rounded, scale = round_to_int8(x) if self.storage_dtype == torch.int8 else (x.to(self.storage_dtype), None)
        return widen(rounded, scale, self.dtype)

    def copy_slots(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first `length` positions of some slots onto others: shared prompts, closing gaps."""
        source, target = list(sources), list(targets)
        for store in self._stores:
            store[:, target, :, :length] = store[:, source, :, :length]

    def clear_slots(self, slots: Sequence[int]) -> None:
        """Zero some slots: what is not finite in them would spoil a later holder's masked positions."""
        for store in self._stores:
            store[:, list(slots)] = 0


def round_to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [..., D] and the scales [...] that it is to be multiplied by; not finite: a scale that is not."""
    scale = x.float().abs().amax(-1).clamp(min=TINY) * (1 / 127)  # by multiplying, as rounded.c does: equal to the bit
    return (x.float() * (1 / scale)[..., None]).round().nan_to_num(0).to(torch.int8), scale


def widen(stored: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What is kept [..., D], with its scales [...] if it has some, as numbers to reckon with."""
    return stored.to(dtype) if scales is None else (stored.float() * scales[..., None]).to(dtype)


def _zeros(shape: tuple[int, ...], device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Zeros; on a CPU as memory that the system hands out when it is first written."""
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    raw = torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8))
    use_large_pages(raw, filled=False)
    return raw.view(dtype).view(shape)
