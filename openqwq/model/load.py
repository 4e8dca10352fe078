"""Models from folders, from the hub, or from a seed: resolve, open, allocate, fill.

Public: `load_model`, `create_model`, `init_weights`, `resolve_folder`, `read_config`.

Weights are read tensor by tensor from memory-mapped files into parameters that are allocated once, in their final
dtype and place: the peak is one copy of the weights.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal, NoReturn

import torch
from torch import Tensor, nn

from openqwq.errors import UserError
from openqwq.formats import find_folder, open_weights
from openqwq.kernels import choose_ops
from openqwq.kernels.layouts import KINDS, Quantization

from .backend import use_ops
from .config import DecoderConfig
from .decoder import Decoder
from .presets import HUB_NAMES, PRESETS, preset
from .published import PACKED_PARTS, unpack_layer
from .quantize import pack_weight, quantize_weights

WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def load_model(
    source: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    seed: int = 0,
    quantization: Quantization | Literal["stored"] | None = None,
) -> Decoder:
    """The model in a folder or GGUF file, of a hub name ("Qwen/QwQ-32B"), or of a preset.

    A preset with published weights means those; `tiny` has none and starts from random weights of `seed`.
    dtype: None keeps the one that config.json names.
    quantization: "bf16", "int8" and "int4" round linear layers while they are read (quantize.py); layers that the
        folder holds packed stay so, as they do with "stored". None: plain layers, packed ones widened, for training.
    Raises UserError for a source that does not exist, an unsupported config, and for missing, truncated,
    unexpected or wrongly shaped weights.
    """
    if str(source) in PRESETS and str(source) not in HUB_NAMES and not Path(source).exists():
        model = create_model(preset(str(source)), seed=seed, device=device, dtype=dtype)
        if quantization in KINDS:
            quantize_weights(model, quantization)
        return model
    folder = resolve_folder(source)
    config = read_config(folder)
    if config.quantization_config is None and quantization in (None, "stored"):
        model = _allocate(config, device, dtype)
        load_weights(model, folder)
        return model
    return _load_layer_by_layer(folder, config, device, dtype, quantization)


def create_model(
    config: DecoderConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    drawn_on: torch.device | str = "cpu",
) -> Decoder:
    """A model with random weights of the seed: the same ones on every device, unless drawn on that device itself."""
    model = _allocate(config, device, dtype)
    init_weights(model, seed, drawn_on=drawn_on)
    return model


@torch.no_grad()
def init_weights(model: Decoder, seed: int, *, drawn_on: torch.device | str = "cpu") -> None:
    """Matrices normal with the config's `initializer_range`, biases 0, norms 1; drawn in float32.

    drawn_on: a GPU draws 32 billion weights in seconds and needs no memory of the host, but its own numbers.
    """
    generator = torch.Generator(drawn_on).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith(".bias") else 1.0)
        else:
            drawn = torch.empty(parameter.shape, dtype=torch.float32, device=drawn_on)
            parameter.copy_(drawn.normal_(0.0, model.config.initializer_range, generator=generator))


def resolve_folder(source: str | Path) -> Path:
    """The local folder of a path, a hub name or a preset's hub name, see `find_folder`."""
    return find_folder(source, HUB_NAMES, PRESETS)


def read_config(folder: Path) -> DecoderConfig:
    """The config in a folder's config.json. Raises UserError when it is absent, unreadable or unsupported."""
    return DecoderConfig.from_dict(open_weights(folder).config)


@torch.no_grad()
def load_weights(model: Decoder, folder: str | Path) -> None:
    """Copy a folder's safetensors into the model's parameters. Raises UserError unless they match one to one."""
    folder = Path(folder)
    parameters = dict(model.named_parameters())
    missing = set(parameters)
    tied_head = None
    for shard, name, tensor in open_weights(folder):
        if name == "lm_head.weight" and model.lm_head is None:
            tied_head = tensor.clone()
            continue
        if name not in parameters:
            _unexpected(shard, name)
        _check_tensor(shard, name, tensor, parameters[name])
        parameters[name].copy_(tensor)
        missing.discard(name)
    if missing:
        _lacks(folder, missing)
    if tied_head is not None:
        _check_tied(tied_head, model, folder)


@torch.no_grad()
def _load_layer_by_layer(
    folder: Path,
    config: DecoderConfig,
    device: torch.device | str,
    dtype: torch.dtype | None,
    quantization: Quantization | Literal["stored"] | None,
) -> Decoder:
    """As `load_model` says, for layers that are packed in the folder or are to be.

    A layer is packed or widened as soon as its tensors are there: the peak is the model and one layer.
    """
    model = _allocate(config, "meta", dtype)
    waiting, tied_head = _names_by_layer(folder), None
    held: dict[str, dict[str, Tensor]] = {}
    for shard, name, tensor in open_weights(folder):
        layer, _, part = name.rpartition(".")
        tensors = held.setdefault(layer, {})
        tensors[part] = tensor.clone()
        if tensors.keys() != waiting[layer]:
            continue
        del held[layer]
        if layer == "lm_head" and model.lm_head is None:
            tied_head = tensors.get("weight")
        else:
            _fill_layer(model, shard, layer, tensors, device, quantization)
    if absent := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        _lacks(folder, absent)
    if tied_head is not None:
        _check_tied(tied_head, model, folder)
    if model.lm_head is None and quantization in KINDS:
        model.lm_head = pack_weight(model.model.embed_tokens.weight, quantization)  # type: ignore[assignment]
    if quantization is None:
        model.config = config.replace(quantization_config=None)
    use_ops(model, choose_ops(model.device, model.dtype))  # it was made on the meta device
    return model


