"""Parts of a pass over the paged cache: rows that decode, first chunks and later chunks, each by its own means.

Public: row_part, chunk_parts.
Letters: R rows that decode, n tokens, W blocks a table, P tokens a block, H heads, K kv heads, G = H / K, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from openqwq.kernels import Ops
from openqwq.kernels.reference import mix_by_products, mix_fused

from ..kv_cache import KVCache, widen
from .context import PagedChunk, Part
from .packed import PackedAttention


def row_part(ops: Ops, cache: KVCache, tables: Tensor, positions: Tensor, longest: int) -> Part:
    """The part of the rows: by a kernel that reads blocks where they lie, or gathered first.

    tables: [R, W]; positions: [R]; longest: the largest of them + 1.
    """
    if ops.attends_rows(cache.layer(0), cache.dtype, cache.group_size):
        return KernelRows(ops, cache, tables, positions, longest)
    if ops.fused == "triton" and cache.offsets is None:
        from .gpu_parts import TritonRows

        return TritonRows(cache, tables, positions)
    return GatheredRows(cache, tables, positions, longest)


def chunk_parts(ops: Ops, cache: KVCache, chunks: Sequence[PagedChunk]) -> list[Part]:
    """The parts of chunks that come in order: first chunks before later ones. Raises ValueError for another order."""
    first = [chunk for chunk in chunks if chunk.start == 0]
    if any(chunk.start for chunk in chunks[: len(first)]):
        raise ValueError("chunks from position 0 on must come before the others")
    by_triton = ops.fused == "triton" and cache.offsets is None
    if by_triton and cache.dtype == torch.float32:
        first = []  # PyTorch's fused kernels are for 16 bits: in float32 it would hold all scores
    parts: list[Part] = [FirstChunks(ops, cache, first)] if first else []
    later = chunks[len(first) :]
    if by_triton and later:
        from .gpu_parts import TritonChunks

        return [*parts, TritonChunks(cache, later)]
    return parts + [LaterChunk(cache, chunk) for chunk in later]


class KernelRows(Part):
    """Rows by a kernel: each reads its own blocks, in place."""

    def __init__(self, ops: Ops, cache: KVCache, tables: Tensor, positions: Tensor, longest: int):
        self.num_tokens, self._ops, self._longest = len(positions), ops, longest
        self._cache, self._tables, self._positions = cache, tables.contiguous(), positions.contiguous()

    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        store = self._cache.layer(layer, self._longest)
        return self._ops.attend_rows(q, k, v, store, self._tables, self._positions)


class GatheredRows(Part):
    """Rows by PyTorch's operators: each layer copies the rows' blocks side by side first."""

    def __init__(self, cache: KVCache, tables: Tensor, positions: Tensor, longest: int):
        store, size = cache.keys[0], cache.max_length
        kv_heads = store.shape[1]
        self.num_tokens, self._cache = len(positions), cache
        width = -(-longest // size)
        heads = torch.arange(kv_heads, device=store.device)
        self._index = (tables[:, None, :width] * kv_heads + heads[:, None]).flatten()  # [R*K*W]
        hidden = torch.arange(width * size, device=store.device) > positions[:, None]
        mask = torch.zeros(hidden.shape, dtype=cache.dtype, device=store.device).masked_fill_(hidden, -torch.inf)
        self._mask = mask.repeat_interleave(kv_heads, 0)[:, None]  # [R*K, 1, W*P]
        blocks = tables.gather(1, (positions // size)[:, None])[:, 0]
        self._places, self._positions = cache.row_index(blocks, positions % size), positions
        self._every = torch.arange(width * size, device=store.device)
        self._mixer = mix_by_products if store.device.type == "cpu" else mix_fused

    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._cache.write(layer, self._places, k, v, self._positions)
        q = q.reshape(-1, q.shape[1] // k.shape[1], q.shape[2])  # [R*K, G, D]
        keys = self._side_by_side(self._cache.keys[layer], self._cache.key_scales[layer])
        if (turned := self._cache.turned(layer, self._every)) is not None:
            own = turned.transpose(0, 1).repeat(self.num_tokens, 1, 1)  # [R*K, W*P, D]
            keys = (keys.float() + own).to(keys.dtype)
        values = self._side_by_side(self._cache.values[layer], self._cache.value_scales[layer])
        return self._mixer(q, keys, values, self._mask).reshape(self.num_tokens, -1)

    def _side_by_side(self, store: Tensor, scales: Tensor | None) -> Tensor:
        """[blocks, K, P, D] -> [R*K, W*P, D]."""
        rows = store.flatten(0, 1).index_select(0, self._index)
        own = None if scales is None else scales.flatten(0, 1).index_select(0, self._index)
        return widen(rows, own, self._cache.dtype).view(len(self._mask), -1, store.shape[-1])


class FirstChunks(Part):
    """Chunks from position 0 on: they see nothing but themselves, so the cache is not read."""

    def __init__(self, ops: Ops, cache: KVCache, chunks: Sequence[PagedChunk]):
        self.num_tokens, self._cache = sum(chunk.length for chunk in chunks), cache
        self._packed = PackedAttention([chunk.length for chunk in chunks], ops=ops, device=cache.keys[0].device)
        places = [torch.arange(chunk.length) for chunk in chunks]
        self._positions = torch.cat(places).to(cache.keys[0].device)

    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._packed.attend(
            layer, q, self._cache.keys_as_read(layer, k, self._positions), self._cache.as_read(v)
        )


class LaterChunk(Part):
    """A chunk of a sequence that has tokens in the cache already."""

    def __init__(self, cache: KVCache, chunk: PagedChunk):
        self.num_tokens, self._cache, self._end = chunk.length, cache, chunk.start + chunk.length
        device = cache.keys[0].device
        num_blocks = -(-self._end // cache.max_length)
        self._blocks = torch.tensor(list(chunk.blocks[:num_blocks]), device=device)
        own = torch.arange(chunk.start, self._end, device=device)
        self._mask = torch.arange(self._end, device=device) <= own[:, None]

    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        cache = self._cache
        keys = self._in_order(cache.keys[layer], cache.key_scales[layer])
        if (turned := cache.turned(layer, torch.arange(self._end, device=keys.device))) is not None:
            keys = (keys.float() + turned.transpose(0, 1)).to(keys.dtype)
        keys = keys[None]
        values = self._in_order(cache.values[layer], cache.value_scales[layer])[None]
        query = q.transpose(0, 1)[None]
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=self._mask, enable_gqa=True)
        return mixed[0].transpose(0, 1).flatten(1)

    def _in_order(self, store: Tensor, scales: Tensor | None) -> Tensor:
        """[blocks, K, P, D] -> [K, end, D]."""
        own = widen(store[self._blocks], None if scales is None else scales[self._blocks], self._cache.dtype)
        return own.transpose(0, 1).flatten(1, 2)[:, : self._end]
