"""The keys and values of past tokens in slots: each a sequence, or a block of one (paged.py).

Letters: L layers, S slots, K kv heads, M max length, D head dim.

The cache does not know how long a sequence is: whoever runs the sequences does, and hands the positions to the
attention context. A slot is reused without being cleared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .config import Qwen2Config


class KVCache:
    """`keys[layer]` and `values[layer]`, each [S, K, M, D]; `group_size` query heads share a kv head.

    Zeros at the start: what lies beyond a sequence's length is masked, but must be finite.
    """

    def __init__(
        self,
        config: Qwen2Config,
        num_slots: int,
        max_length: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        shape = (config.num_hidden_layers, num_slots, config.num_key_value_heads, max_length, config.head_dim)
        self.num_slots, self.max_length = num_slots, max_length
        self.group_size = config.num_attention_heads // config.num_key_value_heads
        self._keys, self._values = _zeros(shape, device, dtype), _zeros(shape, device, dtype)
        self.keys, self.values = self._keys.unbind(0), self._values.unbind(0)

    @staticmethod
    def bytes_per_token(config: Qwen2Config, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of one token's keys and values over all layers."""
        return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize

    def row_index(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Where tokens at (slot, position), both [N], lie in a layer seen as [S*K*M, D] rows: [N*K]."""
        num_kv_heads = self._keys.shape[2]
        heads = torch.arange(num_kv_heads, device=slots.device)
        return ((slots[:, None] * num_kv_heads + heads) * self.max_length + positions[:, None]).flatten()

    def write(self, layer: int, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys and values [N, K, D] of one layer at `row_index`'s rows."""
        for store, new in ((self.keys[layer], keys), (self.values[layer], values)):
            store.view(-1, store.shape[-1]).index_copy_(0, rows, new.reshape(-1, store.shape[-1]))

    def copy_slots(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first `length` positions of some slots onto others: shared prompts, closing gaps."""
        source, target = list(sources), list(targets)
        for store in (self._keys, self._values):
            store[:, target, :, :length] = store[:, source, :, :length]

    def clear_slots(self, slots: Sequence[int]) -> None:
        """Zero some slots: what is not finite in them would spoil a later holder's masked positions."""
        for store in (self._keys, self._values):
            store[:, list(slots)] = 0


def _zeros(shape: tuple[int, ...], device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Zeros; on a CPU as memory that the system hands out when it is first written."""
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    raw = torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8))
    return raw.view(dtype).view(shape)
