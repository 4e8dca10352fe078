"""GGUF files of random models, written by the `gguf` package as llama.cpp's converter writes them."""

import gguf
import numpy as np
import torch
from gguf.quants import quantize

from openqwq.model import DecoderConfig, create_model

BASE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "initializer_range": 0.3,
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
BYTES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
ALPHABET = [chr(b) for b in BYTES] + [chr(0x100 + i) for i in range(256 - len(BYTES))]
TOKENS = [*ALPHABET, "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "Ġa", "an", "[PAD263]"]
KINDS = [*[1] * 256, 3, 3, 3, 4, 4, 1, 1, 5]
MERGES = ["Ġ a", "a n"]


def random_model(raw, seed=1):
    """A model in float32 whose biases and norms are random too."""
    model = create_model(DecoderConfig.from_dict({**BASE, "vocab_size": len(TOKENS), **raw}), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def interleaved(weight, heads):
    """Rows as converters of Llama models order them: pairs half a head apart come next to each other."""
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def own_name(name):
    """The name in a GGUF file of a Hugging Face tensor."""
    module, _, part = name.rpartition(".")
    if module.startswith("model.layers."):
        _, _, layer, inner = module.split(".", 3)
        return f"blk.{layer}.{NAMES[inner]}.{part}"
    return f"{NAMES[module]}.{part}"


def write_model(path, model, *, kind="F32", keys=None, extra=None, permute=True, drop=(), tokenizer=None):
    """Write a model's file; matrices are of the type `kind`. Returns the weights that it holds, by Hugging Face's name.

    keys: written beside the model's own or instead of them; None leaves one out. extra: further tensors.
    """
    config = model.config
    arch = "llama" if config.model_type == "mistral" else config.model_type
    writer = gguf.GGUFWriter(path, arch)
    held = {}
    for key, value in {**model_keys(config, arch), **(tokenizer or tokenizer_keys()), **(keys or {})}.items():
        add_key(writer, key, value)
    for name, tensor in model.state_dict().items():
        if name in drop or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        own = gguf.GGMLQuantizationType["F32" if tensor.ndim == 1 else kind]
        data, heads = tensor.numpy(), {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        part = name.split(".")[-2]
        turned = arch == "llama" and permute and part in heads
        stored = quantize(np.ascontiguousarray(interleaved(data, heads[part]) if turned else data), own)
        writer.add_tensor(own_name(name), stored, raw_dtype=own)
        widened = gguf.quants.dequantize(quantize(np.ascontiguousarray(data), own), own)
        held[name] = torch.from_numpy(widened.reshape(data.shape).copy())  # blocks are of rows: the order is no matter
    for name, data in (extra or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def model_keys(config, arch):
    """The keys that describe a model's shape."""
    return {
        f"{arch}.block_count": config.num_hidden_layers,
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.attention.head_count": config.num_attention_heads,
        f"{arch}.attention.head_count_kv": config.num_key_value_heads,
        f"{arch}.attention.key_length": config.head_dim,
        f"{arch}.attention.value_length": config.head_dim,
        f"{arch}.rope.dimension_count": config.head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{arch}.rope.freq_base": config.rope_theta,
        f"{arch}.vocab_size": config.vocab_size,
    }


def tokenizer_keys(pre="qwen2", tokens=TOKENS, kinds=KINDS, merges=MERGES):
    """The keys that describe a tokenizer."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.token_type": list(kinds),
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.eos_token_id": list(tokens).index("<|im_end|>"),
        "tokenizer.ggml.padding_token_id": list(tokens).index("<|endoftext|>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}",
    }


def add_key(writer, key, value):
    """A key by its Python type; whole numbers are uint32, others float32."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)
