"""The config.json that a GGUF file's keys mean. A key that changes the computation is read or refused.

Public: model_config, tensor_table, Keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from openqwq.errors import UserError

from .container import GgufFile

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""Those that are read, and the class of their Hugging Face config; files of Mistral models say `llama`."""
EMBEDDING, OUTPUT, ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
MATRICES_OF_A_LAYER = 7
QUANTIZATION_VERSION = 2
READ = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.causal",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.finetuned",
    "vocab_size",
    "tensor_data_layout",
}
"""Keys of an architecture that are read; any other is refused unless it is 0, false or empty."""


class Keys:
    """Typed reading of a file's keys; `name` is of the architecture unless it says `general.` or `tokenizer.`."""

    def __init__(self, file: GgufFile):
        self.file = file
        self.architecture = self.text("general.architecture")

    def get(self, name: str, types: type | tuple[type, ...], what: str, default: Any) -> Any:
        """The value. Raises UserError where it has another type, and where it is absent without a default."""
        whole = name if name.startswith(("general.", "tokenizer.", "split.")) else f"{self.architecture}.{name}"
        value = self.file.keys.get(whole, default)
        if value is ...:
            raise UserError(f"{self.file.path} lacks the key `{whole}`", hint="download or convert it again")
        right = isinstance(value, types) and (types is bool or not isinstance(value, bool))
        if whole in self.file.keys and not (right and (not isinstance(value, float) or math.isfinite(value))):
            raise UserError(f"`{whole}` is {value!r:.80} in {self.file.path}, but must be {what}")
        return value

    def text(self, name: str, default: Any = ...) -> Any:
        return self.get(name, str, "a text", default)

    def whole(self, name: str, default: Any = ...) -> Any:
        return self.get(name, int, "a whole number", default)

    def number(self, name: str, default: Any = ...) -> Any:
        return self.get(name, (int, float), "a number", default)

    def flag(self, name: str, default: Any = ...) -> Any:
        return self.get(name, bool, "true or false", default)

    def refuse(self, name: str, why: str, hint: str = "") -> UserError:
        value = self.file.keys.get(f"{self.architecture}.{name}")
        return UserError(f"`{self.architecture}.{name}` is {value!r:.80} in {self.file.path}: {why}", hint=hint)


def model_config(file: GgufFile) -> dict[str, Any]:
    """A config.json for the file's model, without token ids. Raises UserError for a model that is not read here."""
    _check_kind(file)
    keys = Keys(file)
    if keys.architecture not in ARCHITECTURES:
        raise UserError(
            f"{file.path} holds a model of the architecture {keys.architecture!r}, which is not supported",
            hint=f"supported: {', '.join(ARCHITECTURES)} (Mistral's files say llama)",
        )
    _refuse_unknown(keys)
    heads, hidden = keys.whole("attention.head_count"), keys.whole("embedding_length")
    for name in ("attention.head_count", "embedding_length", "block_count"):
        if keys.whole(name) < 1:
            raise keys.refuse(name, "it must be at least 1")
    head_dim = keys.whole("attention.key_length", hidden // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if keys.whole(name, head_dim) != head_dim:
            raise keys.refuse(name, f"heads have {head_dim} channels, and only such models are supported")
    theta = float(keys.number("rope.freq_base", 10000.0))
    if theta <= 1:
        raise keys.refuse("rope.freq_base", "it must be above 1")
    context, window = keys.whole("context_length"), keys.whole("attention.sliding_window", 0)
    if 0 < window < context:
        raise keys.refuse("attention.sliding_window", f"windows shorter than the context, {context}, are not supported")
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[keys.architecture]],
        "model_type": keys.architecture,
        "hidden_act": "silu",
        "vocab_size": _vocab_size(keys),
        "hidden_size": hidden,
        "intermediate_size": keys.whole("feed_forward_length"),
        "num_hidden_layers": keys.whole("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.whole("attention.head_count_kv", heads),
        "max_position_embeddings": context,
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": theta,
        "tie_word_embeddings": OUTPUT not in file.tensors,
        "torch_dtype": _dtype(file),
    }
    if keys.architecture != "qwen2" or head_dim * heads != hidden:
        config["head_dim"] = head_dim
    if keys.architecture != "qwen2":
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
    if scaling := _yarn(keys):
        config["rope_scaling"] = scaling
    return config


