"""Model families: what differs between them, read from config.json, written to it, or refused.

One decoder computes all of them: grouped-query attention, RMSNorm before each block, SwiGLU, rotary embedding. Families
differ in biases, in norms of queries and keys, in the size of a head and in the rotary scaling.

Public: Family, FAMILIES, find_family.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from openqwq.errors import UserError

from .config_values import require

FULL = "full_attention"
FOREIGN = {
    "num_experts": "a mixture of experts",
    "num_local_experts": "a mixture of experts",
    "n_routed_experts": "a mixture of experts",
    "attn_logit_softcapping": "soft-capped attention scores",
    "final_logit_softcapping": "soft-capped logits",
    "query_pre_attn_scalar": "another scale of attention scores",
    "embedding_multiplier": "scaled embeddings",
    "residual_multiplier": "scaled residuals",
    "attention_multiplier": "another scale of attention scores",
    "logits_scaling": "scaled logits",
    "mlp_bias": "biases in the MLP",
    "no_rope_layers": "layers without rotary embedding",
    "attention_dropout": "dropout in attention",
}
"""Keys of config.json that change the computation in a way that this decoder does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One `model_type`.

    architecture: as transformers and vLLM name it.
    members:      well-known models, for messages.
    switches:     `DecoderConfig` fields that the family decides, from config.json.
    written:      keys of config.json that only this family has, from those fields.
    """

    model_type: str
    architecture: str
    members: str
    switches: Callable[[Mapping[str, Any]], dict[str, Any]]
    written: Callable[[Mapping[str, Any]], dict[str, Any]]


def find_family(raw: Mapping[str, Any]) -> Family:
    """The family of a config.json. Raises UserError for others, and for keys that would change the computation."""
    name = raw.get("model_type")
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        near = difflib.get_close_matches(str(name), FAMILIES, n=1)
        supported = "; ".join(f"{own.model_type} ({own.members})" for own in FAMILIES.values())
        raise UserError(
            f"`model_type` is {name!r} in config.json, which is not supported",
            hint=(f"did you mean {near[0]!r}? " if near else "") + f"supported: {supported}",
        )
    for key, what in FOREIGN.items():
        if raw.get(key) not in (None, False, 0, 0.0, []) and not (key.endswith("multiplier") and raw[key] == 1):
            raise UserError(f"`{key}` is {raw[key]!r:.80} in config.json: {what}, which is not supported")
    if raw.get("hidden_act", "silu") != "silu":
        raise UserError(f"`hidden_act` is {raw['hidden_act']!r} in config.json, but only 'silu' is supported")
    if sliding := _other_layers(raw):
        raise UserError(
            f"`layer_types` of config.json has {sliding}, but only {FULL!r} layers are supported",
            hint=f"where the model was trained without a window, set all `layer_types` to {FULL!r}",
        )
    return family


def _other_layers(raw: Mapping[str, Any]) -> str:
    """The layer types that are not full attention; they decide, with or without `use_sliding_window`."""
    kinds = raw.get("layer_types")
    if kinds is None:
        return ""
    if not isinstance(kinds, list):
        raise UserError(f"`layer_types` is {kinds!r:.80} in config.json, but must be a list")
    return ", ".join(sorted({repr(kind) for kind in kinds if kind != FULL}))


def _flag(raw: Mapping[str, Any], name: str) -> bool:
    value = raw.get(name, False)
    require(value is None or isinstance(value, bool), name, repr(value), "true or false")
    return bool(value)


def _qwen2(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {"attention_bias": True, "output_bias": False, "qk_norm": False}


def _qwen2_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    usual = values["head_dim"] * values["num_attention_heads"] == values["hidden_size"]
    return ({} if usual else {"head_dim": values["head_dim"]}) | {
        "use_sliding_window": values["use_sliding_window"],
        "sliding_window": values["sliding_window"],
        "max_window_layers": values["max_window_layers"] or values["num_hidden_layers"],
    }


def _qwen3(raw: Mapping[str, Any]) -> dict[str, Any]:
    bias = _flag(raw, "attention_bias")
    head_dim = raw.get("head_dim", 128)  # as transformers, whatever the hidden size
    return {"attention_bias": bias, "output_bias": bias, "qk_norm": True, "head_dim": head_dim}


def _qwen3_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"attention_bias": values["attention_bias"], "head_dim": values["head_dim"], **_qwen2_keys(values)}


def _llama(raw: Mapping[str, Any]) -> dict[str, Any]:
    bias = _flag(raw, "attention_bias")
    return {"attention_bias": bias, "output_bias": bias, "qk_norm": False, "use_sliding_window": False}


def _llama_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"attention_bias": values["attention_bias"], "head_dim": values["head_dim"], "mlp_bias": False}


def _mistral(raw: Mapping[str, Any]) -> dict[str, Any]:
    window, context = raw.get("sliding_window"), raw.get("max_position_embeddings", 32768)
    if isinstance(window, int) and isinstance(context, int) and window < context:
        raise UserError(
            f"`sliding_window` is {window} in config.json, shorter than the context of {context}, and not supported",
            hint=f"set `sliding_window` to null and `max_position_embeddings` to {window}: within it nothing changes",
        )
    return {"attention_bias": False, "output_bias": False, "qk_norm": False, "use_sliding_window": False}


def _mistral_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"head_dim": values["head_dim"], "sliding_window": None}


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            model_type="qwen2",
            architecture="Qwen2ForCausalLM",
            members="QwQ-32B, Qwen2.5, DeepSeek-R1-Distill-Qwen",
            switches=_qwen2,
            written=_qwen2_keys,
        ),
        Family(
            model_type="qwen3",
            architecture="Qwen3ForCausalLM",
            members="Qwen3, dense models",
            switches=_qwen3,
            written=_qwen3_keys,
        ),
        Family(
            model_type="llama",
            architecture="LlamaForCausalLM",
            members="Llama 2 and 3, SmolLM2, TinyLlama, DeepSeek-R1-Distill-Llama",
            switches=_llama,
            written=_llama_keys,
        ),
        Family(
            model_type="mistral",
            architecture="MistralForCausalLM",
            members="Mistral 7B v0.3, Nemo, Small",
            switches=_mistral,
            written=_mistral_keys,
        ),
    )
}
