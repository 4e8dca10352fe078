"""The decoder for some tokens at a time as one call of C, on a CPU in float32 (decode.c).

Decoding a small model through PyTorch's operators spends most of its time between them. Buffers are made once; the
weights are read where they are, so a step of an optimiser in place needs nothing.

Public: CpuFusedDecoder, MAX_ROWS.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from openqwq.kernels.cpu.large_pages import use_large_pages
from openqwq.kernels.cpu.library import MAX_BLOCK, MAX_GROUP, MAX_HEAD_DIM, kernels, library
from openqwq.kernels.layouts import BLOCK, KINDS

from ..decoder import Decoder, Linear
from ..kv_cache import KVCache
from ..packed_linear import PackedLinear

MAX_ROWS = 1024  # tokens of a call: its buffers grow with them
ANGLE_STEP = 1024  # positions whose angles are computed at a time
PLAIN = -1  # decode.c's kind of a float32 matrix, beside the packed ones'


class _Matrix(ctypes.Structure):
    """`matrix` of decode.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "scales", "zeros")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs")),
        *((name, ctypes.c_int32) for name in ("kind", "groups")),
    )


class _Layer(ctypes.Structure):
    """`layer` of decode.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("input_norm", "post_norm", "q_norm", "k_norm")),
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
        *((name, _Matrix) for name in ("q", "k", "v", "o", "gate", "up", "down")),
    )


class _Decoder(ctypes.Structure):
    """`decoder` of decode.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("embedding", "norm", "angles", "layers")),
        ("head", _Matrix),
        *((name, ctypes.c_void_p) for name in ("store", "attend", "panels")),
        *((name, ctypes.c_void_p) for name in ("exact_times", "exact_norm", "exact_gate", "exact_turn")),
        *((name, ctypes.c_void_p) for name in ("scratch", "logits")),
        *((name, ctypes.c_int64) for name in ("num_layers", "hidden", "intermediate", "num_positions")),
        *((name, ctypes.c_int32) for name in ("heads", "kv_heads", "dim", "block_size")),
        *((name, ctypes.c_float) for name in ("eps", "beta")),
    )


