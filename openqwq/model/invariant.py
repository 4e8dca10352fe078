"""The batch-invariant mode: on a CPU in float32, what a token's row becomes depends on its own sequence alone.

Elsewhere a row's sums are taken in an order that hangs on how many rows there are, where they stand and how they are
split among threads, so a sampler that decodes and a trainer that packs differ in the last bits. Here every
layer, and the log-prob at the end, is computed by kernels whose order of sums is fixed (invariant.c, products.c), and
attention by the very kernel that decodes (native.c) over blocks of the same size: both see the same bits, whatever the
batch, chunks, packing or prefix caching.

Only forward passes are invariant; gradients are what they are elsewhere, up to rounding.

Public: set_batch_invariant, linear, rms_norm, swiglu, rotate, token_logprobs, InvariantAttention.
Letters: N tokens, M rows, I inputs, O outputs, V vocabulary, H heads, K kv heads, D head dim.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from openqwq.errors import UserError

from .attention.packed import PackedAttention
from .config import Qwen2Config
from .native import MAX_GROUP, MAX_HEAD_DIM, document_kernels, invariant_kernels, native_kernels, product_kernels
from .products import LinearGradients, linear_exactly

NORM_PARTS = 16  # invariant.c's PARTS
INVARIANT_BLOCK = 16  # tokens a block: attention sums block by block, so the engine's cache must have the same


def set_batch_invariant(model: nn.Module, on: bool) -> None:
    """Switch the mode of a decoder on or off.

    Raises UserError where it cannot be had: other devices and dtypes, no C compiler, unusual shapes, packed weights.
    """
    if on and (reason := _obstacle(model)):
        raise UserError(f"`batch_invariant` cannot be had: {reason}", hint="leave it off: it changes rounding only")
    module: Any
    for module in model.modules():
        if hasattr(module, "batch_invariant"):
            module.batch_invariant = on


def _obstacle(model: nn.Module) -> str:
    config, weights = cast(Qwen2Config, model.config), next(model.parameters())
    if weights.device.type != "cpu" or weights.dtype != torch.float32:
        return f"the weights are {weights.dtype} on {weights.device.type}, but the mode is for float32 on a CPU"
    if any(kernels() is None for kernels in (invariant_kernels, native_kernels, product_kernels, document_kernels)):
        return "there is no C compiler (cc, gcc or clang)"
    if config.num_attention_heads > MAX_GROUP * config.num_key_value_heads or config.head_dim > MAX_HEAD_DIM:
        return f"its kernels end at {MAX_GROUP} heads a kv head and {MAX_HEAD_DIM} numbers a head"
    if any(buffer.dtype == torch.uint8 for buffer in model.buffers()):  # the codes of quantize.PackedLinear
        return "the weights are packed into fewer bits"
    return ""


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
    """x [N, H, D] turned by its position's angles [N, 1, D], as `rope.rotate`."""
    return _Turned.apply(x, cos, signed_sin) if torch.is_grad_enabled() else _turn_rows(x, cos, signed_sin)


def token_logprobs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-prob of each target [M] under softmax(logits [M, V]), and the logsumexp [M]; bears no gradient."""
    logits, targets = logits.contiguous(), targets.contiguous()
    logprobs = logits.new_empty(len(logits))
    normalizers = torch.empty_like(logprobs)
    _kernels().logprob_rows(*_pointers(logits, targets, logprobs, normalizers), *logits.shape, torch.get_num_threads())
    return logprobs, normalizers


class InvariantAttention:
    """Documents end to end, each causal within itself, mixed by the kernel that decodes.

    Keys and values are laid out in blocks as in the engine's cache; every token is a row of its own.
    """

    def __init__(self, lengths: Sequence[int]):
        self._plain = PackedAttention(lengths)
        self.positions = self._plain.positions
        sizes = np.asarray(lengths, dtype=np.int64)
        blocks = -(-sizes // INVARIANT_BLOCK)
        firsts = np.cumsum(blocks) - blocks
        self._num_blocks = int(blocks.sum())
        columns = np.arange(int(blocks.max()))
        tables = np.where(columns < blocks[:, None], firsts[:, None] + columns, 0).astype(np.int32)
        self._tables = torch.from_numpy(np.repeat(tables, sizes, 0))  # [N, W]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._plain.documents.mix(q, k, v, by=self._mix)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape = (self._num_blocks, k.shape[1], INVARIANT_BLOCK, k.shape[2])
        return attend_rows(q, k, v, k.new_empty(shape), k.new_empty(shape), self._tables, self.positions)


def attend_rows(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, tables: Tensor, positions: Tensor
) -> Tensor:
    """Every row's k and v [N, K, D] stored at its position in its blocks, then its q [N, H, D] mixed: [N, H*D]."""
    kernels = native_kernels()
    assert kernels is not None
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    pointers = _pointers(q, k, v, keys, values, tables, positions, out)
    sizes = (len(q), tables.shape[1], q.shape[1], k.shape[1], q.shape[2], keys.shape[2])
    kernels.attend_paged(*pointers, *sizes, torch.get_num_threads())
    return out.flatten(1)


class _Linear(LinearGradients):
    """The kernel's product; the gradients are products as well."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear_exactly(x, weight, bias)


class _Norm(torch.autograd.Function):
    """The kernel's norm, and its slopes in one pass."""

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
        pointers = _pointers(x, weight, grad, x_grad, parts)
        _kernels().rms_norm_slopes(*pointers, *_rows_of(x), ctx.eps, torch.get_num_threads())
        return x_grad, parts.sum(0), None


class _Turned(torch.autograd.Function):
    """The kernel's rotation; the gradient is turned back."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, signed_sin)
        return _turn_rows(x, cos, signed_sin)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, signed_sin = ctx.saved_tensors
        return _turn_rows(grad, cos, -signed_sin), None, None


class _SwiGLU(torch.autograd.Function):
    """The kernel's product, and its slopes in one pass."""

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
        pointers = _pointers(gate, up, grad, gate_grad, up_grad)
        _kernels().swiglu_slopes(*pointers, *_rows_of(gate), ctx.beta, torch.get_num_threads())
        return gate_grad, up_grad, None


def _norm_rows(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    _kernels().rms_norm_rows(*_pointers(x, weight, out), *_rows_of(x), eps, torch.get_num_threads())
    return out


def _swiglu_rows(gate: Tensor, up: Tensor, beta: float) -> Tensor:
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    _kernels().swiglu_rows(*_pointers(gate, up, out), *_rows_of(gate), beta, torch.get_num_threads())
    return out


def _turn_rows(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    x, cos, signed_sin = x.contiguous(), cos.contiguous(), signed_sin.contiguous()
    out = torch.empty_like(x)
    _kernels().turn_rows(*_pointers(x, cos, signed_sin, out), *x.shape, torch.get_num_threads())
    return out


def _rows_of(x: Tensor) -> tuple[int, int]:
    return x.numel() // x.shape[-1], x.shape[-1]


def _pointers(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _kernels() -> ctypes.CDLL:
    kernels = invariant_kernels()
    assert kernels is not None
    return kernels
