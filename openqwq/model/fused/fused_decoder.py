"""The whole decoder in one call, for rows of one token each: C on a CPU, Triton in CUDA graphs on a GPU.

Public: FusedDecoder, fused_decoder.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..decoder import Decoder
from ..kv_cache import KVCache
from .cpu import CpuFusedDecoder


class FusedDecoder(Protocol):
    """The whole decoder for at most `max_rows` tokens, each of a sequence in the cache (see `CpuFusedDecoder`).

    takes_chunks: whether tokens of one call may follow each other in one sequence, so that chunks are rows, too.
    """

    max_rows: int
    takes_chunks: bool

    def bind_weights(self) -> bool:
        """Re-read the weight pointers; False if some layer is unsupported."""

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        tables: Tensor,
        longest: int,
        scaled: Tensor | None,
        num_logits: int | None = None,
    ) -> Tensor:
        """Logits [N, V] of tokens [N], valid until the next call; keys and values go into the cache.

        num_logits: where `takes_chunks`, how many of the first tokens' logits are wanted; None: all.
        """


def fused_decoder(model: Decoder, cache: KVCache, *, both_settings: bool = False, max_rows: int) -> FusedDecoder | None:
    """The pass that goes with the model's operations; None where none takes its dtype, cache or shape.

    both_settings: tokens come with YaRN and without. max_rows: that a GPU's batches will have, about.
    """
    if model.ops.fused == "triton":
        from .cuda import CudaFusedDecoder  # Triton compiles for the GPU that is there

        return CudaFusedDecoder.of(model, cache, both_settings=both_settings, max_rows=max_rows)
    if model.ops.fused == "cpu":
        return CpuFusedDecoder.of(model, cache, both_settings=both_settings)
    return None
