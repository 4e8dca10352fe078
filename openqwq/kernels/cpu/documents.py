"""Attention within documents that lie end to end, for training on a CPU in float32, as one call of C (documents.c).

PyTorch's operators need padded batches, and a prompt that documents share for each of them. Here queries meet keys as
products of matrices, and rows are read where they are. One thread takes each sum, in one order: the number of threads
changes no bit.

Public: attend_documents, mix_documents, fits.
Letters: R rows, H heads, K kv heads, D head dim.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from ..documents import Documents
from .library import MAX_GROUP, kernels, library

Mixes = Callable[[Tensor, Tensor, Tensor, Documents], Tensor]


class _Documents(ctypes.Structure):
    """`documents` of documents.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("rows", "starts", "lengths", "begins", "groups")),
        ("num_groups", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("heads", "kv_heads", "dim")),
    )


def fits(q: Tensor, k: Tensor) -> bool:
    """Whether the kernels take these."""
    plain = type(q) is Tensor and q.device.type == "cpu" and q.dtype == k.dtype == torch.float32
    return plain and q.shape[1] <= MAX_GROUP * k.shape[1] and library() is not None


def attend_documents(q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> Tensor:
    """Each token's query meets the keys of its document up to itself: [R, H*D] from q [R, H, D], k and v [R, K, D]."""
    return mix_documents(q, k, v, documents, forward=_attend)


def mix_documents(q: Tensor, k: Tensor, v: Tensor, documents: Documents, *, forward: Mixes) -> Tensor:
    """The same computed by `forward`; the gradients are this kernel's."""
    if torch.is_grad_enabled():
        return _Mixed.apply(documents, forward, q, k, v)
    return forward(q, k, v, documents)


def _attend(q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> Tensor:
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    _call(kernels().attend_documents, documents, q, k, v, out)
    return out.flatten(1)


def _gradients(documents: Documents, q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v, grad = q.contiguous(), k.contiguous(), v.contiguous(), grad.contiguous()
    gradients = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    _call(kernels().document_slopes, documents, q, k, v, grad, *gradients)
    return gradients


def _call(function: Callable[..., int], documents: Documents, q: Tensor, k: Tensor, *others: Tensor) -> None:
    rows, columns, groups = documents.groups
    sizes = (len(groups) - 1, q.shape[1], k.shape[1], q.shape[2])
    layout = _Documents(*(array.ctypes.data for array in (rows, *columns, groups)), *sizes)
    own = [tensor.data_ptr() for tensor in (q, k, *others)]
    if not function(ctypes.byref(layout), *own, torch.get_num_threads()):
        raise MemoryError("no memory for the attention of the longest document")


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, documents: Documents, forward: Mixes, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.documents = documents
        ctx.save_for_backward(q, k, v)
        return forward(q, k, v, documents)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        return (None, None, *_gradients(ctx.documents, q, k, v, grad))
