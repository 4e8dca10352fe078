"""Where documents lie that are laid end to end, possibly with a beginning that several of them share.

Public: Documents, Padding.
Letters: R rows, E tokens, S documents, W blocks a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

BUCKET_RATIO = 0.8  # documents shorter than this share of their bucket's longest start a new bucket


@dataclass(frozen=True, slots=True)
class Padding:
    """Documents of similar length gathered into padded batches.

    buckets: (number of documents, longest length) of each batch. gather: packed row of each padded row, None where
    they are the same. inverse: padded row of each packed row. Padding repeats a document's last row.
    """

    buckets: list[tuple[int, int]]
    gather: Tensor | None
    inverse: Tensor


class Documents:
    """Documents of the given lengths, laid end to end; what every attention kernel for training reads.

    lengths: [S]. shared: for documents that begin alike, the row of each of their E tokens, and one place [R] of each
    row among the tokens; None: each token is a row.
    Raises ValueError unless every length is positive.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        shared: tuple[Tensor, Tensor] | None = None,
        *,
        device: torch.device | str = "cpu",
    ):
        self.sizes = np.asarray(lengths, dtype=np.int64)
        if self.sizes.ndim != 1 or not len(self.sizes) or self.sizes.min() < 1:
            raise ValueError("document lengths must be a non-empty list of positive numbers")
        self.shared, self.device = shared, torch.device(device)
        self.num_tokens = int(self.sizes.sum())
        self.starts = np.cumsum(self.sizes) - self.sizes
        places = torch.from_numpy(np.arange(self.num_tokens) - np.repeat(self.starts, self.sizes)).to(device)
        self.token_positions = places  # [E]
        self.positions = places if shared is None else places[shared[1]]  # [R]

    @cached_property
    def apart(self) -> Documents:
        """The same documents with a row for each token."""
        return self if self.shared is None else Documents(self.sizes.tolist(), device=self.device)

    @cached_property
    def groups(self) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Rows [E], (starts, lengths, begins) in the order of their first row, and where each group begins.

        Documents of a group share rows; `begins` is where a document's own rows begin.
        """
        rows, begins = np.arange(self.num_tokens), np.zeros_like(self.sizes)
        if self.shared is not None:
            rows = self.shared[0].cpu().numpy()
            own = np.zeros(len(rows), dtype=bool)
            own[self.shared[1].cpu().numpy()] = True
            begins = self.sizes - np.add.reduceat(own, self.starts)
            alone = np.arange(len(own)) - np.repeat(self.starts, self.sizes) >= np.repeat(begins, self.sizes)
            assert (alone == own).all(), "documents share rows at their beginnings only"
        order = np.argsort(rows[self.starts], kind="stable")
        firsts = np.flatnonzero(np.diff(rows[self.starts][order], prepend=-1))
        columns = [np.ascontiguousarray(column[order]) for column in (self.starts, self.sizes, begins)]
        return rows, columns, np.append(firsts, len(self.sizes))

    @cached_property
    def padding(self) -> Padding:
        """Batches of similar length: a mask over E x E tokens would cost E^2."""
        buckets = _bucket(self.sizes)
        gather, inverse = _padded_index(self.sizes, self.starts, buckets)
        in_place = len(gather) == self.num_tokens and bool((gather == np.arange(self.num_tokens)).all())
        return Padding(
            [(len(documents), longest) for documents, longest in buckets],
            None if in_place else torch.from_numpy(gather).to(self.device),
            torch.from_numpy(inverse).to(self.device),
        )

    def block_tables(self, block_size: int) -> tuple[int, Tensor]:
        """The number of blocks that hold the tokens, each document in blocks of its own, and each token's table [E, W].

        As in the engine's cache: entries beyond a document's blocks are 0.
        """
        blocks = -(-self.sizes // block_size)
        firsts = np.cumsum(blocks) - blocks
        columns = np.arange(int(blocks.max()))
        tables = np.where(columns < blocks[:, None], firsts[:, None] + columns, 0).astype(np.int32)
        return int(blocks.sum()), torch.from_numpy(np.repeat(tables, self.sizes, 0))


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
