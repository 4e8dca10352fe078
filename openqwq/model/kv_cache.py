"""The keys and values of past tokens: one slot a sequence, contiguous in memory.

Letters: L layers, S slots, K kv heads, M max length, D head dim.

The cache does not know how long a sequence is: whoever runs the sequences does, and hands the positions to the
attention context. A slot is reused without being cleared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .config import Qwen2Config


class KVCache:
    """`keys[layer]` and `values[layer]`, each [S, K, M, D].

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
        self._keys = torch.zeros(shape, device=device, dtype=dtype)
        self._values = torch.zeros(shape, device=device, dtype=dtype)
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
