"""Low-rank adapters on linear layers (arXiv:2106.09685), with the base frozen.

Public: `LoRALinear`, `add_lora`, `merge_lora`, `lora_tensors`, `save_lora`.

An adapted layer keeps its parameters' names (`q_proj.weight`) and has two more (`q_proj.lora_A`, `q_proj.lora_B`), so
checkpoints of the base are those of the plain model. The sampler runs the same layers as the trainer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .backend import HasOps
from .decoder import Decoder, Linear

MARK = ".lora_"
"""In the names of the adapters' parameters, and in no others."""


class LoRALinear(HasOps, nn.Module):
    """base(x) + alpha / rank * B A x, with A random and B zero: at first the base itself."""

    def __init__(self, base: Linear, *, rank: int, alpha: float, generator: torch.Generator):
        super().__init__()
        self.ops = base.ops
        self.weight, self.bias = base.weight, base.bias
        self.rank, self.alpha, self.scale = rank, alpha, alpha / rank
        drawn = torch.empty(rank, base.in_features).uniform_(-1, 1, generator=generator) / math.sqrt(base.in_features)
        self.lora_A = nn.Parameter(drawn.to(base.weight))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        times = self.ops.linear
        return times(x, self.weight, self.bias) + self.scale * times(times(x, self.lora_A), self.lora_B)

    @torch.no_grad()
    def merged(self) -> Linear:
        """A plain layer over the same weight, which now holds the adapter's product too."""
        change = self.scale * (self.lora_B.float() @ self.lora_A.float())
        self.weight.copy_((self.weight.float() + change).to(self.weight.dtype))
        plain = Linear(self.weight.shape[1], self.weight.shape[0], bias=self.bias is not None, device="meta")
        plain.weight, plain.bias, plain.ops = self.weight, self.bias, self.ops
        return plain


def add_lora(model: Decoder, *, rank: int, alpha: float, targets: Sequence[str], seed: int) -> None:
    """Put adapters on every layer of the decoder whose name is among `targets`; freeze everything else.

    Raises ValueError for a target that the model has no linear layer of, and for a model that has adapters.
    """
    if any(MARK in name for name, _ in model.named_parameters()):
        raise ValueError("the model has adapters already")
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    found = set()
    for parent, name, layer in list(_children(model)):
        if isinstance(layer, Linear) and name in targets:
            setattr(parent, name, LoRALinear(layer, rank=rank, alpha=alpha, generator=generator))
            found.add(name)
    if missing := [target for target in targets if target not in found]:
        raise ValueError(f"the model has no linear layer `{missing[0]}`")


def merge_lora(model: Decoder) -> None:
    """Add the adapters to the weights in place and take them off; every parameter can be trained again."""
    for parent, name, layer in list(_children(model)):
        if isinstance(layer, LoRALinear):
            setattr(parent, name, layer.merged())
    model.requires_grad_(True)


def lora_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' parameters by their names in the model."""
    return {name: parameter for name, parameter in model.named_parameters() if MARK in name}


def save_lora(model: Decoder, folder: str | Path, *, base: str = "") -> None:
    """Write the adapters as PEFT's `PeftModel.from_pretrained(transformers_model, folder)` opens them.

    base: path or hub name of the model that they belong to, for the record.
    """
    layers = {name: layer for _, name, layer in _children(model) if isinstance(layer, LoRALinear)}
    if not layers:
        raise ValueError("the model has no adapters")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    one = next(iter(layers.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": one.rank,
        "lora_alpha": one.alpha,
        "use_rslora": False,
        "target_modules": sorted(layers),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {f"base_model.model.{n}.weight": t.detach().cpu().contiguous() for n, t in lora_tensors(model).items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _children(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """(parent, name, child) of every module below the decoder's layers."""
    for parent in model.modules():
        for name, child in parent.named_children():
            yield parent, name, child
