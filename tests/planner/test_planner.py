"""The planner's sums: by hand, against published figures of QwQ-32B, and against the tensors that real runs hold."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from openqwq.config import SFTStage
from openqwq.errors import UserError
from openqwq.inference.engine import Engine
from openqwq.kernels.cpu.library import library
from openqwq.model import DecoderConfig, create_model, preset, quantize_weights
from openqwq.model.config import PublishedFormat
from openqwq.model.lora import add_lora
from openqwq.planner import Job, changes_that_fit, largest_context, make_plan, packed_bytes, tokens_per_second
from openqwq.train.optim.activations import recomputed_activations
from openqwq.train.optim.optimizer import build_optimizer
from openqwq.train.optim.update import next_token_objective, update
from openqwq.train.packing import Sample, pack
from openqwq.types import SamplingParams

GIB = 2**30
QWQ = preset("qwq-32b")
SMALL = DecoderConfig(
    vocab_size=2048,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
QWEN3 = SMALL.replace(model_type="qwen3", attention_bias=False, qk_norm=True, tie_word_embeddings=False, head_dim=128)
ON_CPU = {"device": "cpu", "dtype": torch.float32}
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def parts_of(config, **job):
    return {part.name: part.num_bytes for part in make_plan(config, Job(**job)).parts}


def test_weights_of_qwq_in_bfloat16_are_the_published_65_5_gb():
    parts = parts_of(QWQ, context=1)
    assert parts["linear layers"] == 2 * 31_205_621_760
    assert parts["embedding"] == parts["head"] == 2 * 778_567_680
    assert parts["norms and biases"] == 2 * (660_480 + 458_752)


@pytest.mark.parametrize(("group_size", "gb"), [(64, 18.04), (128, 16.82)])
def test_int4_weights_of_qwq_count_scales_and_zeros(group_size, gb):
    """A group costs a float32 scale and a zero of one byte: 4 + 40/64 and 4 + 40/128 bits a weight."""
    config = QWQ.replace(quantization_config=PublishedFormat(method="awq", group_size=group_size))
    assert parts_of(config, context=1)["linear layers"] == 31_205_621_760 * (4 + 40 / group_size) / 8
    assert parts_of(config, context=1)["linear layers"] / 1e9 == pytest.approx(gb, abs=0.005)


@pytest.mark.parametrize(
    ("kept", "tokens", "gib"),
    [("auto", 8192, 2.0), ("auto", 32768, 8.0), ("int8", 8192, 1.03), ("int8", 16384, 2.06)],
)
def test_kv_cache_of_qwq_is_as_published(kept, tokens, gib):
    assert parts_of(QWQ, context=tokens, kv_cache_dtype=kept)["KV cache"] / GIB == pytest.approx(gib, abs=0.005)


def test_training_all_of_qwq_takes_16_bytes_a_parameter():
    parts = parts_of(QWQ, context=1, train="full", max_num_seqs=0)
    weights = sum(parts[name] for name in ("linear layers", "embedding", "head", "norms and biases"))
    assert weights == parts["gradients"] == 4 * 32_763_876_352
    assert parts["optimiser"] == 8 * 32_763_876_352
    assert "KV cache" not in parts


def test_rank_16_adapters_of_qwq_are_134_million_parameters():
    parts = parts_of(QWQ, context=1, train="lora", max_num_seqs=0)
    assert parts["adapters"] == parts["gradients"] == 4 * 134_217_728


def test_parts_of_a_small_model_by_hand():
    """4 layers of 256, 768, 4 heads and 2 kv heads of 64; 32 tokens in float32 on a CPU."""
    parts = parts_of(SMALL, context=32, **ON_CPU)
    layer = 256 * 256 + 2 * 128 * 256 + 256 * 256 + 3 * 256 * 768
    assert parts["linear layers"] == 4 * 4 * layer
    assert (parts["embedding"], parts["head"]) == (4 * 2048 * 256, 0)
    assert parts["norms and biases"] == 4 * (4 * (2 * 256 + 256 + 2 * 128) + 256)
    assert parts["KV cache"] == 32 * 2 * 4 * 2 * 64 * 4
    assert parts["prefill"] == 32 * (2 * (256 + 128 + 768) + 256) * 4
    assert parts["angles, tables"] == 1024 * 2 * 64 * 4 + 32 * 2 * 4
    assert parts["logits"] == 2 * 8 * 2048 * 4


def test_packed_layers_count_their_padding():
    """10 outputs are 16, 130 inputs are 256: two panels of eight, two blocks of 128."""
    assert packed_bytes((10, 130), "bf16") == 2 * 16 * 256
    assert packed_bytes((10, 130), "int8") == 16 * 256 + 16 * 4
    assert packed_bytes((10, 130), "int4") == 16 * 256 // 2 + 16 * 2 * 2 * 5
    assert packed_bytes((10, 130), "int4", -1) == 16 * 256 // 2 + 16 * 2 * 5


def test_largest_context_fits_and_one_more_token_does_not():
    job = Job(context=8192, quantization="int4", chunk=1024)
    most = largest_context(QWQ, job, 24 * GIB)
    assert 1 < most < QWQ.max_context
    assert make_plan(QWQ, Job(context=most, quantization="int4", chunk=1024)).total <= 24 * GIB
    assert make_plan(QWQ, Job(context=most + 1, quantization="int4", chunk=1024)).total > 24 * GIB


def test_context_is_not_longer_than_the_model():
    assert largest_context(SMALL, Job(context=1), 1 << 40) == SMALL.max_context


def test_no_context_fits_where_the_weights_do_not():
    assert largest_context(QWQ, Job(context=1), 24 * GIB) == 0


def test_changes_make_it_fit_the_gentlest_first():
    memory = make_plan(SMALL, Job(context=32768, max_num_seqs=4)).total - 2**20
    changes = changes_that_fit(SMALL, Job(context=32768, max_num_seqs=4), memory)
    assert changes[0][0] == ("`--max-num-seqs 3`: fewer at once",)
    assert any("kv-cache-dtype int8" in texts[0] for texts, _ in changes)
    assert all(plan.total <= memory for _, plan in changes)


def test_two_changes_are_named_where_one_is_not_enough():
    job = Job(context=32768)
    assert make_plan(QWQ, job).total > 24 * GIB
    changes = changes_that_fit(QWQ, job, 24 * GIB)
    assert changes
    assert all(len(texts) == 2 and plan.total <= 24 * GIB for texts, plan in changes)
    assert changes_that_fit(QWQ, job, GIB) == []


def test_a_fit_needs_no_change():
    job = Job(context=4096, train="full", max_num_seqs=0, checkpointing="layer")
    texts = [text for own, _ in changes_that_fit(SMALL, job, 1 << 40) for text in own]
    assert not [text for text in texts if "checkpointing" in text]


def test_speed_limit_counts_weights_and_keys_that_a_token_reads():
    """A tied head reads the embedding."""
    plan = make_plan(SMALL, Job(context=100, **ON_CPU))
    read = plan.bytes_of("linear layers", "embedding", "norms and biases") + 100 * 2 * 4 * 2 * 64 * 4
    assert tokens_per_second(SMALL, plan, 10.0 * read) == pytest.approx(10.0)


def test_a_cache_type_that_saves_nothing_is_an_error():
    with pytest.raises(UserError):
        make_plan(SMALL, Job(context=16, kv_cache_dtype="float32"))


class LiveStorages(TorchDispatchMode):
    """Counts the bytes of all storages that operators gave and that still live, and the most at once."""

    def __init__(self, tensors):
        super().__init__()
        self.now = self.peak = 0
        self._seen = {}
        for tensor in tensors:
            self._add(tensor)

    def _add(self, tensor):
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen or size == 0:
            return
        self._seen[key] = weakref.ref(storage, lambda _: self._gone(key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _gone(self, key, size):
        del self._seen[key]
        self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, torch.Tensor):
                self._add(value)
        return out


def tensors_of(plan):
    """What the plan says of tensors: all but the process and the margin."""
    return plan.total - plan.bytes_of("process", "margin")


@pytest.mark.parametrize("context", [256, 1024, 4096])
@pytest.mark.parametrize("kind", [None, "int8", "int4"])
def test_planned_peak_of_inference_is_within_5_percent_of_the_tensors_held(kind, context):
    if library() is None:
        pytest.skip("the C kernels are not available: PyTorch's operators hold other buffers")
    plan = make_plan(SMALL, Job(context=context, quantization=kind, **ON_CPU))
    model = create_model(SMALL, seed=0)
    if kind:
        quantize_weights(model, kind)
    with LiveStorages([*model.parameters(), *model.buffers()]) as held:
        kept = plan.bytes_of("KV cache")
        engine = Engine(model, max_num_seqs=1, max_model_len=context, kv_cache_memory=kept, eos_token_ids=[0])
        engine.run([list(range(1, 33)) * (context // 32 - 1)], SamplingParams(max_tokens=4))
    assert tensors_of(plan) == pytest.approx(held.peak, rel=0.05)


@pytest.mark.parametrize("config", [SMALL, QWEN3], ids=["qwen2 tied", "qwen3 untied"])
@pytest.mark.parametrize(
    ("train", "checkpointing"), [("full", "none"), ("full", "mlp"), ("full", "layer"), ("lora", "none")]
)
def test_planned_peak_of_training_is_within_5_percent_of_the_tensors_held(config, train, checkpointing):
    """An update of two micro-batches of 1,024 tokens, after one that made the optimiser's state."""
    if library() is None:
        pytest.skip("the C kernels are not available: PyTorch's operators keep other activations")
    job = Job(context=1024, max_num_seqs=0, device="cpu", train=train, lora_rank=8, checkpointing=checkpointing)
    model = create_model(config, seed=0)
    if train == "lora":
        add_lora(model, rank=8, alpha=16.0, targets=LORA_TARGETS, seed=0)
    optimizer = build_optimizer(model, SFTStage())
    samples = [Sample(token_ids=list(range(256)), loss_mask=[0] + [1] * 255)] * 8
    batches = pack(samples, [1 / 8] * 8, tokens_per_microbatch=1024)

    def step():
        with recomputed_activations(model, checkpointing):
            update(model, optimizer, batches, next_token_objective, learning_rate=1e-4, max_grad_norm=1.0)

    step()
    optimizer.zero_grad()
    moments = [value for part in optimizer.parts for state in part.state.values() for value in state.values()]
    with LiveStorages([*model.parameters(), *moments]) as held:
        step()
    assert tensors_of(make_plan(config, job)) == pytest.approx(held.peak, rel=0.05)