def _names_by_layer(folder: Path) -> dict[str, set[str]]:
    """The last parts of the tensors' names by what comes before."""
    layers: dict[str, set[str]] = {}
    for name in open_weights(folder).names():
        layer, _, part = name.rpartition(".")
        layers.setdefault(layer, set()).add(part)
    return layers


def _fill_layer(
    model: Decoder,
    shard: Path,
    name: str,
    tensors: dict[str, Tensor],
    device: torch.device | str,
    quantization: Quantization | Literal["stored"] | None,
) -> None:
    """Put a layer's tensors into the model on the meta device, packed where they are or shall be."""
    try:
        module = model.get_submodule(name)
    except AttributeError:
        _unexpected(shard, f"{name}.{next(iter(tensors))}")
    parts = set(dict(module.named_parameters(recurse=False)))
    packed = "qweight" in tensors and isinstance(module, nn.Linear)
    if "bias" in tensors and "bias" not in parts and packed and not tensors["bias"].any():
        del tensors["bias"]  # GPTQ's tools give every layer one
    if packed and "bias" in parts - set(tensors):
        _lacks(shard.parent, [f"{name}.bias"])
    if extra := set(tensors) - parts - (set(PACKED_PARTS) if packed else set()):
        _unexpected(shard, f"{name}.{min(extra)}")
    places = {part: parameter for part, parameter in module.named_parameters(recurse=False) if part in tensors}
    for part, parameter in places.items():
        _check_tensor(shard, f"{name}.{part}", tensors[part], parameter)
        tensors[part] = tensors[part].to(parameter.dtype)
    if packed:
        _place(model, name, _unpack(model, shard, name, tensors, quantization).to(device))
    elif quantization in KINDS and isinstance(module, nn.Linear) and tensors.keys() == parts:
        _place(model, name, pack_weight(tensors["weight"], quantization, bias=tensors.get("bias")).to(device))
    else:
        for part in places:
            setattr(module, part, nn.Parameter(tensors[part].to(device)))


def _unpack(model: Decoder, shard: Path, name: str, tensors: dict[str, Tensor], quantization: object) -> nn.Module:
    """The packed layer of published tensors, or the plain one that it stands for."""
    layout, module = model.config.quantization_config, model.get_submodule(name)
    if layout is None:
        raise UserError(
            f"{shard} holds quantised weights, `{name}.qweight`, but config.json has no `quantization_config`",
            hint="copy the folder's own config.json",
        )
    assert isinstance(module, nn.Linear)
    layer = unpack_layer(layout, name, tensors, (module.out_features, module.in_features))
    if quantization is not None:
        return layer
    module.weight = nn.Parameter(layer.widened().to(module.weight.dtype))
    if layer.bias is not None:
        module.bias = nn.Parameter(layer.bias)
    return module


def _place(model: Decoder, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def _allocate(config: DecoderConfig, device: torch.device | str, dtype: torch.dtype | None) -> Decoder:
    """An unfilled model in its final dtype and place."""
    former = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, config.torch_dtype) if dtype is None else dtype)
    try:
        with torch.device(device):
            return Decoder(config)
    except RuntimeError as error:
        if "allocate" not in str(error):
            raise
        raise UserError(
            f"there is no memory for a model of this size: {config.num_hidden_layers} layers, `hidden_size` "
            f"{config.hidden_size}, `intermediate_size` {config.intermediate_size}, `vocab_size` {config.vocab_size}",
            hint="is config.json right? each value has 2 to 4 bytes",
        ) from error
    finally:
        torch.set_default_dtype(former)


def _unexpected(shard: Path, name: str) -> NoReturn:
    raise UserError(
        f"{shard} holds an unexpected tensor `{name}`", hint="config.json and the weights are of different models"
    )


def _lacks(folder: Path, names: Collection[str]) -> NoReturn:
    first = ", ".join(f"`{name}`" for name in sorted(names)[:3])
    raise UserError(f"{folder} lacks {len(names)} tensors, among them {first}", hint="download the folder again")


def _check_tied(head: Tensor, model: Decoder, folder: Path) -> None:
    if not torch.equal(head.to(model.dtype), model.model.embed_tokens.weight.cpu()):
        raise UserError(
            f"config.json in {folder} ties the head to the embedding, but `lm_head.weight` differs from it",
            hint="set `tie_word_embeddings` to false",
        )


def _check_tensor(shard: Path, name: str, tensor: Tensor, parameter: Tensor) -> None:
    """Its shape, and that its numbers are the weights: float8 and integers mean something with their scales only."""
    if tensor.dtype not in WEIGHT_DTYPES:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(
            f"`{name}` in {shard} is of the type {kind}, and numbers of that type are no weights without their scales",
            hint="use the folder with the bfloat16 weights; of quantised ones, 4-bit AWQ and GPTQ are read",
        )
    if tensor.shape != parameter.shape:
        raise UserError(
            f"`{name}` in {shard} has shape {list(tensor.shape)}, but config.json asks for {list(parameter.shape)}",
            hint="config.json and the weights are of different models",
        )
