"""Batch-invariant kernels: on a CPU in float32, a token's row depends on its own sequence alone.

Elsewhere the order of a row's sums depends on the batch size, the row's place and the number of threads, so a sampler
that decodes and a trainer that packs differ in the last bits. Here every layer, and the log-prob at the end, has a
fixed order of sums (invariant.c, products.c), and attention is the kernel that decodes (paged_attention.c), over blocks
of the same size: sampler and trainer see the same bits whatever the batch, chunks, packing or prefix caching.

Only forward passes are invariant; gradients are correct up to rounding.

Public: linear, rms_norm, swiglu, rotate, token_logprobs, attend_documents.
Letters: N tokens, M rows, I inputs, O outputs, V vocabulary, H heads, K kv heads, D head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..documents import Documents
from ..layouts import CacheLayer
from .attention import INVARIANT_BLOCK, attend_rows
from .documents import mix_documents
from .library import kernels, pointers
from .products import LinearGradients, linear_exactly

NORM_PARTS = 16  # invariant.c's PARTS


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., I] weight^T [O, I] + bias [O]: [..., O]."""
    return (_Linear.apply if torch.is_grad_enabled() else linear_exactly)(x, weight, bias)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight of rows [..., I]."""
    return _Norm.apply(x, weight, eps) if torch.is_grad_enabled() else _norm_rows(x, weight, eps)


def swiglu(gate: Tensor, up: Tensor, beta: float) -> Tensor:
    """gate * sigmoid(beta * gate) * up of rows [..., I]."""
    return _SwiGLU.apply(gate, up, beta) if torch.is_grad_enabled() else _swiglu_rows(gate, up, beta)


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """x [N, H, D] rotated by its position's angles [N, 1, D], as `reference.rotate`."""
    return _Rotated.apply(x, cos, signed_sin) if torch.is_grad_enabled() else _rotate_rows(x, cos, signed_sin)


def token_logprobs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-prob of each target [M] under softmax(logits [M, V]), and the logsumexp [M]; without a gradient."""
    logits, targets = logits.contiguous(), targets.contiguous()
    logprobs = logits.new_empty(len(logits))
    normalizers = torch.empty_like(logprobs)
    kernels().logprob_rows(*pointers(logits, targets, logprobs, normalizers), *logits.shape, torch.get_num_threads())
    return logprobs, normalizers


def attend_documents(q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> Tensor:
    """Documents mixed by the kernel that decodes: [R, H*D] from q [R, H, D], k and v [R, K, D].

    Keys and values are laid out in blocks as in the engine's cache; every token is a row of its own.
    """
    return mix_documents(q, k, v, documents, forward=_attend_as_rows)


def _attend_as_rows(q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> Tensor:
    if documents.shared is not None:
        rows, firsts = documents.shared
        q, k, v = (x.index_select(0, rows) for x in (q, k, v))
        return _attend_as_rows(q, k, v, documents.apart).index_select(0, firsts)
    num_blocks, tables = documents.block_tables(INVARIANT_BLOCK)
    shape = (num_blocks, k.shape[1], INVARIANT_BLOCK, k.shape[2])
    store = CacheLayer(k.new_empty(shape), k.new_empty(shape))
    return attend_rows(q, k, v, store, tables, documents.token_positions)


class _Linear(LinearGradients):
    """The kernel's product; the gradients are products as well."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear_exactly(x, weight, bias)


class _Norm(torch.autograd.Function):
    """The kernel's norm, and its gradients in one pass."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _norm_rows(x, weight, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, grad = (t.contiguous() for t in (*ctx.saved_tensors, grad))
        x_grad, parts = torch.empty_like(x), x.new_empty(NORM_PARTS, len(weight))
        own = pointers(x, weight, grad, x_grad, parts)
        kernels().rms_norm_slopes(*own, *_rows_of(x), ctx.eps, torch.get_num_threads())
        return x_grad, parts.sum(0), None


class _Rotated(torch.autograd.Function):
    """The kernel's rotation; the gradient is rotated back."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, signed_sin)
        return _rotate_rows(x, cos, signed_sin)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, signed_sin = ctx.saved_tensors
        return _rotate_rows(grad, cos, -signed_sin), None, None


class _SwiGLU(torch.autograd.Function):
    """The kernel's product, and its gradients in one pass."""

    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor, beta: float) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.beta = beta
        return _swiglu_rows(gate, up, beta)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up, grad = (x.contiguous() for x in (*ctx.saved_tensors, grad))
        gate_grad, up_grad = torch.empty_like(gate), torch.empty_like(up)
        own = pointers(gate, up, grad, gate_grad, up_grad)
        kernels().swiglu_slopes(*own, *_rows_of(gate), ctx.beta, torch.get_num_threads())
        return gate_grad, up_grad, None


def _norm_rows(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    kernels().rms_norm_rows(*pointers(x, weight, out), *_rows_of(x), eps, torch.get_num_threads())
    return out


def _swiglu_rows(gate: Tensor, up: Tensor, beta: float) -> Tensor:
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    kernels().swiglu_rows(*pointers(gate, up, out), *_rows_of(gate), beta, torch.get_num_threads())
    return out


def _rotate_rows(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    x, cos, signed_sin = x.contiguous(), cos.contiguous(), signed_sin.contiguous()
    out = torch.empty_like(x)
    kernels().turn_rows(*pointers(x, cos, signed_sin, out), *x.shape, torch.get_num_threads())
    return out


def _rows_of(x: Tensor) -> tuple[int, int]:
    return x.numel() // x.shape[-1], x.shape[-1]
