"""The decoder for a few tokens at a time as one call of C, on a CPU in float32 (decode.c).

Decoding one stream of a small model through PyTorch's operators spends most of its time between them. Buffers are made
once; the weights are read where they are, so a step of an optimiser in place needs nothing.

Public: DecodeKernel, MAX_ROWS.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from .kv_cache import KVCache
from .native import MAX_BLOCK, MAX_GROUP, MAX_HEAD_DIM, decode_kernels, native_kernels
from .qwen2 import Linear, Qwen2ForCausalLM

MAX_ROWS = 8  # with more of them matrix products by PyTorch catch up
ANGLE_STEP = 1024  # positions whose angles are computed at a time


class _Decoder(ctypes.Structure):
    """`decoder` of decode.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("embedding", "layers", "norm", "head", "angles")),
        *((name, ctypes.c_void_p) for name in ("attend", "scratch", "logits")),
        *((name, ctypes.c_int64) for name in ("num_layers", "hidden", "intermediate", "vocab", "num_positions")),
        *((name, ctypes.c_int32) for name in ("heads", "kv_heads", "dim", "block_size")),
        *((name, ctypes.c_float) for name in ("eps", "beta")),
    )


class DecodeKernel:
    """One model over one cache.

    Make it by `of`, and call `look` whenever modules of the model may have been exchanged.
    """

    max_rows = MAX_ROWS

    def __init__(self, model: Qwen2ForCausalLM, cache: KVCache, *, both_settings: bool):
        kernels, attention = decode_kernels(), native_kernels()
        assert kernels is not None and attention is not None
        config = model.config
        self._model, self._cache, self._call, self._both = model, cache, kernels.decode_rows, both_settings
        q_size, kv_size = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        inner = max(config.intermediate_size, q_size)
        self._scratch = torch.empty(MAX_ROWS * (2 * config.hidden_size + q_size + 2 * kv_size + 2 * inner))
        self.logits = torch.empty(MAX_ROWS, config.vocab_size)
        self._angles = torch.empty(0)
        self._tensors: list[Tensor | None] = []
        self._decoder = _Decoder(
            attend=ctypes.cast(attention.attend_paged, ctypes.c_void_p),
            scratch=self._scratch.data_ptr(),
            logits=self.logits.data_ptr(),
            num_layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            vocab=config.vocab_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            dim=config.head_dim,
            block_size=cache.max_length,
            eps=config.rms_norm_eps,
            beta=config.swish_beta,
        )

    @classmethod
    def of(cls, model: Qwen2ForCausalLM, cache: KVCache, *, both_settings: bool = False) -> DecodeKernel | None:
        """None where it cannot be: other devices, dtypes and caches, unusual shapes, no C compiler.

        both_settings: tokens come with YaRN and without.
        """
        config = model.config
        fits = cache.max_length <= MAX_BLOCK and config.head_dim <= MAX_HEAD_DIM and cache.group_size <= MAX_GROUP
        plain = model.device.type == "cpu" and model.dtype == torch.float32 and not cache.rounds
        if not (fits and plain) or decode_kernels() is None or native_kernels() is None:
            return None
        return cls(model, cache, both_settings=both_settings)

    def look(self) -> bool:
        """Find the weights; False where some layers are not plain ones, so that the kernel must not be used."""
        tensors = None if self._model.batch_invariant else _weights(self._model, self._cache)
        self._tensors = tensors or []
        if tensors is None:
            return False
        embedding, norm, head, *layers = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
        self._layers = (ctypes.c_void_p * len(layers))(*layers)
        self._decoder.embedding, self._decoder.norm, self._decoder.head = embedding, norm, head
        self._decoder.layers = ctypes.cast(self._layers, ctypes.c_void_p)
        return True

    def __call__(
        self, tokens: Tensor, positions: Tensor, tables: Tensor, longest: int, scaled: Tensor | None
    ) -> Tensor:
        """Logits [N, V] of N <= MAX_ROWS tokens [N], valid until the next call; keys and values go into the cache.

        positions [N], tables [N, W], scaled [N]: as `PagedAttention` takes them; longest: the largest position + 1.
        """
        if longest > self._decoder.num_positions:
            self._extend_angles(longest)
        tokens, positions, tables = tokens.contiguous(), positions.contiguous(), tables.contiguous()
        scaled = None if scaled is None else scaled.contiguous()
        self._call(
            ctypes.byref(self._decoder),
            tokens.data_ptr(),
            positions.data_ptr(),
            tables.data_ptr(),
            None if scaled is None else scaled.data_ptr(),
            len(tokens),
            tables.shape[1],
            torch.get_num_threads(),
        )
        return self.logits[: len(tokens)]

    def _extend_angles(self, longest: int) -> None:
        """Cosines and signed sines of more positions, without YaRN and with it where tokens of both kinds come."""
        positions = torch.arange(-(-longest // ANGLE_STEP) * ANGLE_STEP)
        rotary = self._model.model.rotary
        settings: list[Tensor | None] = [None]
        if self._both:
            settings = [torch.full_like(positions, scaled, dtype=torch.bool) for scaled in (False, True)]
        tables = [torch.cat(rotary(positions, torch.float32, scaled), 1) for scaled in settings]
        self._angles = torch.stack(tables)  # [settings, M, 2, D]
        self._decoder.angles, self._decoder.num_positions = self._angles.data_ptr(), len(positions)


def _weights(model: Qwen2ForCausalLM, cache: KVCache) -> list[Tensor | None] | None:
    """Embedding, last norm, head, each layer's weights and cache, in decode.c's order; None if a layer is not plain."""
    decoder = model.model
    layers: Any = decoder.layers
    if model.lm_head is not None and type(model.lm_head) is not Linear:
        return None
    head = decoder.embed_tokens.weight if model.lm_head is None else model.lm_head.weight
    tensors: list[Tensor | None] = [decoder.embed_tokens.weight, decoder.norm.weight, head]
    for layer, keys, values in zip(layers, cache.keys, cache.values, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        inputs = (attention.q_proj, attention.k_proj, attention.v_proj)
        rest = (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        if any(type(linear) is not Linear for linear in inputs + rest):
            return None
        tensors.append(layer.input_layernorm.weight)
        tensors += [tensor for linear in inputs for tensor in (linear.weight, linear.bias)]
        tensors += [attention.o_proj.weight, layer.post_attention_layernorm.weight]
        tensors += [mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight, keys, values]
    plain = all(
        t is None or (t.is_contiguous() and t.dtype == torch.float32 and t.device.type == "cpu") for t in tensors
    )
    return tensors if plain else None
