"""The decoder for rows of one token each that suits the device: C on a CPU, Triton in CUDA graphs on a GPU.

Public: RowDecoder, row_decoder.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol

from torch import Tensor

from ..decoder import Qwen2ForCausalLM
from ..kv_cache import KVCache
from .cpu import DecodeKernel


class RowDecoder(Protocol):
    """The whole decoder for at most `max_rows` tokens, each of a sequence in the cache (see `DecodeKernel`).

    takes_chunks: whether tokens of one call may follow each other in one sequence, so that chunks are rows, too.
    """

    max_rows: int
    takes_chunks: bool

    def look(self) -> bool:
        """Find the weights; False where the decoder must not be used with the model as it is now."""

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


def row_decoder(
    model: Qwen2ForCausalLM, cache: KVCache, *, both_settings: bool = False, max_rows: int
) -> RowDecoder | None:
    """None where there is none for the model's device, dtype, cache or shape.

    both_settings: tokens come with YaRN and without. max_rows: that a GPU's batches will have, about.
    """
    if model.device.type == "cuda" and find_spec("triton"):
        from .cuda import CudaDecoder  # Triton compiles for the GPU that is there

        return CudaDecoder.of(model, cache, both_settings=both_settings, max_rows=max_rows)
    return DecodeKernel.of(model, cache, both_settings=both_settings)
