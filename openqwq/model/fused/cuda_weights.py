"""The weights of a decoder as the GPU's kernels take them: what reads the same input lies end to end.

Public: LayerWeights, fuse_weights, head_weights, weight_places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openqwq.kernels.layouts import PANEL
from openqwq.kernels.triton.linear import Weights
from openqwq.kernels.triton.packed import packed_weights

from ..decoder import Decoder, Linear
from ..packed_linear import PackedLinear

RELEASE_EVERY = 8  # layers: the allocator's freed pieces would otherwise add up to a second copy of the weights


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer's weights; qkv and gate_up are products of several modules at once. bias: of qkv."""

    input_norm: Tensor
    qkv: Weights
    bias: Tensor
    output: Weights
    post_norm: Tensor
    gate_up: Weights
    down: Weights


def weight_places(model: Decoder) -> list[tuple[int, int]]:
    """Which modules the decoder has and where their weights lie: other places mean other weights."""
    places, modules = [], [model.model.embed_tokens, model.model.norm]
    modules += [] if model.lm_head is None else [model.lm_head]
    layers: Any = model.model.layers
    for layer in layers:
        attention, mlp = layer.self_attn, layer.mlp
        modules += [layer.input_layernorm, attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        modules += [layer.post_attention_layernorm, mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    for module in modules:
        tensor: Any = module.codes if isinstance(module, PackedLinear) else getattr(module, "weight", None)
        places.append((id(module), 0 if tensor is None else tensor.data_ptr()))
    return places


def fuse_weights(model: Decoder) -> list[LayerWeights] | None:
    """Every layer's weights; None where some module is neither a plain nor a packed linear layer.

    Modules whose weights are not yet end to end get views of a tensor in which they are.
    """
    layers, moved = [], 0
    modules: Any = model.model.layers
    for layer in modules:
        attention, mlp = layer.self_attn, layer.mlp
        inputs = (attention.q_proj, attention.k_proj, attention.v_proj)
        singles = (attention.o_proj, mlp.down_proj)
        if not all(map(_is_known, (*inputs, *singles, mlp.gate_proj, mlp.up_proj))):
            return None
        before = inputs[0].bias.data_ptr()
        fused = _end_to_end(inputs), _end_to_end((mlp.gate_proj, mlp.up_proj))
        if fused[0] is None or fused[1] is None:
            return None
        bias = _joined(inputs, "bias")
        moved += bias.data_ptr() != before
        output, down = (_weights(module) for module in singles)
        norms = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        layers.append(LayerWeights(norms[0], fused[0], bias, output, norms[1], fused[1], down))
        if moved and len(layers) % RELEASE_EVERY == 0 and bias.device.type == "cuda":
            torch.cuda.empty_cache()
    return layers


def head_weights(model: Decoder) -> Weights | None:
    """The head's weights, the embedding's where it is tied; None where it is an unknown module."""
    if model.lm_head is None:
        weight = model.model.embed_tokens.weight
        return Weights("dense", (weight.shape[0], weight.shape[1]), weight)
    return _weights(model.lm_head) if _is_known(model.lm_head) else None


def _is_known(module: nn.Module) -> bool:
    return type(module) is Linear or (isinstance(module, PackedLinear) and module.order is None)


def _weights(module: nn.Module) -> Weights:
    if isinstance(module, PackedLinear):
        return _packed(module)
    weight: Any = module.weight
    return Weights("dense", (weight.shape[0], weight.shape[1]), weight)


def _end_to_end(modules: Sequence[Any]) -> Weights | None:
    """The modules' weights as those of one layer; None where they are of different kinds or do not fill panels."""
    first = modules[0]
    outputs = sum(module.out_features for module in modules)
    if all(type(module) is Linear for module in modules):
        return Weights("dense", (outputs, first.in_features), _joined(modules, "weight"))
    packed = all(isinstance(module, PackedLinear) for module in modules)
    if not packed or len({(m.kind, m.scales.shape[1:]) for m in modules}) > 1:
        return None
    if any(module.out_features % PANEL for module in modules[:-1]):
        return None
    for module in modules:
        module.lay_for_gpu(True)
    whole = PackedLinear(
        first.kind,
        (outputs, first.in_features),
        _joined(modules, "codes"),
        _joined(modules, "scales") if first.kind != "bf16" else first.scales,
        _joined(modules, "zeros") if first.kind == "int4" else first.zeros,
    )
    whole.for_gpu = first.for_gpu
    return _packed(whole)


def _packed(layer: PackedLinear) -> Weights:
    """The layer's own tensors; codes are laid out for a GPU, in place, the first time."""
    layer.lay_for_gpu(True)
    return packed_weights(layer.weights(), (layer.out_features, layer.in_features))


def _joined(modules: Sequence[Any], name: str) -> Tensor:
    """One tensor of the modules' tensors of a name, end to end, of which they keep views."""
    tensors = [getattr(module, name).data for module in modules]
    sizes = [len(tensor) for tensor in tensors]
    first, place = tensors[0], tensors[0].data_ptr()
    for tensor in tensors:
        if tensor.data_ptr() != place or not tensor.is_contiguous():
            break
        place += tensor.numel() * tensor.element_size()
    else:
        storage = first.untyped_storage()
        end = (place - storage.data_ptr()) if storage.data_ptr() else 0
        if 0 < end <= storage.nbytes():  # neighbours by design, and not two tensors that happen to meet
            return first.as_strided((sum(sizes), *first.shape[1:]), first.stride())
    whole = torch.cat(tensors)
    for module, own in zip(modules, whole.split(sizes), strict=True):
        getattr(module, name).data = own
    return whole
