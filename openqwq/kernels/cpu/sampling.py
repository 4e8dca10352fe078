"""Sampling a token for each row on a CPU as one call of C (sample.c), which also advances the rows.

The tokens are those of the engine's `sample` up to rounding at the edge between two of them, and depend on their own
row alone. Not supported, and left to `sample`: a draft model's guesses, cuts where log-probs are batch-invariant, and
cuts that rank more than MAX_TOP_K tokens.

Public: SamplingKernel, SamplingSettings, COLUMNS.
"""

from __future__ import annotations

import ctypes
from typing import Protocol

import torch
from torch import Tensor

from .invariant import token_logprobs
from .library import kernels, library

MAX_TOP_K = 1024  # sample.c's
MAX_VOCAB = 256 * 4096


# In the order of `settings` in sample.c.
COLUMNS = ("keys", "top_k", "positions", "greedy", "temperature", "late_temperature", "top_p", "min_p")


class SamplingSettings(Protocol):
    """The settings of every slot: COLUMNS as tensors [S], and what the rows in use ask for."""

    keys: Tensor
    temperature: Tensor
    vocab_size: int
    any_temperature: bool
    any_top_k: bool
    any_top_p: bool
    any_min_p: bool
    any_late_temperature: bool
    max_ranked: int


class _Settings(ctypes.Structure):
    """`settings` of sample.c."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in COLUMNS)


class SamplingKernel:
    """Samples for the rows of one table; make it by `of`."""

    def __init__(self, table: SamplingSettings):
        self._table, self._call = table, kernels().sample_rows
        self._settings = _Settings(*(getattr(table, name).data_ptr() for name in COLUMNS))
        self._logprobs = torch.empty(len(table.keys))

    @classmethod
    def of(cls, table: SamplingSettings) -> SamplingKernel | None:
        """None on other devices, for larger vocabularies and without the C library."""
        on_cpu = table.keys.device.type == "cpu" and table.vocab_size <= MAX_VOCAB
        return cls(table) if on_cpu and library() is not None else None

    def fits(self, invariant: bool) -> bool:
        """Whether it can do what the rows in focus ask for; in the batch-invariant mode it cuts nothing."""
        table = self._table
        if invariant and (table.any_top_k or table.any_top_p or table.any_min_p or table.any_late_temperature):
            return False
        return table.max_ranked <= MAX_TOP_K

    def __call__(
        self, logits: Tensor, tokens: Tensor, places: Tensor, *, invariant: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Token ids [R] and their log-probs [R], valid until the next call, from logits [R, V] in fp32.

        tokens, places [S]: the rows' last tokens, which become the new ones, and where they go, which go on by one as
        the table's positions do. What `sample` says of log-probs and of `invariant` holds here.
        """
        assert logits.is_contiguous() and logits.dtype == torch.float32
        num_rows, vocab_size = logits.shape
        self._call(
            ctypes.byref(self._settings),
            logits.data_ptr(),
            num_rows,
            vocab_size,
            tokens.data_ptr(),
            self._logprobs.data_ptr(),
            places.data_ptr(),
            torch.get_num_threads(),
        )
        if invariant:
            if self._table.any_temperature:
                logits.div_(self._table.temperature[:num_rows, None])
            return tokens[:num_rows], token_logprobs(logits, tokens[:num_rows])[0]
        return tokens[:num_rows], self._logprobs[:num_rows]