def tensor_table(file: GgufFile, config: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name in the file -> Hugging Face's name and the shape that the config asks for, of every tensor of the model.

    Raises UserError, before anything is read, for tensors that are missing, unexpected or of another shape.
    """
    layers = config["num_hidden_layers"]
    if layers * MATRICES_OF_A_LAYER > len(file.tensors):
        raise UserError(
            f"{file.path} is said to have {layers} layers, but holds {len(file.tensors)} tensors",
            hint="it is damaged: download or convert it again",
        )
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    table: dict[str, tuple[str, tuple[int, ...]]] = {
        EMBEDDING: ("model.embed_tokens.weight", (vocab, hidden)),
        "output_norm.weight": ("model.norm.weight", (hidden,)),
    }
    if not config["tie_word_embeddings"]:
        table[OUTPUT] = ("lm_head.weight", (vocab, hidden))
    for layer in range(layers):
        for name, (other, shape) in _layer_table(config).items():
            table[f"blk.{layer}.{name}"] = (f"model.layers.{layer}.{other}", shape)
    optional = {name for name in table if name.endswith("attn_output.bias") and config["model_type"] == "llama"}
    if missing := [name for name in table if name not in file.tensors and name not in optional]:
        raise UserError(
            f"{file.path} lacks {len(missing)} tensors, among them `{missing[0]}`", hint="download it again"
        )
    if unexpected := [name for name in file.tensors if name not in table and name != ROPE_FACTORS]:
        raise UserError(f"{file.path} holds the unexpected tensor `{unexpected[0]}`, and would not be computed rightly")
    for name, (_, shape) in table.items():
        if name in file.tensors and file.tensors[name].shape != shape:
            found = list(file.tensors[name].shape)
            raise UserError(f"`{name}` in {file.path} has the shape {found}, but its keys ask for {list(shape)}")
    return table


def _layer_table(config: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim", hidden // config["num_attention_heads"])
    q, kv = (config[f"num_{kind}_heads"] * head_dim for kind in ("attention", "key_value"))
    table: dict[str, tuple[str, tuple[int, ...]]] = {
        "attn_norm.weight": ("input_layernorm.weight", (hidden,)),
        "ffn_norm.weight": ("post_attention_layernorm.weight", (hidden,)),
        "ffn_gate.weight": ("mlp.gate_proj.weight", (wide, hidden)),
        "ffn_up.weight": ("mlp.up_proj.weight", (wide, hidden)),
        "ffn_down.weight": ("mlp.down_proj.weight", (hidden, wide)),
    }
    rows = {"attn_q": ("q_proj", q, hidden), "attn_k": ("k_proj", kv, hidden), "attn_v": ("v_proj", kv, hidden)}
    rows["attn_output"] = ("o_proj", hidden, q)
    biased = config.get("attention_bias", True)
    for name, (other, outputs, inputs) in rows.items():
        table[f"{name}.weight"] = (f"self_attn.{other}.weight", (outputs, inputs))
        if biased and not (name == "attn_output" and config["model_type"] == "qwen2"):
            table[f"{name}.bias"] = (f"self_attn.{other}.bias", (outputs,))
    if config["model_type"] == "qwen3":
        table |= {f"attn_{kind}_norm.weight": (f"self_attn.{kind}_norm.weight", (head_dim,)) for kind in "qk"}
    return table


def _check_kind(file: GgufFile) -> None:
    """Raises UserError for parts of models, adapters, and blocks of another generation."""
    kind = file.keys.get("general.type", "model")
    if kind != "model":
        raise UserError(f"{file.path} holds no model, but is of the type {kind!r}", hint="give the model's own file")
    if file.keys.get("split.count", 0) not in (0, 1):
        raise UserError(
            f"{file.path} is one of {file.keys['split.count']} parts of a model",
            hint="join them first: `llama-gguf-split --merge FIRST-PART OUT.gguf`",
        )
    version = file.keys.get("general.quantization_version", QUANTIZATION_VERSION)
    if version != QUANTIZATION_VERSION:
        raise UserError(f"`general.quantization_version` is {version!r} in {file.path}, but only 2 is supported")


def _refuse_unknown(keys: Keys) -> None:
    """Raises UserError for a key of the architecture that may change the computation in a way not known here."""
    for name, value in keys.file.keys.items():
        own = name.removeprefix(f"{keys.architecture}.")
        if own != name and own not in READ and value not in (0, 0.0, False, "", []):
            raise keys.refuse(own, "this key is not supported, and leaving it out may change what the model computes")
    if not keys.flag("attention.causal", True):
        raise keys.refuse("attention.causal", "only causal attention is supported")
    if keys.text("tensor_data_layout", "") not in ("", "Meta AI original pth"):
        raise keys.refuse("tensor_data_layout", "this order of weights is not supported")


def _vocab_size(keys: Keys) -> int:
    embedding = keys.file.tensors.get(EMBEDDING)
    if embedding is None:
        raise UserError(f"{keys.file.path} lacks the tensor `{EMBEDDING}`", hint="download or convert it again")
    rows = embedding.shape[0]
    if keys.whole("vocab_size", rows) != rows:
        raise keys.refuse("vocab_size", f"the embedding has {rows} rows")
    return rows


def _dtype(file: GgufFile) -> str:
    """The type that holds the matrices as they are, and bfloat16 for quantised ones."""
    kinds = {info.kind for info in file.tensors.values() if len(info.shape) > 1}
    if kinds <= {"F32", "F16", "BF16"}:
        return "float16" if kinds == {"F16"} else "bfloat16" if kinds == {"BF16"} else "float32"
    return "bfloat16"


def _yarn(keys: Keys) -> dict[str, Any] | None:
    """The `rope_scaling` block of YaRN; None without any. Raises UserError for what is not computed here."""
    kind, factor = keys.text("rope.scaling.type", "none"), keys.number("rope.scaling.factor", 1.0)
    if keys.number("rope.scale_linear", 1.0) != 1:
        raise keys.refuse("rope.scale_linear", "linear scaling of positions is not supported")
    for name in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor"):
        if keys.number(f"rope.scaling.{name}", 1.0) != 1:
            raise keys.refuse(f"rope.scaling.{name}", "only 1 is supported")
    if kind == "none" or factor == 1:
        return None
    if kind != "yarn":
        raise keys.refuse("rope.scaling.type", "of rope scalings, YaRN and Llama 3's are supported")
    block = {
        "type": "yarn",
        "rope_type": "yarn",
        "factor": float(factor),
        "original_max_position_embeddings": keys.whole("rope.scaling.original_context_length"),
    }
    ramp = {name: keys.number(f"rope.scaling.yarn_{name}", None) for name in ("beta_fast", "beta_slow")}
    return block | {name: float(value) for name, value in ramp.items() if value is not None}
