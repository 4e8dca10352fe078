"""The shape of a decoder, with Hugging Face's field names, read from and written to config.json.

Public: `DecoderConfig`, `PublishedFormat`. What would change the computation and is not built here (sliding windows,
other activations, other rope scalings) is refused, never ignored; families.py knows what differs between families.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from openqwq.errors import UserError

from .config_values import check_number, require
from .families import FAMILIES, find_family
from .rope_settings import RopeScaling, YarnScaling, read_rope

DTYPES = ("float32", "bfloat16", "float16")
QUANTIZED_HINT = "use a 4-bit AWQ (gemm) or GPTQ folder, or the one with the bfloat16 weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFormat:
    """How a folder's quantised layers are laid out: see published.py.

    group_size:  inputs that share a scale; -1: all.
    zero_offset: added to the stored zeros.
    desc_act:    groups are of inputs that are no neighbours.
    """

    method: Literal["awq", "gptq"]
    group_size: int
    zero_offset: int = 0
    desc_act: bool = False

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> PublishedFormat:
        """What config.json's `quantization_config` describes. Raises UserError for all but 4-bit AWQ and GPTQ."""
        if not isinstance(raw, Mapping):
            raise UserError(f"`quantization_config` is {raw!r} in config.json, but must be an object")
        method = raw.get("quant_method")
        if method not in ("awq", "gptq"):
            raise UserError(f"the weights are quantised ({method}), which this loader cannot read", hint=QUANTIZED_HINT)
        require(raw.get("bits") == 4, "quantization_config.bits", raw.get("bits"), "4")
        size = raw.get("group_size")
        fits = isinstance(size, int) and (size in (-1, 32, 64) or (size > 0 and size % 128 == 0))
        require(fits, "quantization_config.group_size", size, "-1, 32, 64 or a multiple of 128")
        if method == "awq":
            version = str(raw.get("version", "gemm")).lower()
            require(version == "gemm", "quantization_config.version", version, "'gemm'")
            require(
                raw.get("zero_point", True) is True, "quantization_config.zero_point", raw.get("zero_point"), "true"
            )
            return cls(method="awq", group_size=int(size or 0))
        layout = raw.get("checkpoint_format") or "gptq"
        require(layout in ("gptq", "gptq_v2"), "quantization_config.checkpoint_format", layout, "'gptq' or 'gptq_v2'")
        require(not raw.get("is_marlin_format"), "quantization_config.is_marlin_format", True, "false")
        require(
            not raw.get("dynamic"),
            "quantization_config.dynamic",
            raw.get("dynamic"),
            "empty: one setting for all layers",
        )
        offset = 1 if layout == "gptq" else 0
        return cls(method="gptq", group_size=int(size or 0), zero_offset=offset, desc_act=bool(raw.get("desc_act")))

    def to_dict(self) -> dict[str, Any]:
        """The `quantization_config` of a folder in this form, without groups out of order."""
        block = {"quant_method": self.method, "bits": 4, "group_size": self.group_size}
        if self.method == "awq":
            return block | {"version": "gemm", "zero_point": True, "modules_to_not_convert": None}
        layout = "gptq" if self.zero_offset else "gptq_v2"
        return block | {"checkpoint_format": layout, "desc_act": False, "sym": False, "lm_head": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Everything that the decoder's shape and arithmetic depend on.

    model_type:  the family, see families.py.
    head_dim:    channels of a head; None: hidden_size / num_attention_heads.
    attention_bias, output_bias: whether the projections of q, k and v, and the one behind attention, have biases.
    qk_norm:     queries and keys are RMS-normalised head by head before they are rotated.
    swish_beta:  b in the gate x * sigmoid(b x); 1 is SiLU and the only value other readers of config.json know.
    torch_dtype: the type that the weights are stored in.
    quantization_config: how the weights lie in the folder; never written, for what is saved is not packed.
    sliding_window, max_window_layers, use_sliding_window: kept for the file; a layer that would slide is refused.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    model_type: str = "qwen2"
    head_dim: int = 0
    attention_bias: bool = True
    output_bias: bool = False
    qk_norm: bool = False
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    swish_beta: float = 1.0
    initializer_range: float = 0.02
    torch_dtype: str = "float32"
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    use_sliding_window: bool = False
    sliding_window: int | None = None
    max_window_layers: int | None = None
    quantization_config: PublishedFormat | None = None

    def __post_init__(self) -> None:
        for name in _COUNTS:
            check_number(name, getattr(self, name), whole=True)
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
            require(getattr(self, name) <= _COUNTS[name], name, getattr(self, name), f"at most {_COUNTS[name]}")
        for name in ("rms_norm_eps", "rope_theta", "swish_beta", "initializer_range"):
            check_number(name, getattr(self, name), whole=False)
        for name in ("tie_word_embeddings", "use_sliding_window", "attention_bias", "output_bias", "qk_norm"):
            require(isinstance(getattr(self, name), bool), name, repr(getattr(self, name)), "true or false")
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        require(self.model_type in FAMILIES, "model_type", repr(self.model_type), f"one of {', '.join(FAMILIES)}")
        check_number("head_dim", self.head_dim, whole=True)
        if self.head_dim == 0:
            require(self.hidden_size % heads == 0, "hidden_size", self.hidden_size, f"a multiple of {heads} heads")
            object.__setattr__(self, "head_dim", self.hidden_size // heads)
        require(self.head_dim > 0 and self.head_dim % 2 == 0, "head_dim", self.head_dim, "even, for rotary pairs")
        require(heads % kv_heads == 0, "num_key_value_heads", kv_heads, f"a divisor of {heads} heads")
        require(0 < self.rms_norm_eps < 1, "rms_norm_eps", self.rms_norm_eps, "between 0 and 1")
        require(0 <= self.initializer_range <= 10, "initializer_range", self.initializer_range, "between 0 and 10")
        require(self.swish_beta > 0, "swish_beta", self.swish_beta, "above 0")
        require(self.rope_theta > 1, "rope_theta", self.rope_theta, "above 1")
        require(self.torch_dtype in DTYPES, "torch_dtype", self.torch_dtype, f"one of {', '.join(DTYPES)}")
        if self.max_window_layers is not None:
            check_number("max_window_layers", self.max_window_layers, whole=True)
        if self.use_sliding_window and (self.max_window_layers or 0) < self.num_hidden_layers:
            raise UserError(
                "`use_sliding_window` is true, but sliding-window attention is not supported",
                hint="set `use_sliding_window` to false: every layer then attends to the whole context",
            )

    @property
    def max_context(self) -> int:
        """Longest position that the rotary embedding is meant for, in tokens; YaRN extends it."""
        if not isinstance(self.rope_scaling, YarnScaling):
            return self.max_position_embeddings
        extended = int(self.rope_scaling.factor * self.rope_scaling.original_max_position_embeddings)
        return max(self.max_position_embeddings, extended)

    def replace(self, **changes: Any) -> DecoderConfig:
        derived = {"hidden_size", "num_attention_heads"} & set(changes) and "head_dim" not in changes
        if derived and self.head_dim * self.num_attention_heads == self.hidden_size:
            changes["head_dim"] = 0  # derived anew
        return replace(self, **changes)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> DecoderConfig:
        """The config that a Hugging Face config.json describes, of transformers 4 or 5.

        Bookkeeping keys are ignored. Raises UserError for another model type and for whatever would make
        this decoder compute something else than the file means.
        """
        family = find_family(raw)
        known = {field.name for field in fields(cls)}
        values = {key: value for key, value in raw.items() if key in known and value is not None}
        values |= family.switches(raw)
        values["rope_theta"], values["rope_scaling"] = read_rope(raw)
        values["torch_dtype"] = str(raw.get("torch_dtype") or raw.get("dtype") or "float32").removeprefix("torch.")
        if raw.get("quantization_config"):
            values["quantization_config"] = PublishedFormat.from_dict(raw["quantization_config"])
        values.setdefault("num_key_value_heads", raw.get("num_attention_heads"))
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            values[name] = _token_ids(name, raw.get(name))
        missing = [name for name in _COUNTS if values.get(name) is None]
        if missing:
            raise UserError(f"config.json lacks {', '.join(f'`{name}`' for name in missing)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers 4 and 5, vLLM and llama.cpp's converter open.

        `swish_beta` is written only where it is not 1: those readers do not know it.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        family = FAMILIES[self.model_type]
        for name in _OF_FAMILY:
            del values[name]
        values |= family.written({name: getattr(self, name) for name in (*_OF_FAMILY, *_COUNTS)})
        values["rope_scaling"] = self.rope_scaling.to_dict() if self.rope_scaling else None
        values["eos_token_id"] = list(self.eos_token_id) if isinstance(self.eos_token_id, tuple) else self.eos_token_id
        del values["quantization_config"]
        if self.swish_beta == 1:
            del values["swish_beta"]
        values |= {"architectures": [family.architecture], "model_type": family.model_type, "hidden_act": "silu"}
        values |= {"attention_dropout": 0.0, "use_cache": True}
        return {key: value for key, value in sorted(values.items()) if value is not None}


_COUNTS = {
    "vocab_size": 1 << 27,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 23,
    "num_hidden_layers": 1 << 12,
    "num_attention_heads": 1 << 16,
    "num_key_value_heads": 1 << 16,
    "max_position_embeddings": 1 << 31,
}
"""What a config may ask for, ten and more times what any published model has: more is a damaged file."""


_OF_FAMILY = (
    "head_dim",
    "attention_bias",
    "output_bias",
    "qk_norm",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
)
"""Fields that each family writes in its own way."""


def _token_ids(name: str, value: Any) -> int | tuple[int, ...] | None:
    if value is None:
        return None
    for one in value if isinstance(value, list) else [value]:
        check_number(name, one, whole=True)
    return tuple(value) if isinstance(value, list) else value
