"""What the decoder asks of attention: where tokens stand, and how their values are mixed.

Public: AttentionContext, PagedChunk, Part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class AttentionContext(Protocol):
    """positions: [N], where each token stands in its own document; what the rotary embedding turns by.

    A context may also have `scaled`, [N] or None: which tokens YaRN is for (rope.py).
    """

    positions: Tensor

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Mixed values [N, H*D] from rotated q [N, H, D], k and v [N, K, D] of one layer."""
        ...


@dataclass(frozen=True, slots=True)
class PagedChunk:
    """Tokens of one sequence from position `start` on; `blocks` hold everything up to the last of them.

    scaled: whether YaRN is for this sequence, where rows say so too.
    """

    start: int
    length: int
    blocks: Sequence[int]
    scaled: bool = False


class Part(Protocol):
    """Some consecutive tokens and how they are mixed: [n, H*D] from q [n, H, D] and their own k and v [n, K, D].

    Rows store their keys and values themselves; those of chunks are in the cache before.
    """

    num_tokens: int

    def mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...
