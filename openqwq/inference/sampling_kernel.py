"""`sample` for a CPU as one call of C (model/sample.c), which also moves the rows on.

The tokens are those of `sampling.sample` up to rounding at the edge between two of them, and depend on their own row
alone. What it is not made for is left to `sample`: guesses, cuts in the batch-invariant mode, and cuts that rank more
than MAX_TOP_K tokens.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from openqwq.model.invariant import token_logprobs
from openqwq.model.native import sampling_kernels

from .sampling.sampler import COLUMNS, SamplingTable

MAX_TOP_K = 1024  # sample.c's
MAX_VOCAB = 256 * 4096


class _Settings(ctypes.Structure):
    """`settings` of sample.c."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in COLUMNS)


class SamplingKernel:
    """Samples for the rows of one table; make it by `of`."""

    def __init__(self, table: SamplingTable):
        kernels = sampling_kernels()
        assert kernels is not None
        self._table, self._call = table, kernels.sample_rows
        self._settings = _Settings(*(getattr(table, name).data_ptr() for name in COLUMNS))
        self._logprobs = torch.empty(len(table.keys))

    @classmethod
    def of(cls, table: SamplingTable) -> SamplingKernel | None:
        """None on other devices and without a C compiler."""
        on_cpu = table.keys.device.type == "cpu" and table.vocab_size <= MAX_VOCAB
        return cls(table) if on_cpu and sampling_kernels() is not None else None

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
