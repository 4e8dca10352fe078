"""Which kernels compute a model: its operations are chosen once, and every module of it holds them.

Public: HasOps, use_ops, set_batch_invariant.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from openqwq.errors import UserError
from openqwq.kernels import REFERENCE, Backend, Ops, choose_ops, log_choice, shape_obstacle

from .config import DecoderConfig


class HasOps:
    """A module that computes by `ops`, which `use_ops` sets."""

    ops: Ops = REFERENCE


def use_ops(model: nn.Module, ops: Ops) -> None:
    """Let every module of a decoder compute by these operations.

    Raises UserError where batch-invariant ones do not take the model: unusual shapes, quantized weights.
    """
    if ops.invariant and (reason := _obstacle(model)):
        raise UserError(f"`batch_invariant` is not available: {reason}", hint="leave it off: it changes rounding only")
    module: Any
    for module in model.modules():
        if isinstance(module, HasOps):
            module.ops = ops


def set_batch_invariant(model: nn.Module, on: bool, *, backend: Backend = "auto") -> None:
    """Switch a decoder's batch-invariant operations on or off.

    Raises UserError where they are not available: other devices and dtypes, no C library, unusual shapes, quantized
    weights.
    """
    weights = next(model.parameters())
    use_ops(model, choose_ops(weights.device, weights.dtype, invariant=on, backend=backend))
    log_choice(cast(HasOps, model).ops.name, weights.device.type, weights.dtype)


def _obstacle(model: nn.Module) -> str:
    config = cast(DecoderConfig, model.config)
    if any(buffer.dtype == torch.uint8 for buffer in model.buffers()):  # the codes of PackedLinear
        return "the weights are quantized"
    return shape_obstacle(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
