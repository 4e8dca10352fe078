"""Products of float32 matrices for training on a CPU (products.c).

PyTorch's products reach 80 to 95 GFLOP/s a core on an AMD processor of 2024, this kernel 160 to 215 on the same shapes;
on Intel's processors PyTorch's library may be faster, so `calibration.pays` measures both on the machine once. A sum is
taken by one thread in one order: results depend neither on the number of threads nor on other rows.

Public: multiply, linear, linear_exactly, LinearGradients. Small products, other types, and machines without the C
library take PyTorch's.
Letters: M rows, K summed, N columns, I inputs, O outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .calibration import multiply_pays
from .library import kernels, library

MIN_ROWS = 64  # with fewer, copying the other matrix takes longer than the product
MIN_SIZE = 2**20  # M K N
FEW_ROWS = 256  # up to this many rows the weights are copied in parts
NO_MEMORY = "no memory for the copies of a product's matrices"


def multiply(
    a: Tensor, b: Tensor, *, bias: Tensor | None = None, out: Tensor | None = None, adds: bool = False
) -> Tensor:
    """a [M, K] b [K, N] + bias [N]: [M, N], either matrix transposed or not; without a gradient.

    out: contiguous, and where the product is written; `adds`: it is added to what is there, and there is no bias.
    """
    assert not adds or (out is not None and bias is None)
    if not _fits(a, b):
        if bias is not None:
            return torch.addmm(bias, a, b, out=out)
        if adds and out is not None:
            return out.addmm_(a, b)
        return torch.mm(a, b, out=out)
    return _multiply(a, b, bias, a.new_empty(a.shape[0], b.shape[1]) if out is None else out, adds)


def _multiply(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor, adds: bool = False) -> Tensor:
    assert out.is_contiguous()
    sizes = (a.shape[0], b.shape[1], a.shape[1], adds, torch.get_num_threads())
    lines = (a.data_ptr(), *a.stride(), b.data_ptr(), *reversed(b.stride()))
    if not kernels().multiply(*lines, None if bias is None else bias.data_ptr(), out.data_ptr(), *sizes):
        raise MemoryError(NO_MEMORY)
    return out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., I] weight^T [O, I] + bias [O]: [..., O], as `F.linear`."""
    elsewhere = x.device.type != "cpu" or x.ndim < 2 or x.numel() < MIN_ROWS * x.shape[-1]
    if elsewhere or torch.is_autocast_enabled("cpu") or not _fits(x.flatten(0, -2), weight.T):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias) if torch.is_grad_enabled() else _product(x, weight, bias)


def linear_exactly(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same by this kernel alone, for float32 on a CPU: a row's bits depend neither on its place nor on other rows.

    Without a gradient.
    """
    weight, rows = weight.contiguous(), x.contiguous().flatten(0, -2)
    out = x.new_empty(len(rows), len(weight))
    if len(rows) > FEW_ROWS:
        _multiply(rows, weight.T, bias, out)
    elif len(rows):
        pointers = (rows.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr(), out.data_ptr())
        if not kernels().multiply_rows(*pointers, *reversed(weight.shape), len(rows), torch.get_num_threads()):
            raise MemoryError(NO_MEMORY)
    return out.view(*x.shape[:-1], len(weight))


class LinearGradients(torch.autograd.Function):
    """The gradients of x [..., I] weight^T [O, I] + bias [O], whatever the product is computed by."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            multiply(rows, weight).view(x.shape) if needs_x else None,
            multiply(rows.T, x.flatten(0, -2)) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )


class _Linear(LinearGradients):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return multiply(x.flatten(0, -2), weight.T, bias=bias).view(*x.shape[:-1], len(weight))


def _fits(a: Tensor, b: Tensor) -> bool:
    """Whether the kernel takes these, and is the faster one on this machine."""
    (rows, depth), columns = a.shape, b.shape[1]
    return (
        min(rows, columns, depth) >= MIN_ROWS
        and rows * columns * depth >= MIN_SIZE
        and all(
            type(t) in (Tensor, nn.Parameter) and t.device.type == "cpu" and t.dtype == torch.float32 for t in (a, b)
        )
        and library() is not None
        and multiply_pays()
    )
