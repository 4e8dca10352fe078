"""Which tokens see which: attention contexts, one a way of running the decoder.

The decoder's layers know tokens only as one flat row of N; the context that is handed in gives each token its
position and mixes tokens. Four of them:

- `PackedAttention`   documents end to end, each causal within itself (training, plain forward)
- `PrefillAttention`  the same, and the keys and values go into cache slots
- `ExtendAttention`   more tokens for sequences that already are in the cache (a second turn, a prompt in chunks)
- `DecodeAttention`   one new token for each of B cached sequences

Letters: N tokens, B rows, T tokens a row, H heads, K kv heads, G = H / K, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..documents import Documents
from ..kv_cache import KVCache

BUCKET_RATIO = 0.8  # documents shorter than this share of their bucket's longest start a new bucket


class AttentionContext(Protocol):
    """positions: [N], where each token stands in its own document; what the rotary embedding turns by.

    A context may also have `scaled`, [N] or None: which tokens YaRN is for (rope.py).
    """

    positions: Tensor

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Mixed values [N, H*D] from rotated q [N, H, D], k and v [N, K, D] of one layer."""
        ...


class PackedAttention:
    """Documents of the given lengths lie end to end; each token sees its own document up to itself.

    On a CPU in float32 they are mixed by `Documents`. Elsewhere a mask over N x N tokens would cost N^2; instead
    documents of similar length are gathered into padded batches and go through the causal kernel together. Lengths are
    host numbers, so a compiled layer sees constants.
    """

    def __init__(self, lengths: Sequence[int], *, device: torch.device | str = "cpu"):
        sizes = np.asarray(lengths, dtype=np.int64)
        if sizes.ndim != 1 or not len(sizes) or sizes.min() < 1:
            raise ValueError("document lengths must be a non-empty list of positive numbers")
        self.num_tokens = int(sizes.sum())
        starts = np.cumsum(sizes) - sizes
        self.positions = torch.from_numpy(np.arange(self.num_tokens) - np.repeat(starts, sizes)).to(device)
        self.buckets = _bucket(sizes)
        gather, inverse = _padded_index(sizes, starts, self.buckets)
        in_place = len(gather) == self.num_tokens and bool((gather == np.arange(self.num_tokens)).all())
        self._gather = None if in_place else torch.from_numpy(gather).to(device)
        self._inverse = torch.from_numpy(inverse).to(device)
        self.documents = Documents(lengths)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.documents.fits(q, k):
            return self.documents.mix(q, k, v)
        q, k, v = self._pad(q), self._pad(k), self._pad(v)
        outputs, offset = [], 0
        for documents, longest in self.buckets:
            end = offset + len(documents) * longest
            out = _causal(*(x[offset:end].unflatten(0, (len(documents), longest)) for x in (q, k, v)))
            outputs.append(out.flatten(0, 1))
            offset = end
        mixed = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return mixed if self._gather is None else _Unpad.apply(mixed, self._inverse)

    def _pad(self, x: Tensor) -> Tensor:
        return x if self._gather is None else _Pad.apply(x, self._gather, self._inverse)


