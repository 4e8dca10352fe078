"""The parts of a pass over the paged cache by the Triton kernels. Imported only where Triton is installed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openqwq.kernels.triton.attention import QUERY_TILE, attend_chunks, attend_rows

from ..kv_cache import KVCache
from .context import PagedChunk


class TritonRows:
    """The part of a pass that decodes: stores the rows' keys and values and mixes."""

    def __init__(self, cache: KVCache, tables: Tensor, positions: Tensor):
        self.num_tokens, self._cache = len(positions), cache
        self._tables, self._positions = tables.contiguous(), positions.contiguous()
        blocks = tables.gather(1, (positions // cache.max_length)[:, None])[:, 0]
        self._places = cache.row_index(blocks, positions % cache.max_length)

    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[R, H*D] from q [R, H, D] and the rows' own k and v [R, K, D]."""
        self._cache.write(layer, self._places, k, v)
        return attend_rows(self._cache.layer(layer), q.contiguous(), self._tables, self._positions)


class TritonChunks:
    """The part of a pass that computes chunks, whose keys and values are in the cache already."""

    def __init__(self, cache: KVCache, chunks: Sequence[PagedChunk]):
        self.num_tokens, self._cache = sum(chunk.length for chunk in chunks), cache
        device, dtype = cache.keys[0].device, cache.dtype
        self._query_tile = 64 if dtype == torch.float32 else QUERY_TILE
        offsets = [0]
        for chunk in chunks:
            offsets.append(offsets[-1] + chunk.length)
        shapes = [[chunk.start, chunk.length, offset] for chunk, offset in zip(chunks, offsets, strict=False)]
        tiles = [(number, i) for number, c in enumerate(chunks) for i in range(0, c.length, self._query_tile)]
        tiles.sort(key=lambda tile: -(chunks[tile[0]].start + tile[1]))  # the longest first: no tail of few programs
        width = max(len(chunk.blocks) for chunk in chunks)
        tables = [[*chunk.blocks, *[0] * (width - len(chunk.blocks))] for chunk in chunks]
        self._tables, self._tiles, self._chunks = (
            torch.tensor(x, dtype=torch.int32, device=device) for x in (tables, tiles, shapes)
        )

    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[n, H*D] from q [n, H, D]; k and v are not looked at."""
        shapes = self._tables, self._tiles, self._chunks
        return attend_chunks(self._cache.layer(layer), q.contiguous(), *shapes, query_tile=self._query_tile)
