"""Sampling as a CUDA graph: some thirty small operators, which a GPU runs in less time than Python starts them.

Public: SampleGraphs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openqwq.kernels import Ops

from .sampler import SamplingTable, sample

MAX_ROWS = 16  # with more of them starting the operators is a small part of a step
MAX_GRAPHS = 32
SETTINGS = ("any_greedy", "any_temperature", "any_late_temperature", "any_min_p", "any_top_p", "any_top_k", "max_top_k")


@dataclass(slots=True)
class _Captured:
    """One combination of settings over one place in memory; `graph` is None until it comes for the second time."""

    graph: torch.cuda.CUDAGraph | None = None
    tokens: Tensor | None = None
    logprobs: Tensor | None = None


class SampleGraphs:
    """`sample` for the first rows of a table, one token each; on a GPU and for few rows captured and replayed."""

    def __init__(self, table: SamplingTable):
        self._table = table
        self._captured: dict[tuple, _Captured] = {}

    def __call__(self, logits: Tensor, ops: Ops) -> tuple[Tensor, Tensor]:
        """Token ids [R] and log-probs [R] from logits [R, V], which are overwritten; valid until the next call."""
        if logits.device.type != "cuda" or len(logits) > MAX_ROWS:
            return sample(logits, self._table, ops=ops)
        settings = [getattr(self._table, name) for name in SETTINGS]
        key = (logits.data_ptr(), logits.shape, logits.stride(), *settings)
        own = self._captured.get(key)
        if own is None:
            if len(self._captured) >= MAX_GRAPHS:
                self._captured.clear()
            self._captured[key] = _Captured()
            return sample(logits, self._table, ops=ops)
        if own.graph is None:
            self._capture(own, logits, ops)
        assert own.graph is not None and own.tokens is not None and own.logprobs is not None
        own.graph.replay()
        return own.tokens, own.logprobs

    def _capture(self, own: _Captured, logits: Tensor, ops: Ops) -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            own.tokens, own.logprobs = sample(logits, self._table, ops=ops)
        own.graph = graph
