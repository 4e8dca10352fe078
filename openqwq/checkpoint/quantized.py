"""Models written as 4-bit folders in the forms of AWQ and GPTQ, which vLLM and transformers open.

The forms are theirs, the rounding is not: each group of weights is rounded by itself, with the least squared error,
and no text is read. Embeddings, norms and the head keep their type.

Public: save_packed, packed_layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from openqwq.errors import UserError
from openqwq.model import Decoder, convert_swish_beta
from openqwq.model.config import PublishedFormat
from openqwq.model.published import pack_layer

from .huggingface import save_weights

FORMS = ("awq", "gptq", "gptq_v2")


def packed_layout(form: str, group_size: int = 128) -> PublishedFormat:
    """The layout of a form, one of FORMS. group_size: inputs that share a scale; -1: all of a channel.

    "gptq_v2" stores zeros as they are; "gptq" less one, which all readers of GPTQ know.
    """
    if form not in FORMS:
        raise UserError(f"there is no 4-bit form {form!r}", hint=f"there are {', '.join(FORMS)}")
    method = "awq" if form == "awq" else "gptq"
    return PublishedFormat.from_dict(
        {"quant_method": method, "bits": 4, "group_size": group_size, "checkpoint_format": form}
    )


def save_packed(
    model: Decoder,
    folder: str | Path,
    layout: PublishedFormat,
    *,
    tokenizer_files: Sequence[str | Path] = (),
    generation_config: Mapping[str, Any] | None = None,
) -> None:
    """Write the model with its layers packed, in place of any earlier folder; as `save_weights` does.

    Weights that are not packed are written in float16, or in bfloat16 where the model is in that.
    """
    names = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    names.discard("lm_head.weight")
    weights, config = model.state_dict(), model.config
    if config.swish_beta != 1:
        weights, config = convert_swish_beta(weights, config, 1.0)
    kept = "bfloat16" if config.torch_dtype == "bfloat16" else "float16"
    packed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name in names:
            layer = name.removesuffix(".weight")
            packed |= {f"{layer}.{part}": tensor for part, tensor in pack_layer(layout, layer, weight).items()}
        else:
            packed[name] = weight.bfloat16() if kept == "bfloat16" else weight.half()
    save_weights(
        packed,
        config,
        folder,
        tokenizer_files=tokenizer_files,
        generation_config=generation_config,
        layout=layout,
    )
