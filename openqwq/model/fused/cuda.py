"""The decoder for rows of one token each on a GPU: kernels of Triton in a CUDA graph.

A decoding step of one stream is some six hundred kernels of a few microseconds; started one by one from Python they
would take longer to start than to run. So a step is captured once for each size of batch and then replayed, over
buffers that are made once; a batch is filled up with rows at position -1, which read and store nothing. Projections
that read the same input are one product: their weights are laid end to end, and the modules keep views of them, so
that optimiser steps in place and `load_state_dict` need nothing.

Public: CudaFusedDecoder, BUCKETS.
Letters: M rows, C hidden size, I intermediate size, H heads, K kv heads, D head dim, V vocabulary.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from openqwq.kernels.triton.attention import SplitBuffers, attend_rows, interpreted, num_splits
from openqwq.kernels.triton.layers import add_norm, gate, turn_and_store
from openqwq.kernels.triton.linear import Tiling, Weights, default_tiling, multiply
from openqwq.kernels.triton.tuning import MOST_SPLIT_ROWS, choose_tiling, output_of
from openqwq.log import logger

from ..decoder import Decoder
from ..kv_cache import KVCache
from .cuda_weights import LayerWeights, fuse_weights, head_weights, weight_places

BUCKETS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
TILE_ROWS = (1, 16, 32, 64, 128)  # sizes of batch that are measured; the others take the next one's tilings


@dataclass(slots=True)
class _Step:
    """The pass of one size of batch. logits: [M, V], where a replay leaves them."""

    rows: int
    splits: int
    tilings: dict[str, Tiling]
    graph: torch.cuda.CUDAGraph | None = None
    logits: Tensor | None = None


@dataclass(slots=True)
class _Buffers:
    """Inputs and in-between results of the largest batch; smaller ones take the first rows."""

    tokens: Tensor
    positions: Tensor
    tables: Tensor
    scaled: Tensor | None
    residual: Tensor
    normed: Tensor
    q: Tensor
    mixed: Tensor
    inner: Tensor
    room: Tensor
    head_room: Tensor
    splits: dict[int, SplitBuffers] = field(default_factory=dict)


class CudaFusedDecoder:
    """One model over one cache.

    Make it by `of`, and call `bind_weights` whenever modules of the model may have been exchanged.
    graphs: False runs every step kernel by kernel: the same numbers, more slowly.
    """

    takes_chunks = False  # a chunk's attention has a kernel of its own

    def __init__(
        self,
        model: Decoder,
        cache: KVCache,
        *,
        both_settings: bool = False,
        max_rows: int = BUCKETS[-1],
        graphs: bool = True,
    ):
        self._model, self._cache, self._both, self._graphs = model, cache, both_settings, graphs
        self.max_rows = next((size for size in BUCKETS if size >= max_rows), BUCKETS[-1])
        self._layers: list[LayerWeights] = []
        self._head: Weights | None = None
        self._buffers: _Buffers | None = None
        self._places: list[tuple[int, int]] = []
        self._steps: dict[int, _Step] = {}
        self._tilings: dict[tuple[str, int], Tiling] = {}
        self._pool: Any = None

    @classmethod
    def of(
        cls, model: Decoder, cache: KVCache, *, both_settings: bool = False, max_rows: int = BUCKETS[-1]
    ) -> CudaFusedDecoder | None:
        """None on other devices, over a cache that keeps key biases out, and for families of another attention.

        Those are without biases on q, k and v, or with normalised heads.
        """
        config = model.config
        other = config.qk_norm or config.output_bias or not config.attention_bias
        if model.device.type != "cuda" or cache.offsets is not None or other:
            return None
        return cls(model, cache, both_settings=both_settings, max_rows=max_rows)

    def bind_weights(self) -> bool:
        """Re-read the weight pointers; False if some layer is neither plain nor quantized."""
        if self._head is not None and weight_places(self._model) == self._places:
            return True
        self._head = None
        self._steps.clear()
        with torch.inference_mode(False), torch.no_grad():  # views of what a trainer goes on to train
            layers, head = fuse_weights(self._model), head_weights(self._model)
        if layers is None or head is None:
            return False
        self._layers, self._head, self._places = layers, head, weight_places(self._model)
        return True

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        tables: Tensor,
        longest: int,
        scaled: Tensor | None,
        num_logits: int | None = None,
    ) -> Tensor:
        """Logits [N, V] in float32 of N <= max_rows tokens [N], valid until the next call; the cache gets their keys.

        positions [N], tables [N, W], scaled [N]: as `PagedAttention` takes them; longest: the largest position + 1.
        num_logits: only the first tokens' are wanted.
        """
        rows = len(tokens)
        size = next(bucket for bucket in BUCKETS if bucket >= rows)
        if self._buffers is None or self._buffers.tables.shape[1] < tables.shape[1]:
            self._steps.clear()
            self._buffers = self._make_buffers(tables.shape[1])
        self._fill(self._buffers, size, tokens, positions, tables, scaled)
        step = self._steps.get(size)
        if step is None:
            step = self._steps[size] = self._make_step(size)
            step.logits = self._run(step)  # compiles, and is this call's result
        elif not self._graphs or interpreted():
            step.logits = self._run(step)
        else:
            if step.graph is None:
                self._capture(step)
            assert step.graph is not None
            step.graph.replay()
        assert step.logits is not None
        return step.logits[: rows if num_logits is None else num_logits]

    def _fill(
        self, to: _Buffers, size: int, tokens: Tensor, positions: Tensor, tables: Tensor, scaled: Tensor | None
    ) -> None:
        rows = len(tokens)
        to.tokens[:rows].copy_(tokens)
        to.positions[:rows].copy_(positions)
        to.tables[:rows, : tables.shape[1]].copy_(tables)
        if to.scaled is not None and scaled is not None:
            to.scaled[:rows].copy_(scaled)
        if rows < size:
            to.positions[rows:size].fill_(-1)

    def _make_buffers(self, width: int) -> _Buffers:
        config, device, dtype = self._model.config, self._model.device, self._model.dtype
        rows, dim, heads = self.max_rows, config.head_dim, config.num_attention_heads
        widest = max(2 * config.intermediate_size, (heads + 2 * config.num_key_value_heads) * dim, config.hidden_size)

        def make(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return _Buffers(
            tokens=make(rows, dtype=torch.int64),
            positions=make(rows, dtype=torch.int64),
            tables=make(rows, width, dtype=torch.int32),
            scaled=make(rows, dtype=torch.bool) if self._both else None,
            residual=make(rows, config.hidden_size, dtype=torch.float32),
            normed=make(rows, config.hidden_size),
            q=make(rows, heads, dim),
            mixed=make(rows, heads * dim),
            inner=make(rows, config.intermediate_size),
            room=make(max(rows, MOST_SPLIT_ROWS) * widest, dtype=torch.float32),
            head_room=make(max(rows, MOST_SPLIT_ROWS) * config.vocab_size, dtype=torch.float32),
        )

    def _make_step(self, size: int) -> _Step:
        assert self._buffers is not None and self._head is not None
        config, device = self._model.config, self._model.device
        splits = num_splits(size * config.num_key_value_heads)
        slots = size * config.num_attention_heads * splits if splits > 1 else 1
        self._buffers.splits[size] = SplitBuffers(slots, config.head_dim, device)
        names = ("qkv", "output", "gate_up", "down")
        layers = {name: [getattr(layer, name) for layer in self._layers] for name in names} | {"head": [self._head]}
        return _Step(size, splits, {name: self._tiling(name, own, size) for name, own in layers.items()})

    def _tiling(self, name: str, layers: list[Weights], size: int) -> Tiling:
        """The quickest one for the class of batch sizes, measured once."""
        rows = next((tile for tile in TILE_ROWS if tile >= size), TILE_ROWS[-1])
        if layers[0].layout == "dense" and size > TILE_ROWS[-2]:
            return Tiling("library")
        if interpreted():
            return default_tiling(layers[0], size)
        if (name, rows) not in self._tilings:
            assert self._buffers is not None
            x = torch.randn(rows, layers[0].shape[1], dtype=torch.float32, device=self._model.device)
            room = self._buffers.head_room if name == "head" else self._buffers.room
            self._tilings[name, rows] = choose_tiling(name, layers, x.to(self._model.dtype), room)
        return self._tilings[name, rows]

    def _capture(self, step: _Step) -> None:
        started, before = time.perf_counter(), torch.cuda.memory_reserved()
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            step.logits = self._run(step)
        step.graph = graph
        taken = (torch.cuda.memory_reserved() - before) / 2**20
        logger.info("captured %d rows in %.2f s, %.0f MiB", step.rows, time.perf_counter() - started, taken)

    def _run(self, step: _Step) -> Tensor:
        """One pass over the first rows of the buffers; logits [M, V]."""
        model, buffers, rows = self._model, self._buffers, step.rows
        assert buffers is not None and self._head is not None
        decoder, eps = model.model, model.config.rms_norm_eps
        residual, normed, inner = buffers.residual[:rows], buffers.normed[:rows], buffers.inner[:rows]
        residual.copy_(decoder.embed_tokens.weight.index_select(0, buffers.tokens[:rows]))
        scaled = None if buffers.scaled is None else buffers.scaled[:rows]
        rotary = decoder.rotary(buffers.positions[:rows], torch.float32, scaled)
        parts: Tensor | None = None
        for number, layer in enumerate(self._layers):
            add_norm(residual, parts, layer.input_norm, eps, normed)
            parts = self._product(step, "qkv", layer.qkv, normed)
            parts = self._attend(step, number, layer, parts, rotary)
            add_norm(residual, parts, layer.post_norm, eps, normed)
            parts = self._product(step, "gate_up", layer.gate_up, normed)
            gate(parts, model.config.swish_beta, inner)
            parts = self._product(step, "down", layer.down, inner)
        add_norm(residual, parts, decoder.norm.weight, eps, normed)
        logits = self._product(step, "head", self._head, normed)
        return logits[0] if len(logits) == 1 and logits.dtype == torch.float32 else logits.float().sum(0)

    def _attend(
        self, step: _Step, number: int, layer: LayerWeights, parts: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The output projection's splits, from those of queries, keys and values."""
        buffers, rows = self._buffers, step.rows
        assert buffers is not None
        tables, positions = buffers.tables[:rows], buffers.positions[:rows]
        q, mixed = buffers.q[:rows], buffers.mixed[:rows]
        store = self._cache.layer(number)
        turn_and_store(parts, layer.bias, rotary, q, store, tables, positions)
        own = buffers.splits[rows]
        attend_rows(store, q, tables, positions, splits=step.splits, out=mixed, buffers=own)
        return self._product(step, "output", layer.output, mixed)

    def _product(self, step: _Step, name: str, weights: Weights, x: Tensor) -> Tensor:
        """[S, M, N], in a buffer that the next product overwrites."""
        assert self._buffers is not None
        room = self._buffers.head_room if name == "head" else self._buffers.room
        out = output_of(step.tilings[name], room, step.rows, weights.shape[0], x.dtype)
        multiply(x, weights, out, step.tilings[name])
        return out
