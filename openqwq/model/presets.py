"""The configs that have a name: QwQ-32B, the Qwen2.5 base models as published, and `tiny`.

Public: `preset`, `PRESETS`, `HUB_NAMES`.
"""

from __future__ import annotations

import difflib

from openqwq.errors import UserError

from .config import DecoderConfig


def _qwen25(
    hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, *, context: int = 131072,
    vocab: int = 152064, tied: bool = False, eps: float = 1e-6,
) -> DecoderConfig:  # fmt: skip
    return DecoderConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        rms_norm_eps=eps,
        rope_theta=1e6,
        tie_word_embeddings=tied,
        torch_dtype="bfloat16",
        bos_token_id=151643,
        eos_token_id=151643,
        sliding_window=context,
        max_window_layers=layers,
    )


PRESETS: dict[str, DecoderConfig] = {
    "tiny": DecoderConfig(
        vocab_size=1024,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    ),
    "qwq-32b": _qwen25(5120, 64, 40, 8, 27648, context=40960, eps=1e-5).replace(
        eos_token_id=151645, sliding_window=32768
    ),
    "qwen2.5-0.5b": _qwen25(896, 24, 14, 2, 4864, context=32768, vocab=151936, tied=True),
    "qwen2.5-1.5b": _qwen25(1536, 28, 12, 2, 8960, vocab=151936, tied=True),
    "qwen2.5-3b": _qwen25(2048, 36, 16, 2, 11008, context=32768, vocab=151936, tied=True),
    "qwen2.5-7b": _qwen25(3584, 28, 28, 4, 18944),
    "qwen2.5-14b": _qwen25(5120, 48, 40, 8, 13824, eps=1e-5),
    "qwen2.5-32b": _qwen25(5120, 64, 40, 8, 27648, eps=1e-5),
    "qwen2.5-72b": _qwen25(8192, 80, 64, 8, 29568, eps=1e-5),
}

HUB_NAMES = {"qwq-32b": "Qwen/QwQ-32B"} | {
    name: f"Qwen/Qwen2.5-{name.removeprefix('qwen2.5-').upper()}" for name in PRESETS if name.startswith("qwen2.5-")
}


def preset(name: str) -> DecoderConfig:
    """The config of that name. Raises UserError for another one, naming the nearest."""
    if name in PRESETS:
        return PRESETS[name]
    nearest = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0)
    raise UserError(f"there is no preset {name!r}; presets are {', '.join(PRESETS)}", hint=f"try `{nearest[0]}`")
