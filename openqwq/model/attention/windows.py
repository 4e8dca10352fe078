"""Windowed attention over a paged cache: a token sees the first blocks of its sequence and the last ones up to itself.

Windows are counted in blocks, as the cache is. With S blocks of sinks and a window of W blocks, the token at position i
sees the one at j <= i if j // P < S or i // P - j // P < W. So what a row sees is a block table: its own, with what it
cannot see left out. Every kernel that reads block tables runs it as it is. Keys are rotated by
their positions, and nothing else depends on where a token stands.

Layers with the same window are cut into bands of equally many layers. A band has tables of its own; a page of the cache
holds one block of one band. So any band may use any page, and a page that a band's window has left is free at once.

Letters: N tokens, R rows, B bands, W blocks a table, P tokens a block, H heads, K kv heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openqwq.errors import UserError

from ..kv_cache import KVCache, widen
from .context import PagedChunk, Part
from .paged import PagedAttention
from .parts import chunk_parts

NOBODYS_PAGE = 0  # what is written there is never read
QUERIES_AT_ONCE = 512  # of a chunk: each such run reads only what the window of its tokens reaches


@dataclass(frozen=True, slots=True)
class AttentionWindows:
    """How far back each layer sees, in tokens, its own block included; None: to the beginning.

    sinks: tokens at the beginning that every layer sees (arXiv:2309.17453).
    Both are rounded up to whole blocks of the cache.
    """

    layers: tuple[int | None, ...]
    sinks: int = 16

    def __post_init__(self) -> None:
        if self.sinks < 0 or any(window is not None and window < 1 for window in self.layers):
            raise UserError("attention windows must be at least 1 token, and sinks at least 0")


@dataclass(frozen=True, slots=True)
class Band:
    """Layers with tables of their own. sinks, window: in blocks; a window of None has no end, and no sinks either."""

    layers: tuple[int, ...]
    sinks: int = 0
    window: int | None = None

    def hides_from(self, block: int) -> bool:
        """Whether tokens of that block of a sequence, counted from 0, do not see some block before it."""
        return self.window is not None and block >= self.sinks + self.window

    def first_seen(self, block: int) -> int:
        """The earliest block behind the sinks that tokens of a block see."""
        return 0 if self.window is None else max(self.sinks, block - self.window + 1)


def bands_of(windows: AttentionWindows, block_size: int) -> list[Band]:
    """Bands of equally many layers: as many as divides the number of layers of every window."""
    classes: dict[int | None, list[int]] = {}
    for layer, window in enumerate(windows.layers):
        classes.setdefault(None if window is None else -(-window // block_size), []).append(layer)
    size, sinks = gcd(*map(len, classes.values())), -(-windows.sinks // block_size)
    return [
        Band(tuple(layers[start : start + size]), 0 if window is None else sinks, window)
        for window, layers in classes.items()
        for start in range(0, len(layers), size)
    ]


class PageMap:
    """Which page holds which block of which band, for host and device; NOBODYS_PAGE: none does.

    assignments: (band, block, page) that are not entered yet; whoever hands out pages appends to it.
    """

    def __init__(self, bands: Sequence[Band], num_blocks: int, device: torch.device):
        self.bands, self.assignments = list(bands), list[tuple[int, int, int]]()
        self.host = np.full((len(bands), num_blocks), NOBODYS_PAGE, dtype=np.int32)
        own = torch.from_numpy(self.host)
        self.device = own if device.type == "cpu" else own.to(device)

    def update(self) -> None:
        """Enter the assignments, later ones over earlier ones."""
        if not self.assignments:
            return
        latest = {(band, block): page for band, block, page in self.assignments}
        self.assignments.clear()
        bands, blocks = np.array(list(latest)).T
        self.host[bands, blocks] = list(latest.values())
        if self.device.device.type != "cpu":
            places = (torch.from_numpy(index).to(self.device.device) for index in (bands, blocks))
            values = torch.tensor(list(latest.values()), dtype=torch.int32, device=self.device.device)
            self.device.index_put_(tuple(places), values)


class WindowedAttention:
    """As `PagedAttention`, over a cache of pages: each layer is mixed by its band's own.

    tables: [R, W] block numbers; `pages` says where each band has them.
    """

    def __init__(
        self,
        cache: KVCache,
        pages: PageMap,
        tables: Tensor,
        positions: Tensor,
        *,
        longest: int,
        chunks: Sequence[PagedChunk] = (),
        **options: Any,
    ):
        self._of_layer: dict[int, tuple[PagedAttention, int]] = {}
        for number, band in enumerate(pages.bands):
            places, seen, reach = _seen_blocks(band, tables, positions, longest, cache.max_length)
            own = [PagedChunk(c.start, c.length, pages.host[number, list(c.blocks)].tolist(), c.scaled) for c in chunks]
            where = pages.device[number][places.long()]
            context = _BandAttention(cache, where, seen, longest=reach, chunks=own, band=band, **options)
            self._of_layer |= {layer: (context, index) for index, layer in enumerate(band.layers)}
        self.scaled = context.scaled
        every = [torch.arange(c.start, c.start + c.length, device=positions.device) for c in chunks]
        self.positions = torch.cat((positions, *every)) if chunks else positions

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        context, index = self._of_layer[layer]
        return context.attend(index, q, k, v)


def _seen_blocks(
    band: Band, tables: Tensor, positions: Tensor, longest: int, block_size: int
) -> tuple[Tensor, Tensor, int]:
    """The table of what each row sees [R, W'], the row's position in it [R], and the longest of those + 1."""
    width = -(-longest // block_size)
    if not band.hides_from(width - 1):
        return tables[:, :width], positions, longest
    assert band.window is not None
    most = band.sinks + band.window
    left_out = (positions // block_size - most + 1).clamp(min=0)  # [R] blocks
    columns = torch.arange(most, device=tables.device)
    columns = torch.where(columns < band.sinks, columns, columns + left_out[:, None])
    return tables.gather(1, columns), positions - left_out * block_size, most * block_size


class _BandAttention(PagedAttention):
    """`PagedAttention` of one band, in whose chunks some tokens do not see some."""

    def __init__(self, *args: Any, band: Band, **options: Any):
        self._band = band
        super().__init__(*args, **options)

    def _chunk_parts(self, cache: KVCache, chunks: Sequence[PagedChunk]) -> list[Part]:
        if not any(self._hides(cache, chunk) for chunk in chunks):
            return chunk_parts(self._ops, cache, chunks)
        parts: list[Part] = []
        for chunk in chunks:
            hides = self._hides(cache, chunk)
            parts += [_WindowedChunk(cache, chunk, self._band)] if hides else chunk_parts(self._ops, cache, [chunk])
        return parts

    def _hides(self, cache: KVCache, chunk: PagedChunk) -> bool:
        return self._band.hides_from((chunk.start + chunk.length - 1) // cache.max_length)


class _WindowedChunk(Part):
    """A chunk of which some tokens do not see all before them: what its first token sees, and its own keys."""

    def __init__(self, cache: KVCache, chunk: PagedChunk, band: Band):
        size, device = cache.max_length, cache.keys[0].device
        self.num_tokens, self._cache, self._band, self._start = chunk.length, cache, band, chunk.start
        known = torch.arange(chunk.start)
        blocks = known // size
        seen = (blocks < band.sinks) | (blocks >= band.first_seen(chunk.start // size))
        pages = torch.tensor(list(chunk.blocks))[blocks[seen]]
        self._past = cache.row_index(pages.to(device), (known[seen] % size).to(device))
        self._at = torch.cat((known[seen], torch.arange(chunk.start, chunk.start + chunk.length)))  # of each key

    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys = self._with_past(k, self._cache.keys[layer], self._cache.key_scales[layer])
        values = self._with_past(v, self._cache.values[layer], self._cache.value_scales[layer])
        outputs = []
        for start in range(0, self.num_tokens, QUERIES_AT_ONCE):
            own = torch.arange(start, min(start + QUERIES_AT_ONCE, self.num_tokens)) + self._start
            kept = self._reach(int(own[0]), int(own[-1]))
            mask = self._sees(own, self._at[kept]).to(q.device)
            kept = kept.to(q.device)
            query = q[start : start + QUERIES_AT_ONCE].transpose(0, 1)[None]
            mixed = F.scaled_dot_product_attention(
                query, keys[:, kept][None], values[:, kept][None], attn_mask=mask, enable_gqa=True
            )
            outputs.append(mixed[0].transpose(0, 1).flatten(1))
        return torch.cat(outputs)

    def _with_past(self, own: Tensor, store: Tensor, scales: Tensor | None) -> Tensor:
        """Keys or values of everything that any token of the chunk sees: [K, X, D]."""
        rows = store.view(-1, store.shape[-1]).index_select(0, self._past)
        scale = None if scales is None else scales.view(-1).index_select(0, self._past)
        past = widen(rows, scale, self._cache.dtype).unflatten(0, (-1, own.shape[1]))
        return torch.cat((past, self._cache.as_read(own))).transpose(0, 1)

    def _reach(self, first: int, last: int) -> Tensor:
        """Numbers [X'] of the keys that some token from position `first` to `last` sees."""
        size = self._cache.max_length
        seen = (self._at >= self._band.first_seen(first // size) * size) | (self._at < self._band.sinks * size)
        return (seen & (self._at <= last)).nonzero()[:, 0]

    def _sees(self, queries: Tensor, keys: Tensor) -> Tensor:
        """[n, X'] which key each query sees."""
        assert self._band.window is not None
        mine, its = queries[:, None] // self._cache.max_length, keys // self._cache.max_length
        return (keys <= queries[:, None]) & ((its < self._band.sinks) | (mine - its < self._band.window))