class CpuFusedDecoder:
    """One model over one cache.

    Make it by `of`, and call `bind_weights` whenever modules of the model may have been exchanged.
    """

    max_rows = MAX_ROWS
    takes_chunks = True

    def __init__(self, model: Decoder, cache: KVCache, *, both_settings: bool):
        config = model.config
        self._model, self._cache, self._call, self._both = model, cache, kernels().decode_rows, both_settings
        q_size, kv_size = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self._row_floats = 2 * (config.hidden_size + kv_size + max(config.intermediate_size, q_size)) + q_size
        self._angles = self._scratch = self._logits = torch.empty(0)
        self._pointers: list[Any] = []
        self._decoder = _Decoder(
            **_functions(),
            num_layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            dim=config.head_dim,
            block_size=cache.max_length,
            eps=config.rms_norm_eps,
            beta=config.swish_beta,
        )
        self._make_room(8, 8)

    @classmethod
    def of(cls, model: Decoder, cache: KVCache, *, both_settings: bool = False) -> CpuFusedDecoder | None:
        """None for other devices, dtypes and caches, for unusual shapes and without the C library.

        both_settings: tokens come with YaRN and without.
        """
        config = model.config
        fits = cache.max_length <= MAX_BLOCK and config.head_dim <= MAX_HEAD_DIM and cache.group_size <= MAX_GROUP
        plain = model.device.type == "cpu" and model.dtype == torch.float32 and not cache.rounds
        if not (fits and plain) or library() is None:
            return None
        return cls(model, cache, both_settings=both_settings)

    def bind_weights(self) -> bool:
        """Re-read the weight pointers; False if some layer is neither plain nor quantized."""
        model = self._model.model
        layers: Any = model.layers
        head: Any = model.embed_tokens if self._model.lm_head is None else self._model.lm_head
        own = [_linears(layer) for layer in layers]
        norms = [norm for layer in layers for norm in _norms(layer)]
        linears = [model.embed_tokens, head, *(linear for each in own for linear in each)]
        modules = (*linears, *norms, model.norm)
        pointers: list[Any] = [_pointer(tensor) for module in modules for tensor in _tensors(module)]
        pointers.append(self._model.ops.invariant)
        if pointers != self._pointers:
            self._pointers = []
            if not all(map(_is_readable, linears)):
                return False
            for tensor in (tensor for linear in linears for tensor in _tensors(linear) if tensor is not None):
                use_large_pages(tensor, filled=True)
            self._read(head, own)
            self._pointers = pointers
        return True

    def _read(self, head: Any, linears: list[list[Any]]) -> None:
        """Tell decode.c where all weights are."""
        model, cache = self._model.model, self._cache
        modules: Any = model.layers
        layers = []
        for i, (layer, own) in enumerate(zip(modules, linears, strict=True)):
            attention = layer.self_attn
            own_norms = (attention.q_norm.weight, attention.k_norm.weight) if attention.q_norm else (None, None)
            norms = (layer.input_layernorm.weight, layer.post_attention_layernorm.weight, *own_norms)
            layers.append(_Layer(*map(_pointer, (*norms, cache.keys[i], cache.values[i])), *map(_matrix, own)))
        self._layers = (_Layer * len(layers))(*layers)
        self._decoder.layers = ctypes.addressof(self._layers)
        self._decoder.embedding, self._decoder.norm = _pointer(model.embed_tokens.weight), _pointer(model.norm.weight)
        self._decoder.head = _matrix(head)
        for name, function in _exact_functions(self._model.ops.invariant).items():
            setattr(self._decoder, name, function)
        self._decoder.num_positions = 0  # the mode's angles are other ones in their last bits

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        tables: Tensor,
        longest: int,
        scaled: Tensor | None,
        num_logits: int | None = None,
    ) -> Tensor:
        """Logits [N, V] of N <= MAX_ROWS tokens [N], valid until the next call; keys and values go into the cache.

        positions [N], tables [N, W], scaled [N]: as `PagedAttention` takes them; longest: the largest position + 1.
        num_logits: only the first tokens' are wanted.
        """
        num_logits = len(tokens) if num_logits is None else num_logits
        if longest > self._decoder.num_positions:
            self._extend_angles(longest)
        self._make_room(len(tokens), num_logits)
        tokens, positions, tables = tokens.contiguous(), positions.contiguous(), tables.contiguous()
        scaled = None if scaled is None else scaled.contiguous()
        self._call(
            ctypes.byref(self._decoder),
            tokens.data_ptr(),
            positions.data_ptr(),
            tables.data_ptr(),
            None if scaled is None else scaled.data_ptr(),
            len(tokens),
            num_logits,
            tables.shape[1],
            torch.get_num_threads(),
        )
        return self._logits[:num_logits]

    def _make_room(self, num_rows: int, num_logits: int) -> None:
        """Buffers for this many tokens; larger ones take the place of those that are too small."""
        if len(self._scratch) < num_rows * self._row_floats:
            self._scratch = torch.empty(_round_up(num_rows) * self._row_floats)
            self._decoder.scratch = self._scratch.data_ptr()
        if len(self._logits) < num_logits:
            self._logits = torch.empty(_round_up(num_logits), self._model.config.vocab_size)
            self._decoder.logits = self._logits.data_ptr()

    def _extend_angles(self, longest: int) -> None:
        """Cosines and signed sines of more positions, without YaRN and with it where tokens of both kinds come."""
        positions = torch.arange(-(-longest // ANGLE_STEP) * ANGLE_STEP)
        rotary = self._model.model.rotary
        if self._model.ops.invariant:
            self._angles = torch.cat(rotary(positions, torch.float32, from_tables=True), 1)[None]
            self._decoder.angles, self._decoder.num_positions = self._angles.data_ptr(), len(positions)
            return
        settings: list[Tensor | None] = [None]
        if self._both:
            settings = [torch.full_like(positions, scaled, dtype=torch.bool) for scaled in (False, True)]
        tables = [torch.cat(rotary(positions, torch.float32, scaled), 1) for scaled in settings]
        self._angles = torch.stack(tables)  # [settings, M, 2, D]
        self._decoder.angles, self._decoder.num_positions = self._angles.data_ptr(), len(positions)


def _functions() -> dict[str, int | None]:
    """What decode.c calls."""
    functions = {"store": "store_row", "attend": "attend_some", "panels": "linear_panels"}
    return {
        name: ctypes.cast(getattr(kernels(), function), ctypes.c_void_p).value for name, function in functions.items()
    }


def _exact_functions(invariant: bool) -> dict[str, int | None]:
    """What decode.c computes with in the batch-invariant mode; nothing outside it."""
    sources = {
        "exact_times": "multiply_some",
        "exact_norm": "norm_row",
        "exact_gate": "swiglu_row",
        "exact_turn": "turn_row",
    }
    if not invariant:
        return dict.fromkeys(sources)
    return {
        name: ctypes.cast(getattr(kernels(), function), ctypes.c_void_p).value for name, function in sources.items()
    }


def _linears(layer: Any) -> list[Any]:
    """A layer's matrices in decode.c's order."""
    attention, mlp = layer.self_attn, layer.mlp
    inputs = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    return [*inputs, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def _norms(layer: Any) -> list[Any]:
    attention = layer.self_attn
    norms = [layer.input_layernorm, layer.post_attention_layernorm, attention.q_norm, attention.k_norm]
    return [norm for norm in norms if norm is not None]


def _tensors(module: Any) -> Iterator[Tensor | None]:
    yield from module._parameters.values()  # by itself: the public iterators walk the tree and take far longer
    yield from module._buffers.values()


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _matrix(linear: Any) -> _Matrix:
    bias = _pointer(getattr(linear, "bias", None))
    if isinstance(linear, PackedLinear):
        kind, pointers = KINDS.index(linear.kind), map(_pointer, (linear.scales, linear.zeros))
        shape = (linear.in_features, linear.out_features, kind, linear.num_groups)
        return _Matrix(_pointer(linear.codes), bias, *pointers, *shape)
    return _Matrix(_pointer(linear.weight), bias, None, None, *reversed(linear.weight.shape), PLAIN, 1)


def _is_readable(linear: Any) -> bool:
    """Whether decode.c can multiply by a layer (or, tied, the embedding)."""
    if isinstance(linear, PackedLinear):
        return linear.order is None and linear.in_features % BLOCK == 0
    tensors = (linear.weight, getattr(linear, "bias", None))
    kind_known = type(linear) is Linear or isinstance(linear, torch.nn.Embedding)
    return kind_known and all(
        t is None or (t.is_contiguous() and t.dtype == torch.float32 and t.device.type == "cpu") for t in tensors
    )


def _round_up(number: int) -> int:
    """To a power of two: buffers grow a few times only."""
    return 1 << (number - 1).bit_length() if number > 1 else 1
