"""Sampling from narrow weights while the wide ones are trained: a copy of the model, rounded anew at every update.

Public: QuantizedEngine.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from openqwq.config import EngineConfig
from openqwq.kernels.layouts import Quantization
from openqwq.model import Decoder, weight_checksum
from openqwq.model.lora import merge_lora
from openqwq.model.packed_linear import PackedLinear
from openqwq.model.quantize import quantize_weights

from .engine import Engine
from .requests import TextDecoder


class QuantizedEngine(Engine):
    """An engine over a rounded copy of a model that is trained elsewhere; its log-probs are the copy's own.

    kind:    "bf16", "int8" or "int4", see model/quantize.py. config, options: as `Engine` takes them.
    Tokens have the checksum of the trained weights that the copy was made of.
    """

    def __init__(
        self,
        source: Decoder,
        tokenizer: TextDecoder | None,
        config: EngineConfig | None = None,
        *,
        kind: Quantization,
        **options: Any,
    ):
        super().__init__(rounded_copy(source, kind), tokenizer, config, **options)
        self.kind = kind

    @torch.no_grad()
    def load_weights(self, source: nn.Module | Mapping[str, Tensor], *, version: int | None = None) -> None:
        """Round the weights of a model (ValueError for a state dict), and sample from them from the next token on."""
        if not isinstance(source, Decoder):
            raise ValueError("a rounded engine takes its weights from a model")
        own = dict(self.model.named_buffers()) | dict(self.model.named_parameters())
        fresh = rounded_copy(source, self.kind)
        for name, tensor in [*fresh.named_buffers(), *fresh.named_parameters()]:
            own[name].copy_(tensor)
        self.pool.reset()
        self.version = self.version + 1 if version is None else version
        self.weight_checksums[self.version] = weight_checksum(source)


def rounded_copy(source: Decoder, kind: Quantization) -> Decoder:
    """A copy of the model with adapters merged and every linear layer rounded."""
    model = copy.deepcopy(source).requires_grad_(False)
    merge_lora(model)
    quantize_weights(model, kind)
    assert any(isinstance(module, PackedLinear) for module in model.modules())
    return model.requires_grad_(False)
