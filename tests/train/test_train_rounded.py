"""Rollouts of rounded weights and caches, and sources with group sizes and weights of their own."""

from dataclasses import replace

import pytest
import torch

from openqwq.config import CorrectionConfig, LoRAConfig, check_algorithm
from openqwq.errors import UserError
from openqwq.inference import Engine, QuantizedEngine
from openqwq.model import quantize_weights, weight_checksum
from openqwq.pipeline.stages import make_policy
from openqwq.train.learner import Learner
from openqwq.train.packing import rollout_sample
from openqwq.types import Prompt, SamplingParams

CORRECTED = CorrectionConfig(mode="truncate")
ROUNDED = [
    {"rollout_quantization": "bf16"},
    {"rollout_quantization": "int8"},
    {"rollout_quantization": "int4"},
    {"rollout_kv_cache_dtype": "int8"},
    {"rollout_kv_cache_dtype": "bfloat16", "rollout_quantization": "int8", "top_k": 5},
]


@pytest.mark.parametrize("fields", ROUNDED, ids=lambda fields: " ".join(map(str, fields.values())))
def test_rounded_rollouts_differ_a_little_and_are_corrected(world, tmp_path, fields):
    model = world.model()
    stage = world.stage(reward="random", correction=CORRECTED, **fields)
    policy = make_policy(stage, model, world.engine(model))
    world.train_rl(tmp_path, stage, model=model, engine=policy)
    rows = [row for row in world.rows(tmp_path) if row["updates"]]
    assert len(rows) >= 2
    assert all(1e-5 < row["mismatch_max"] < 1 for row in rows)
    assert all(row["clip_share"] == 0 and 1e-7 < abs(row["importance_mean"] - 1) < 0.1 for row in rows)


def test_without_rounding_the_policy_is_the_engine_itself(world):
    model = world.model()
    engine = world.engine(model)
    assert make_policy(world.stage(), model, engine) is engine


def test_a_rounded_engine_follows_the_trained_weights_and_names_them(world):
    model = world.model()
    engine = QuantizedEngine(model, world.HexTokenizer(), kind="int8", max_num_seqs=8)
    params = SamplingParams(n=4, temperature=1.0, top_p=1.0, top_k=0, max_tokens=6, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    engine.load_weights(model, version=7)
    other = world.model(seed=0)
    other.load_state_dict(model.state_dict())
    quantize_weights(other, "int8")
    expected = Engine(other, world.HexTokenizer(), max_num_seqs=8).generate([Prompt((1, 2))], params)
    (found,) = engine.generate([Prompt((1, 2))], params)
    assert [c.token_ids for c in found] == [c.token_ids for c in expected[0]]
    assert [c.logprobs for c in found] == [c.logprobs for c in expected[0]]
    assert found[0].weight_checksums == {7: weight_checksum(model)}
    with pytest.raises(ValueError, match="model"):
        engine.load_weights(model.state_dict())


def test_quantised_copy_includes_lora_adapters(world, tmp_path):
    model = world.model()
    stage = world.stage(
        reward="random", correction=CORRECTED, rollout_quantization="int8", lora=LoRAConfig(rank=2), learning_rate=0.1
    )
    world.train_rl(tmp_path, stage, model=model, engine=make_policy(stage, model, world.engine(model)))
    rows = [row for row in world.rows(tmp_path) if row["updates"]]
    assert all(row["mismatch_max"] < 0.5 for row in rows)
    assert len({row["weight_checksum"] for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rollout_quantization": "int8"}, "correction"),
        ({"rollout_kv_cache_dtype": "int8"}, "correction"),
        ({"rollout_quantization": "int8", "correction": CORRECTED, "batch_invariant": "on"}, "batch_invariant"),
        ({"source_samples_per_prompt": {"low": 1}}, "source_samples_per_prompt"),
    ],
)
def test_incompatible_rollout_settings_are_rejected(world, fields, message):
    with pytest.raises(UserError, match=message):
        check_algorithm(world.stage(**fields), "a test")


@pytest.mark.parametrize("bound", [0, 2])
def test_each_source_has_its_own_group_size(world, tmp_path, bound):
    stage = world.stage(source_samples_per_prompt={"high": 3}, max_staleness=bound, correction=CORRECTED, max_refills=0)
    world.train_rl(tmp_path, stage)
    for row in world.rows(tmp_path):
        # two problems of each source a step
        assert {name: own["rollouts"] for name, own in row["sources"].items()} == {"low": 16, "high": 6}


def test_a_sources_weight_multiplies_its_whole_loss(world, tmp_path):
    model = world.model()
    stage = world.stage(reward="random", source_weights={"low": 0.0, "high": 3.0})
    experience = world.collector(tmp_path, stage, world.engine(model)).collect(0)

    def gradient(stage, keep=("low", "high")):
        class Run:
            def __init__(self):
                self.model, self.values, self.tensors, self.steps = model, {}, {}, 3
                self.ctx = world.context(tmp_path, "rl")

        learner = Learner(stage, Run(), world.HexTokenizer())
        groups = learner.samples(experience.useful_groups)
        names = [group[0].rollout.problem.source for group in experience.useful_groups]
        model.zero_grad()
        from openqwq.train.algorithm.objective import policy_objective
        from openqwq.train.optim.update import accumulate

        samples = [
            s if name in keep else replace(s, weight=0.0)
            for group, name in zip(groups, names, strict=True)
            for s in group
        ]
        accumulate(model, learner._packed(samples), lambda *args: policy_objective(stage, *args))
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    weighted = gradient(stage)
    plain = gradient(replace(stage, source_weights={}), keep=("high",))
    assert float(plain.abs().max()) > 1e-4
    torch.testing.assert_close(weighted, 3 * plain, atol=1e-7, rtol=1e-5)


def test_loss_weight_is_stored_on_each_sample(world, tmp_path):
    attempt = world.collector(tmp_path, world.stage(), world.engine(world.model())).collect(0).attempts[0]
    assert rollout_sample(attempt.rollout, 1.0, weight=0.5).weight == 0.5