class SharedRows:
    """Documents that begin alike, their common tokens computed once: only attention sees them spread out.

    apart: mixes the spread tokens of the documents, whose lengths these are; exact: by it alone, even where they need
    not be spread. rows: [E] the row of each spread token. firsts: [N] a spread place of each row.
    """

    def __init__(
        self, apart: AttentionContext, lengths: Sequence[int], rows: Tensor, firsts: Tensor, *, exact: bool = False
    ):
        self.positions = apart.positions[firsts]
        self._apart, self._rows, self._firsts, self._exact = apart, rows, firsts, exact
        self._documents = Documents(lengths, (rows, firsts))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        spread = partial(self._spread, layer)
        if self._documents.fits(q, k):
            return self._documents.mix(q, k, v, by=spread if self._exact else None)
        return spread(q, k, v)

    def _spread(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        spread = (x.index_select(0, self._rows) for x in (q, k, v))
        return self._apart.attend(layer, *spread).index_select(0, self._firsts)


class PrefillAttention(PackedAttention):
    """Prompts end to end, written to the given cache slots from position 0 on."""

    def __init__(self, lengths: Sequence[int], cache: KVCache, slots: Sequence[int]):
        device = cache.keys[0].device
        super().__init__(lengths, device=device)
        _check_fits(cache, slots, max(lengths))
        self._cache = cache
        slot_of_token = torch.from_numpy(np.repeat(np.asarray(slots, dtype=np.int64), lengths)).to(device)
        self._rows = cache.row_index(slot_of_token, self.positions)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._cache.write(layer, self._rows, k, v)
        return super().attend(layer, q, k, v)


class ExtendAttention:
    """Tokens appended to cached sequences: row i brings `lengths[i]` tokens, from position `starts[i]` on.

    Sequences are mixed one after another: made for a few long ones.
    """

    def __init__(self, lengths: Sequence[int], starts: Sequence[int], cache: KVCache, slots: Sequence[int]):
        device = cache.keys[0].device
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        _check_fits(cache, slots, max(ends))
        self._cache, self._slots, self._ends, self._lengths = cache, list(slots), ends, list(lengths)
        ranges = [torch.arange(start, end, device=device) for start, end in zip(starts, ends, strict=True)]
        self.positions = torch.cat(ranges)
        self._masks = [torch.arange(end, device=device) <= row[:, None] for row, end in zip(ranges, ends, strict=True)]
        slot_of_token = torch.from_numpy(np.repeat(np.asarray(slots, dtype=np.int64), lengths)).to(device)
        self._rows = cache.row_index(slot_of_token, self.positions)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._cache.write(layer, self._rows, k, v)
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        outputs = []
        for slot, end, mask, rows in zip(self._slots, self._ends, self._masks, q.split(self._lengths), strict=True):
            past = keys[slot : slot + 1, :, :end], values[slot : slot + 1, :, :end]
            mixed = F.scaled_dot_product_attention(rows.transpose(0, 1)[None], *past, attn_mask=mask, enable_gqa=True)
            outputs.append(mixed[0].transpose(0, 1).flatten(1))
        return torch.cat(outputs)


class DecodeAttention:
    """One new token a row, stored at its own position; it sees its own sequence up to there.

    positions: [B], where each new token goes: the number of tokens that its slot holds already.
    slots:     the cache slot of each row; None means slots 0 to B-1, which need no copy of the cache.
    longest:   the largest position + 1, when the caller knows it; otherwise it is read from `positions`.
    """

    def __init__(
        self, cache: KVCache, positions: Tensor, *, slots: Sequence[int] | None = None, longest: int | None = None
    ):
        device = cache.keys[0].device
        self.positions = positions.to(device)
        self._longest = int(positions.max()) + 1 if longest is None else longest
        _check_fits(cache, range(len(positions)) if slots is None else slots, self._longest)
        self._cache = cache
        self._slots = None if slots is None else torch.as_tensor(list(slots), device=device)
        rows = torch.arange(len(positions), device=device) if self._slots is None else self._slots
        self._rows = cache.row_index(rows, self.positions)
        hidden = torch.arange(self._longest, device=device) > self.positions[:, None]
        kv_heads = cache.keys[0].shape[1]
        mask = torch.zeros(hidden.shape, dtype=cache.keys[0].dtype, device=device).masked_fill_(hidden, -torch.inf)
        self._mask = mask.repeat_interleave(kv_heads, 0)[:, None]  # [B*K, 1, longest]
        # The fused CPU kernel is made for many queries and takes up to twice the time for these few.
        self._mix = mix_by_products if device.type == "cpu" else mix_fused

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._cache.write(layer, self._rows, k, v)
        q = q.view(-1, q.shape[1] // k.shape[1], q.shape[2])  # [B*K, G, D]: the G heads of one kv head are its queries
        keys, values = self._past(self._cache.keys[layer]), self._past(self._cache.values[layer])
        return self._mix(q, keys, values, self._mask).reshape(len(self.positions), -1)

    def _past(self, store: Tensor) -> Tensor:
        """[S, K, M, D] -> [B*K, longest, D], a view of the cache when the rows are its first slots."""
        rows = store[: len(self.positions)] if self._slots is None else store[self._slots]
        return rows.flatten(0, 1)[:, : self._longest]


def mix_by_products(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention of q [X, G, D] over keys and values [X, T, D] with an additive mask [X, 1, T]: [X, G, D]."""
    scores = torch.baddbmm(mask, q, keys.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(-1), values)


def mix_fused(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """The same as `mix_by_products`, in one kernel."""
    return F.scaled_dot_product_attention(q[None], keys[None], values[None], attn_mask=mask[None])[0]


class _Pad(torch.autograd.Function):
    """Rows of x in padded order. Padding rows repeat a real row, and get no gradient: no output depends on them."""

    @staticmethod
    def forward(ctx, x: Tensor, gather: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, gather)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Unpad(torch.autograd.Function):
    """The real rows of a padded x in packed order. The rows are distinct: backward is a copy, not a sum."""

    @staticmethod
    def forward(ctx, x: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.num_rows = len(x)
        return x.index_select(0, inverse)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        padded = grad.new_zeros((ctx.num_rows, *grad.shape[1:]))
        return padded.index_copy_(0, ctx.saved_tensors[0], grad), None


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of q [B, T, H, D] over k and v [B, T, K, D]: [B, T, H*D]."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)


def _bucket(sizes: np.ndarray) -> list[tuple[list[int], int]]:
    """Documents of similar length together: (their numbers in packed order, the longest length) a bucket."""
    buckets: list[tuple[list[int], int]] = []
    for document in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[document])
        if not buckets or size < BUCKET_RATIO * buckets[-1][1]:
            buckets.append(([], size))
        buckets[-1][0].append(document)
    return [(sorted(documents), longest) for documents, longest in buckets]


def _padded_index(
    sizes: np.ndarray, starts: np.ndarray, buckets: list[tuple[list[int], int]]
) -> tuple[np.ndarray, np.ndarray]:
    """(packed row of each padded row, padded row of each packed row); padding repeats a document's last row."""
    gather = []
    inverse = np.empty(int(sizes.sum()), dtype=np.int64)
    offset = 0
    for documents, longest in buckets:
        first, size = starts[documents][:, None], sizes[documents][:, None]
        rows = first + np.minimum(np.arange(longest), size - 1)  # [documents, longest]
        real = np.arange(longest) < size
        inverse[rows[real]] = offset + np.flatnonzero(real)
        gather.append(rows.ravel())
        offset += rows.size
    return np.concatenate(gather), inverse


def _check_fits(cache: KVCache, slots: Sequence[int], end: int) -> None:
    if cache.rounds:
        raise ValueError(f"a cache in {cache.storage_dtype} is read by PagedAttention only")
    if end > cache.max_length:
        raise ValueError(f"a sequence of {end} tokens does not fit into cache slots of {cache.max_length}")
    if len(slots) and (min(slots) < 0 or max(slots) >= cache.num_slots):
        raise ValueError(f"slots {min(slots)} to {max(slots)} are not within a cache of {cache.num_slots}")
