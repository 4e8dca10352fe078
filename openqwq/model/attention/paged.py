"""Attention over a paged cache: the rows that decode and the chunks that are computed, in one pass of the decoder.

The cache is a `KVCache` whose slots are blocks: `max_length` tokens of one sequence. Block tables say which blocks
hold a sequence's tokens, in their order. Every layer stores all new keys and values before it mixes, so that a row
may read what a chunk of the same pass has written.

Letters: N tokens, R rows that decode, W blocks a table, P tokens a block, H heads, K kv heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..invariant import INVARIANT_BLOCK, attend_rows
from ..kv_cache import KVCache, widen
from ..native import MAX_BLOCK, MAX_GROUP, MAX_HEAD_DIM, native_kernels, rounded_kernels
from .packed import PackedAttention, mix_by_products, mix_fused


@dataclass(frozen=True, slots=True)
class PagedChunk:
    """Tokens of one sequence from position `start` on; `blocks` hold everything up to the last of them.

    scaled: whether YaRN is for this sequence, where rows say so too.
    """

    start: int
    length: int
    blocks: Sequence[int]
    scaled: bool = False


class PagedAttention:
    """First one token for each of R rows, then the chunks' tokens, in the flat row of tokens.

    tables:    [R, W] int32 on the cache's device; entries beyond a row's own blocks must be valid block numbers.
    positions: [R] where each row's token goes.
    longest:   the largest of `positions` + 1.
    scaled:    [R] which rows YaRN is for; None: all tokens are turned as the model's config says.
    native, triton: whether a CPU's C kernel, or a GPU's Triton kernels, may be taken.
    invariant: every token is a row of the C kernel, as the batch-invariant mode wants it (invariant.py).
    """

    def __init__(
        self,
        cache: KVCache,
        tables: Tensor,
        positions: Tensor,
        *,
        longest: int,
        chunks: Sequence[PagedChunk] = (),
        scaled: Tensor | None = None,
        native: bool = True,
        triton: bool = True,
        invariant: bool = False,
    ):
        if invariant:
            tables, positions, _ = as_rows(tables, positions, chunks)
            chunks, native = (), True
            assert _runs_native(cache) and cache.max_length == INVARIANT_BLOCK and scaled is None
        self.positions, self.scaled = positions, scaled
        self._cache, self._parts = cache, list[_Part]()
        on_gpu = triton and _runs_triton(cache)
        if len(positions):
            if native and _runs_native(cache):
                rows: _Part = _NativeRows(cache, tables, positions, longest)
            else:
                rows = (_triton_rows if on_gpu else _GatheredRows)(cache, tables, positions, longest)
            self._parts.append(rows)
        self._num_rows, self._places = len(positions), None
        if chunks:
            self._parts += self._chunk_parts(cache, chunks, on_gpu)
            chunk_positions, blocks = _chunk_places(chunks, cache.max_length, cache.keys[0].device)
            self.positions = torch.cat((positions, chunk_positions))
            if scaled is not None:
                own = torch.tensor([chunk.scaled for chunk in chunks], device=scaled.device)
                lengths = torch.tensor([chunk.length for chunk in chunks], device=scaled.device)
                self.scaled = torch.cat((scaled, own.repeat_interleave(lengths)))
            self._places = cache.row_index(blocks, chunk_positions % cache.max_length)

    def _chunk_parts(self, cache: KVCache, chunks: Sequence[PagedChunk], on_gpu: bool) -> list[_Part]:
        return _chunk_parts(cache, chunks, on_gpu)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self._places is not None:  # before any row reads them
            self._cache.write(layer, self._places, k[self._num_rows :], v[self._num_rows :])
        if len(self._parts) == 1:
            return self._parts[0].mix(layer, q, k, v)
        outputs, start = [], 0
        for part in self._parts:
            end = start + part.num_tokens
            outputs.append(part.mix(layer, q[start:end], k[start:end], v[start:end]))
            start = end
        return torch.cat(outputs)


class _Part(Protocol):
    """Some consecutive tokens and how they are mixed: [n, H*D] from q [n, H, D] and their own k and v [n, K, D].

    Rows store their keys and values themselves; those of chunks are in the cache before.
    """

    num_tokens: int

    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


class _NativeRows(_Part):
    """Rows by the C kernels: each reads its own blocks, in place, and widens one at a time what is rounded."""

    def __init__(self, cache: KVCache, tables: Tensor, positions: Tensor, longest: int):
        self.num_tokens = len(positions)
        self._cache, self._tables, self._positions = cache, tables.contiguous(), positions.contiguous()

    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        cache = self._cache
        if cache.rounds:
            scales = cache.key_scales[layer], cache.value_scales[layer]
            return attend_rounded(q, k, v, keys, values, scales, self._tables, self._positions)
        return attend_rows(q, k, v, keys, values, self._tables, self._positions)


class _GatheredRows(_Part):
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
        self._places = cache.row_index(blocks, positions % size)
        self._mixer = mix_by_products if store.device.type == "cpu" else mix_fused

    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._cache.write(layer, self._places, k, v)
        q = q.reshape(-1, q.shape[1] // k.shape[1], q.shape[2])  # [R*K, G, D]
        keys = self._side_by_side(self._cache.keys[layer], self._cache.key_scales[layer])
        values = self._side_by_side(self._cache.values[layer], self._cache.value_scales[layer])
        return self._mixer(q, keys, values, self._mask).reshape(self.num_tokens, -1)

    def _side_by_side(self, store: Tensor, scales: Tensor | None) -> Tensor:
        """[blocks, K, P, D] -> [R*K, W*P, D]."""
        rows = store.flatten(0, 1).index_select(0, self._index)
        own = None if scales is None else scales.flatten(0, 1).index_select(0, self._index)
        return widen(rows, own, self._cache.dtype).view(len(self._mask), -1, store.shape[-1])


class _FirstChunks(_Part):
    """Chunks from position 0 on: they see nothing but themselves, so the cache is not read."""

    def __init__(self, cache: KVCache, chunks: Sequence[PagedChunk]):
        self.num_tokens, self._cache = sum(chunk.length for chunk in chunks), cache
        self._packed = PackedAttention([chunk.length for chunk in chunks], device=cache.keys[0].device)

    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._packed.attend(layer, q, self._cache.as_read(k), self._cache.as_read(v))


class _LaterChunk(_Part):
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
        keys = self._in_order(cache.keys[layer], cache.key_scales[layer])[None]
        values = self._in_order(cache.values[layer], cache.value_scales[layer])[None]
        query = q.transpose(0, 1)[None]
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=self._mask, enable_gqa=True)
        return mixed[0].transpose(0, 1).flatten(1)

    def _in_order(self, store: Tensor, scales: Tensor | None) -> Tensor:
        """[blocks, K, P, D] -> [K, end, D]."""
        own = widen(store[self._blocks], None if scales is None else scales[self._blocks], self._cache.dtype)
        return own.transpose(0, 1).flatten(1, 2)[:, : self._end]


def attend_rounded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    scales: tuple[Tensor | None, Tensor | None],
    tables: Tensor,
    positions: Tensor,
) -> Tensor:
    """As `attend_rows`, over keys and values that are kept rounded, with their scales if they have some: [N, H*D]."""
    kernels = rounded_kernels()
    assert kernels is not None
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    tensors = (q, k, v, keys, values, tables, positions, out, *scales)
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    sizes = (len(q), tables.shape[1], q.shape[1], k.shape[1], q.shape[2], keys.shape[2])
    kernels.attend_rounded(*pointers, *sizes, torch.get_num_threads())
    return out.flatten(1)


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


def _runs_native(cache: KVCache) -> bool:
    store = cache.keys[0]
    fits = store.shape[2] <= MAX_BLOCK and store.shape[3] <= MAX_HEAD_DIM and cache.group_size <= MAX_GROUP
    if store.device.type != "cpu" or cache.dtype != torch.float32 or not fits:
        return False
    if cache.rounds:
        return cache.storage_dtype in (torch.int8, torch.bfloat16) and rounded_kernels() is not None
    return native_kernels() is not None


def _runs_triton(cache: KVCache) -> bool:
    return cache.keys[0].device.type == "cuda" and find_spec("triton") is not None


def _triton_rows(cache: KVCache, tables: Tensor, positions: Tensor, longest: int) -> _Part:
    from ..triton_attention import TritonRows  # Triton compiles for the GPU that is there: never loaded without one

    return TritonRows(cache, tables, positions)


def _chunk_parts(cache: KVCache, chunks: Sequence[PagedChunk], on_gpu: bool) -> list[_Part]:
    """The parts of chunks that come in order: first chunks before later ones."""
    first = [chunk for chunk in chunks if chunk.start == 0]
    if any(chunk.start for chunk in chunks[: len(first)]):
        raise ValueError("chunks from position 0 on must come before the others")
    if on_gpu and cache.dtype == torch.float32:
        first = []  # PyTorch's fused kernels are for 16 bits: in float32 it would hold all scores
    parts: list[_Part] = [_FirstChunks(cache, first)] if first else []
    later = chunks[len(first) :]
    if on_gpu and later:
        from ..triton_attention import TritonChunks

        return [*parts, TritonChunks(cache, later)]
    return parts + [_LaterChunk(cache, chunk) for chunk in later]


def _chunk_places(chunks: Sequence[PagedChunk], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Position and block, each [n], of every token of the chunks."""
    positions = [torch.arange(chunk.start, chunk.start + chunk.length) for chunk in chunks]
    blocks = [torch.tensor(list(c.blocks))[p // size] for c, p in zip(chunks, positions, strict=True)]
    return torch.cat(positions).to(device), torch.cat(blocks).to(device)
