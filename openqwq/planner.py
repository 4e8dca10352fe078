"""How much memory a model takes to run or to train, part by part: from its config alone, no weight is loaded.

The sums are those of the code that allocates: packed layers as kernels/layouts.py lays them out, the KV cache by
`KVCache.bytes_per_token`, activations as the decoder's operators keep them, the optimiser's state as train/optim has
it. docs/memory.md has the formulas and what was measured.

Public: Job, Part, Plan, check_job, make_plan, largest_context, changes_that_fit, tokens_per_second,
measure_bandwidth, linear_shapes, packed_bytes.
Letters: L layers, h hidden size, f intermediate size, H heads, K kv heads, D head dim, V vocabulary, T tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch

from openqwq.errors import UserError
from openqwq.inference.cache.memory import BLOCK_SIZE, storage_dtype
from openqwq.kernels.layouts import BLOCK, PANEL, Quantization
from openqwq.model import CpuFusedDecoder, DecoderConfig, KVCache
from openqwq.model.fused.cpu import ANGLE_STEP

Training = Literal["full", "lora", "qlora"]
Checkpointing = Literal["none", "mlp", "layer"]

FP32 = 4
GROUP_SIZE = 64  # of int4 weights that are rounded as they are read
ADAM_MOMENTS = 2
LOGITS_CHUNK = {"cpu": 2**19, "cuda": 2**26}  # train/optim/logprobs.py's
LEAST_CHUNK_TOKENS = 256
PROCESS_BYTES = {"cpu": 300 * 2**20, "cuda": 512 * 2**20}  # Python with PyTorch; a CUDA context: 107 to 555 MiB
MOST_CHANGES = 6
SHORT_CHUNK = 1024  # tokens of a pass that hardly slows prefill
TABLE_ENTRY = 4  # bytes of a block's number
MARGIN = 0.02  # what allocators round up and leave unused


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be done with a model.

    context:      tokens of a sequence, prompt and completion; in training of a micro-batch, packed.
    max_num_seqs: sequences that the KV cache holds whole.
    chunk:        tokens of one prefill pass.
    dtype:        of weights that are not packed, and of activations.
    train:        "qlora" is a frozen int4 base below float32 adapters.
    """

    context: int
    max_num_seqs: int = 1
    chunk: int = 8192
    device: Literal["cpu", "cuda"] = "cuda"
    dtype: torch.dtype = torch.bfloat16
    quantization: Quantization | None = None
    kv_cache_dtype: str = "auto"
    train: Training | None = None
    lora_rank: int = 16
    checkpointing: Checkpointing = "none"


@dataclass(frozen=True, slots=True)
class Part:
    """One row: what takes how many bytes, and why so many."""

    name: str
    num_bytes: int
    formula: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts of a job."""

    job: Job
    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        return sum(part.num_bytes for part in self.parts)

    def bytes_of(self, *names: str) -> int:
        """Of the named parts together."""
        return sum(part.num_bytes for part in self.parts if part.name in names)


def make_plan(config: DecoderConfig, job: Job) -> Plan:
    """What the job takes. Raises UserError for a KV cache type that saves nothing or is none."""
    if job.train is not None:
        job = replace(job, dtype=torch.bfloat16 if job.train == "qlora" else torch.float32)
        job = replace(job, quantization="int4" if job.train == "qlora" else None)
        config = config.replace(quantization_config=None)  # packed layers are widened to be trained
    parts = list(_weights(config, job))
    if job.train is not None:
        parts += _training(config, job)
    if job.max_num_seqs:
        parts.append(_kv_cache(config, job))
    if job.train is None:
        parts += _inference(config, job)
    what = "Python and PyTorch" if job.device == "cpu" else "CUDA context and kernels"
    parts.append(Part("process", PROCESS_BYTES[job.device], f"{what}, an estimate"))
    margin = int(MARGIN * sum(part.num_bytes for part in parts))
    return Plan(job, (*parts, Part("margin", margin, f"{MARGIN:.0%}: what allocators round up")))


def largest_context(config: DecoderConfig, job: Job, memory: int) -> int:
    """The most tokens of `context`, up to the model's positions, with which the job fits; 0: none."""
    low, high = 0, config.max_context
    while low < high:
        middle = (low + high + 1) // 2
        if make_plan(config, replace(job, context=middle)).total <= memory:
            low = middle
        else:
            high = middle - 1
    return low


