"""Attention within documents that lie end to end, for training on a CPU in float32, as one call of C (documents.c).

PyTorch's operators want padded batches, and a prompt that documents share for each of them. Here queries meet keys as
products of matrices, and rows are read where they are. One thread takes each sum, in one order: the number of threads
changes no bit.

Public: Documents.
Letters: R rows, E tokens, S documents, H heads, K kv heads, D head dim.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .native import MAX_GROUP, document_kernels

Mixes = Callable[[Tensor, Tensor, Tensor], Tensor]


class _Documents(ctypes.Structure):
    """`documents` of documents.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("rows", "starts", "lengths", "begins", "groups")),
        ("num_groups", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("heads", "kv_heads", "dim")),
    )


class Documents:
    """Where each document's tokens are.

    lengths: [S]. shared: for documents that begin alike, the row of each of their E tokens, and one place [R] of each
    row among the tokens; None: each token is a row.
    """

    def __init__(self, lengths: Sequence[int], shared: tuple[Tensor, Tensor] | None = None):
        sizes = np.asarray(lengths, dtype=np.int64)
        starts = np.cumsum(sizes) - sizes
        self._rows, begins = np.arange(int(sizes.sum())), np.zeros_like(sizes)
        if shared is not None:
            self._rows = shared[0].cpu().numpy()
            own = np.zeros(len(self._rows), dtype=bool)
            own[shared[1].cpu().numpy()] = True
            begins = sizes - np.add.reduceat(own, starts)
            alone = np.arange(len(own)) - np.repeat(starts, sizes) >= np.repeat(begins, sizes)
            assert (alone == own).all(), "documents share rows at their beginnings only"
        order = np.argsort(self._rows[starts], kind="stable")
        firsts = np.flatnonzero(np.diff(self._rows[starts][order], prepend=-1))
        self._columns = [np.ascontiguousarray(column[order]) for column in (starts, sizes, begins)]
        self._groups = np.append(firsts, len(sizes))

    @staticmethod
    def fits(q: Tensor, k: Tensor) -> bool:
        """Whether the kernels take these."""
        plain = type(q) is Tensor and q.device.type == "cpu" and q.dtype == k.dtype == torch.float32
        return plain and q.shape[1] <= MAX_GROUP * k.shape[1] and document_kernels() is not None

    def mix(self, q: Tensor, k: Tensor, v: Tensor, by: Mixes | None = None) -> Tensor:
        """Every token's query meets the keys of its document up to itself: [R, H*D] from q [R, H, D], k, v [R, K, D].

        by: what computes it instead; the gradients are these documents' all the same.
        """
        forward = by or self._attend
        return _Mixed.apply(self, forward, q, k, v) if torch.is_grad_enabled() else forward(q, k, v)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out = torch.empty_like(q)
        kernels = document_kernels()
        assert kernels is not None
        self._call(kernels.attend_documents, q, k, v, out)
        return out.flatten(1)

    def _slopes(self, q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, grad = q.contiguous(), k.contiguous(), v.contiguous(), grad.contiguous()
        slopes = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        kernels = document_kernels()
        assert kernels is not None
        self._call(kernels.document_slopes, q, k, v, grad, *slopes)
        return slopes

    def _call(self, function: Callable[..., int], q: Tensor, k: Tensor, *others: Tensor) -> None:
        arrays = (self._rows, *self._columns, self._groups)
        sizes = (len(self._groups) - 1, q.shape[1], k.shape[1], q.shape[2])
        documents = _Documents(*(array.ctypes.data for array in arrays), *sizes)
        pointers = [tensor.data_ptr() for tensor in (q, k, *others)]
        if not function(ctypes.byref(documents), *pointers, torch.get_num_threads()):
            raise MemoryError("no memory for the attention of the longest document")


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, documents: Documents, forward: Mixes, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.documents = documents
        ctx.save_for_backward(q, k, v)
        return forward(q, k, v)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *ctx.documents._slopes(*ctx.saved_tensors, grad))
