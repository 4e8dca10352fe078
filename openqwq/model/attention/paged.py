"""Attention over a paged cache: the rows that decode and the chunks that are computed, in one pass of the decoder.

The cache is a `KVCache` whose slots are blocks: `max_length` tokens of one sequence. Block tables say which blocks
hold a sequence's tokens, in their order. Every layer stores all new keys and values before it mixes, so that a row
may read what a chunk of the same pass has written.

Public: PagedAttention, as_rows.
Letters: N tokens, R rows that decode, W blocks a table, P tokens a block, H heads, K kv heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openqwq.kernels import Ops

from ..kv_cache import KVCache
from .context import PagedChunk, Part
from .parts import chunk_parts, row_part


class PagedAttention:
    """First one token for each of R rows, then the chunks' tokens, in the flat row of tokens.

    tables:    [R, W] int32 on the cache's device; entries beyond a row's own blocks must be valid block numbers.
    positions: [R] where each row's token goes.
    longest:   the largest of `positions` + 1.
    scaled:    [R] which rows YaRN is for; None: all tokens are rotated as the model's config says.
    ops:       the model's; batch-invariant ones take every token of a chunk as a row.
    """

    def __init__(
        self,
        cache: KVCache,
        tables: Tensor,
        positions: Tensor,
        *,
        ops: Ops,
        longest: int,
        chunks: Sequence[PagedChunk] = (),
        scaled: Tensor | None = None,
    ):
        if ops.invariant:
            tables, positions, _ = as_rows(tables, positions, chunks)
            chunks = ()
            assert cache.max_length == ops.block_size and scaled is None
        self.positions, self.scaled = positions, scaled
        self._cache, self._parts, self._ops = cache, list[Part](), ops
        if len(positions):
            self._parts.append(row_part(ops, cache, tables, positions, longest))
        self._num_rows, self._places = len(positions), None
        if chunks:
            self._parts += self._chunk_parts(cache, chunks)
            chunk_positions, blocks = _chunk_places(chunks, cache.max_length, cache.keys[0].device)
            self.positions = torch.cat((positions, chunk_positions))
            if scaled is not None:
                own = torch.tensor([chunk.scaled for chunk in chunks], device=scaled.device)
                lengths = torch.tensor([chunk.length for chunk in chunks], device=scaled.device)
                self.scaled = torch.cat((scaled, own.repeat_interleave(lengths)))
            self._places = cache.row_index(blocks, chunk_positions % cache.max_length)
            self._chunk_positions = chunk_positions

    def _chunk_parts(self, cache: KVCache, chunks: Sequence[PagedChunk]) -> list[Part]:
        return chunk_parts(self._ops, cache, chunks)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self._places is not None:  # before any row reads them
            new = k[self._num_rows :], v[self._num_rows :]
            self._cache.write(layer, self._places, *new, self._chunk_positions)
        if len(self._parts) == 1:
            return self._parts[0].mix(layer, q, k, v)
        outputs, start = [], 0
        for part in self._parts:
            end = start + part.num_tokens
            outputs.append(part.mix(layer, q[start:end], k[start:end], v[start:end]))
            start = end
        return torch.cat(outputs)


def as_rows(
    tables: Tensor, positions: Tensor, chunks: Sequence[PagedChunk], scaled: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Table, position and setting of every token, those of the rows and then of the chunks, as if all were rows."""
    if not chunks:
        return tables, positions, scaled
    own = tables.new_zeros(len(chunks), tables.shape[1])
    for row, chunk in zip(own, chunks, strict=True):
        row[: len(chunk.blocks)] = torch.tensor(list(chunk.blocks), dtype=tables.dtype)
    lengths = torch.tensor([chunk.length for chunk in chunks])
    places = [torch.arange(chunk.start, chunk.start + chunk.length) for chunk in chunks]
    if scaled is not None:
        scaled = torch.cat((scaled, torch.tensor([chunk.scaled for chunk in chunks]).repeat_interleave(lengths)))
    return torch.cat((tables, own.repeat_interleave(lengths, 0))), torch.cat((positions, *places)), scaled


def _chunk_places(chunks: Sequence[PagedChunk], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Position and block, each [n], of every token of the chunks."""
    positions = [torch.arange(chunk.start, chunk.start + chunk.length) for chunk in chunks]
    blocks = [torch.tensor(list(c.blocks))[p // size] for c, p in zip(chunks, positions, strict=True)]
    return torch.cat(positions).to(device), torch.cat(blocks).to(device)