def changes_that_fit(config: DecoderConfig, job: Job, memory: int) -> list[tuple[tuple[str, ...], Plan]]:
    """Single changes of the job after which it fits, the one that costs least first; where none does, pairs."""
    single = [((text,), changed) for text, changed in _changes(config, job, memory)]
    pairs = (
        ((*texts, text), twice)
        for texts, changed in single
        for text, twice in _changes(config, changed, memory)
        if text.partition(":")[0] not in texts[0]
    )
    for candidates in (single, pairs):
        tried = ((texts, make_plan(config, changed)) for texts, changed in candidates)
        found = {frozenset(texts): (texts, plan) for texts, plan in tried if plan.total <= memory}
        if found:
            return list(found.values())[:MOST_CHANGES]
    return []


def tokens_per_second(config: DecoderConfig, plan: Plan, bandwidth: float) -> float:
    """At most so many tokens a second of one sequence at the full context: each reads all weights and its keys.

    bandwidth: bytes a second.
    """
    read = plan.bytes_of("linear layers", "head", "norms and biases") + plan.job.context * _token_bytes(
        config, plan.job
    )
    if config.tie_word_embeddings and plan.job.quantization is None:
        read += plan.bytes_of("embedding")
    return bandwidth / read


def measure_bandwidth(device: Literal["cpu", "cuda"]) -> float:
    """Bytes a second that this machine reads: the best of five sums over 256 MiB, more than any cache holds."""
    numbers = torch.ones(2**26, device=device)
    best = float("inf")
    for _ in range(5):
        _wait(device)
        started = time.perf_counter()
        numbers.sum()
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return numbers.numel() * numbers.element_size() / best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def linear_shapes(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of each linear layer of one decoder layer."""
    h, f = config.hidden_size, config.intermediate_size
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    own = {"q_proj": (q, h), "k_proj": (kv, h), "v_proj": (kv, h), "o_proj": (h, q)}
    return own | {"gate_proj": (f, h), "up_proj": (f, h), "down_proj": (h, f)}


def packed_bytes(shape: tuple[int, int], kind: Quantization, group_size: int = GROUP_SIZE) -> int:
    """Of one `PackedLinear` without its bias: codes, scales and zeros, padded to panels and blocks."""
    outputs, blocks = -(-shape[0] // PANEL) * PANEL, -(-shape[1] // BLOCK)
    codes = outputs * blocks * BLOCK
    if kind == "bf16":
        return 2 * codes
    if kind == "int8":
        return codes + FP32 * outputs
    groups = BLOCK // min(group_size, BLOCK) if group_size > 0 else 1
    return codes // 2 + outputs * blocks * groups * (FP32 + 1)


def _linears(config: DecoderConfig, job: Job) -> tuple[int, str]:
    """Bytes of all linear layers of the decoder layers, and how they are kept."""
    shapes, stored = linear_shapes(config).values(), config.quantization_config
    layers = config.num_hidden_layers
    if stored is not None:
        size = sum(packed_bytes(shape, "int4", stored.group_size) for shape in shapes)
        order = sum(8 * shape[1] for shape in shapes) if stored.desc_act else 0
        groups = "whole channels" if stored.group_size < 0 else f"groups of {stored.group_size}"
        return layers * (size + order), f"{stored.method} in {groups}"
    if job.quantization is not None:
        return layers * sum(packed_bytes(shape, job.quantization) for shape in shapes), _kind(job.quantization)
    return layers * sum(n * k for n, k in shapes) * job.dtype.itemsize, _name(job.dtype)


def _weights(config: DecoderConfig, job: Job) -> Iterator[Part]:
    h, layers, size = config.hidden_size, config.num_hidden_layers, job.dtype.itemsize
    count = layers * sum(n * k for n, k in linear_shapes(config).values())
    num_bytes, kept = _linears(config, job)
    yield Part("linear layers", num_bytes, f"{count:,} x {8 * num_bytes / count:.2f} bits: {kept}")
    table = config.vocab_size * h
    yield Part("embedding", table * size, f"V x h = {config.vocab_size:,} x {h:,} in {_name(job.dtype)}")
    if job.quantization is not None:
        head = packed_bytes((config.vocab_size, h), job.quantization)
        own = "a packed copy of the embedding" if config.tie_word_embeddings else "V x h"
        yield Part("head", head, f"{own}, {_kind(job.quantization)}")
    else:
        tied = config.tie_word_embeddings
        yield Part("head", 0 if tied else table * size, "the embedding" if tied else f"V x h in {_name(job.dtype)}")
    small = _small_parameters(config)
    yield Part("norms and biases", small * size, f"{small:,} in {_name(job.dtype)}")


def _small_parameters(config: DecoderConfig) -> int:
    """Norms and biases."""
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    of_layer = 2 * config.hidden_size + (q + 2 * kv) * config.attention_bias
    of_layer += config.hidden_size * config.output_bias + 2 * config.head_dim * config.qk_norm
    return config.num_hidden_layers * of_layer + config.hidden_size


def _token_bytes(config: DecoderConfig, job: Job) -> int:
    return KVCache.bytes_per_token(config, storage_dtype(job.kv_cache_dtype, job.dtype))


def _kv_cache(config: DecoderConfig, job: Job) -> Part:
    """Of `max_num_seqs` sequences of the whole context, in blocks."""
    tokens = job.max_num_seqs * -(-job.context // BLOCK_SIZE) * BLOCK_SIZE
    token, kept = _token_bytes(config, job), _name(storage_dtype(job.kv_cache_dtype, job.dtype))
    return Part("KV cache", tokens * token, f"{tokens:,} tokens x {token:,} B: {kept}")


def _inference(config: DecoderConfig, job: Job) -> Iterator[Part]:
    """What one pass holds besides weights and cache: a prefill chunk, and the logits of the rows."""
    h, f, D = config.hidden_size, config.intermediate_size, config.head_dim
    q, kv = config.num_attention_heads * D, config.num_key_value_heads * D
    chunk, size = min(job.chunk, job.context), job.dtype.itemsize
    rounds = storage_dtype(job.kv_cache_dtype, job.dtype) != job.dtype
    if job.device == "cpu" and job.dtype == torch.float32 and not rounds:  # model/fused/cpu.py
        rows = min(chunk, CpuFusedDecoder.max_rows)
        per_row = 2 * (h + kv + max(f, q)) + q
        yield Part("prefill", rows * per_row * FP32, f"{rows:,} rows x (2 (h + KD + max(f, HD)) + HD) float32")
        angles = -(-job.context // ANGLE_STEP) * ANGLE_STEP * 2 * D * FP32
        tables = chunk * -(-job.context // BLOCK_SIZE) * TABLE_ENTRY
        text = f"2 D float32 a position; {chunk:,} tokens x {-(-job.context // BLOCK_SIZE):,} blocks x {TABLE_ENTRY} B"
        yield Part("angles, tables", angles + tables, text)
    else:
        per_token = 2 * h + max(4 * f, 4 * q + 4 * kv)
        yield Part("prefill", chunk * per_token * size, f"{chunk:,} tokens x (2h + max(4f, 4HD + 4KD)), one layer's")
        seen = job.context * 2 * kv * max(size, FP32 if rounds else size)
        yield Part("keys read", seen, f"one layer's keys and values of {job.context:,} tokens, side by side")
    rows = -(-job.max_num_seqs // PANEL) * PANEL
    yield Part("logits", 2 * rows * config.vocab_size * FP32, f"2 x {rows} rows x V in float32, in eights")


def _training(config: DecoderConfig, job: Job) -> Iterator[Part]:
    """Gradients, AdamW's moments, activations of a micro-batch, and the head's chunk."""
    shapes = linear_shapes(config)
    if job.train == "full":
        trained = sum(n * k for n, k in shapes.values()) * config.num_hidden_layers + _small_parameters(config)
        trained += config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    else:
        trained = job.lora_rank * sum(n + k for n, k in shapes.values()) * config.num_hidden_layers
        yield Part("adapters", trained * FP32, f"rank {job.lora_rank} on every linear layer, {trained:,} in float32")
    yield Part("gradients", trained * FP32, f"{trained:,} trained x 4 B")
    yield Part("optimiser", ADAM_MOMENTS * trained * FP32, "AdamW's two moments, float32; the weights are the masters")
    yield _activations(config, job)
    yield _head_chunk(config, job)


def _activations(config: DecoderConfig, job: Job) -> Part:
    """What forward keeps for backward (train/optim/activations.py).

    A layer keeps, of each token: its input and the sum behind attention (2h), both norms' outputs (2h), and without
    frozen weights what they were before their weights (2h); q, k, v and attention's output; the MLP's gate, silu(gate),
    up and their product (4f). Norms of queries and keys keep what they get and, where they are trained, what it was
    before their weights.
    """
    h, f, D = config.hidden_size, config.intermediate_size, config.head_dim
    q, kv = config.num_attention_heads * D, config.num_key_value_heads * D
    frozen = job.train != "full"
    around = (4 if frozen else 6) * h + 2 * (q + kv) + (2 - frozen) * (q + kv) * config.qk_norm
    adapters = 0 if not frozen else len(linear_shapes(config)) * job.lora_rank
    whole, layers = around + 4 * f + adapters, config.num_hidden_layers
    per_token, text = {
        "none": (layers * whole, "L x (6h + 2HD + 2KD + 4f)"),
        "mlp": (layers * (around + adapters) + 4 * f, "L x (6h + 2HD + 2KD) + 4f"),
        "layer": (layers * h + whole, "L x h + one layer's 6h + 2HD + 2KD + 4f"),
    }[job.checkpointing]
    text = text.replace("6h", "4h") if frozen else text
    per_token += 4 * h + 2 * D  # of the last norm and what the head gets of it; cosines and sines
    size = job.context * per_token * job.dtype.itemsize
    return Part("activations", size, f"{job.context:,} tokens x ({text} + 4h), {_name(job.dtype)}")


def _head_chunk(config: DecoderConfig, job: Job) -> Part:
    """Logits exist chunk by chunk; the head's gradient is summed apart, frozen or not."""
    rows = max(LEAST_CHUNK_TOKENS, LOGITS_CHUNK[job.device] // config.vocab_size)
    rows = min(rows, job.context)
    table = config.vocab_size * config.hidden_size * FP32
    num_bytes = table + rows * config.vocab_size * FP32
    return Part("head's gradient", num_bytes, f"V x h float32, and {rows:,} rows of logits")


def _changes(config: DecoderConfig, job: Job, memory: int) -> Iterator[tuple[str, Job]]:
    """Single changes, the one that costs least first: time, then rounding, then length."""
    if job.train is not None:
        order: tuple[Checkpointing, ...] = ("none", "mlp", "layer")
        for kind in order[order.index(job.checkpointing) + 1 :]:
            yield f"`--activation-checkpointing {kind}`: time for memory", replace(job, checkpointing=kind)
    if job.max_num_seqs > 1:
        fewer = job.max_num_seqs - 1
        while fewer > 1 and make_plan(config, replace(job, max_num_seqs=fewer)).total > memory:
            fewer -= max(fewer // 16, 1)
        yield f"`--max-num-seqs {fewer}`: fewer at once", replace(job, max_num_seqs=fewer)
    if job.train is None and job.chunk > SHORT_CHUNK:
        text = f"`--max-num-batched-tokens {SHORT_CHUNK}`: prefill in shorter passes"
        yield text, replace(job, chunk=SHORT_CHUNK)
    if job.train is None and job.kv_cache_dtype == "auto":
        yield "`--kv-cache-dtype int8`: a little rounding", replace(job, kv_cache_dtype="int8")
    if job.train is None and config.quantization_config is None:
        yield from (
            (f"`--quantization {kind}`: {cost}", replace(job, quantization=kind))
            for kind, cost, bits in _ROUNDINGS
            if bits < _bits(job)
        )
    if job.train == "full":
        yield "`--train lora`: adapters only", replace(job, train="lora")
    if (fitting := largest_context(config, job, memory)) and fitting < job.context:
        what = "tokens of a micro-batch" if job.train else "tokens of context"
        yield f"`--context {fitting}`: fewer {what}", replace(job, context=fitting)


_ROUNDINGS: tuple[tuple[Quantization, str, int], ...] = (
    ("bf16", "hardly any rounding", 16),
    ("int8", "a little rounding", 8),
    ("int4", "rounding that can be measured", 4),
)


def _bits(job: Job) -> int:
    kept = {kind: bits for kind, _, bits in _ROUNDINGS}
    return 8 * job.dtype.itemsize if job.quantization is None else kept[job.quantization]


def _kind(kind: Quantization) -> str:
    return {"bf16": "bf16", "int8": "int8, a scale a channel", "int4": f"int4 in groups of {GROUP_SIZE}"}[kind]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_job(config: DecoderConfig, job: Job) -> None:
    """Raises UserError for sizes that no run can have."""
    for name in ("context", "chunk", "lora_rank"):
        if getattr(job, name) < 1:
            raise UserError(f"`{name}` is {getattr(job, name)}, but must be at least 1")
    if job.max_num_seqs < (0 if job.train else 1):
        raise UserError(f"`max_num_seqs` is {job.max_num_seqs}, but must be at least 1")
    storage_dtype(job.kv_cache_dtype, job.dtype)
