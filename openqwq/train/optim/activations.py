"""Activation checkpointing (arXiv:1604.06174): activations that the backward pass computes again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

from torch import nn
from torch.utils.checkpoint import checkpoint

from openqwq.model import Decoder


@contextmanager
def recomputed_activations(model: Decoder, what: Literal["none", "mlp", "layer"]) -> Iterator[None]:
    """Within this block, backward passes compute activations anew instead of keeping them; same gradient.

    "mlp" keeps all but what is inside the MLPs, the widest part; "layer" only what goes from layer to layer.
    """
    modules: list[nn.Module] = []
    if what != "none":
        modules = [layer.mlp if what == "mlp" else layer for layer in model.model.layers]  # type: ignore[misc]
    for module in modules:
        module.forward = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for module in modules:
            del module.forward
