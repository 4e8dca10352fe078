"""The configs that have a name: QwQ-32B, published models of each family by their shape, and `tiny`.

Public: `preset`, `PRESETS`, `HUB_NAMES`.
"""

from __future__ import annotations

import difflib

from openqwq.errors import UserError

from .config import DecoderConfig
from .rope_settings import Llama3Scaling


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


def _qwen3(
    hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, *, tied: bool = False
) -> DecoderConfig:
    return DecoderConfig(
        model_type="qwen3",
        vocab_size=151936,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=128,
        attention_bias=False,
        qk_norm=True,
        max_position_embeddings=40960,
        rope_theta=1e6,
        tie_word_embeddings=tied,
        torch_dtype="bfloat16",
        bos_token_id=151643,
        eos_token_id=151645,
        max_window_layers=layers,
    )


def _llama(
    hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, *, vocab: int, context: int,
    theta: float, scaling: float = 0.0, tied: bool = False, model_type: str = "llama", head_dim: int = 0,
    bos: int = 1, eos: int | tuple[int, ...] = 2,
) -> DecoderConfig:  # fmt: skip
    rope = Llama3Scaling(factor=scaling, original_max_position_embeddings=8192) if scaling else None
    return DecoderConfig(
        model_type=model_type,
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        attention_bias=False,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        rope_theta=theta,
        rope_scaling=rope,
        tie_word_embeddings=tied,
        torch_dtype="bfloat16",
        bos_token_id=bos,
        eos_token_id=eos,
    )


def _llama3(*shape: int, scaling: float, tied: bool = False) -> DecoderConfig:
    eos = (128001, 128008, 128009)
    return _llama(*shape, vocab=128256, context=131072, theta=5e5, scaling=scaling, tied=tied, bos=128000, eos=eos)


def _smollm2(*shape: int, theta: float = 1e5) -> DecoderConfig:
    return _llama(*shape, vocab=49152, context=8192, theta=theta, tied=True)


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
    "qwen3-0.6b": _qwen3(1024, 28, 16, 8, 3072, tied=True),
    "qwen3-1.7b": _qwen3(2048, 28, 16, 8, 6144, tied=True),
    "qwen3-4b": _qwen3(2560, 36, 32, 8, 9728, tied=True),
    "qwen3-8b": _qwen3(4096, 36, 32, 8, 12288),
    "qwen3-14b": _qwen3(5120, 40, 40, 8, 17408),
    "qwen3-32b": _qwen3(5120, 64, 64, 8, 25600),
    "llama-3.2-1b": _llama3(2048, 16, 32, 8, 8192, scaling=32.0, tied=True),
    "llama-3.2-3b": _llama3(3072, 28, 24, 8, 8192, scaling=32.0, tied=True),
    "llama-3.1-8b": _llama3(4096, 32, 32, 8, 14336, scaling=8.0),
    "llama-3.1-70b": _llama3(8192, 80, 64, 8, 28672, scaling=8.0),
    "smollm2-135m": _smollm2(576, 30, 9, 3, 1536),
    "smollm2-360m": _smollm2(960, 32, 15, 5, 2560),
    "smollm2-1.7b": _smollm2(2048, 24, 32, 32, 8192, theta=130000.0),
    "mistral-7b": _llama(4096, 32, 32, 8, 14336, vocab=32768, context=32768, theta=1e6, model_type="mistral"),
    "mistral-nemo-12b": _llama(
        5120, 40, 32, 8, 14336, vocab=131072, context=131072, theta=1e6, model_type="mistral", head_dim=128
    ),
}

HUB_NAMES = {
    "qwq-32b": "Qwen/QwQ-32B",
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B-Instruct",
    "llama-3.2-3b": "meta-llama/Llama-3.2-3B-Instruct",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "llama-3.1-70b": "meta-llama/Llama-3.1-70B-Instruct",
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "smollm2-360m": "HuggingFaceTB/SmolLM2-360M-Instruct",
    "smollm2-1.7b": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "mistral-7b": "mistralai/Mistral-7B-Instruct-v0.3",
    "mistral-nemo-12b": "mistralai/Mistral-Nemo-Instruct-2407",
} | {
    name: f"Qwen/{family}-{name.removeprefix(f'{family.lower()}-').upper()}"
    for family in ("Qwen2.5", "Qwen3")
    for name in PRESETS
    if name.startswith(f"{family.lower()}-")
}


def preset(name: str) -> DecoderConfig:
    """The config of that name. Raises UserError for another one, naming the nearest."""
    if name in PRESETS:
        return PRESETS[name]
    nearest = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0)
    raise UserError(f"there is no preset {name!r}; presets are {', '.join(PRESETS)}", hint=f"try `{nearest[0]}`")
